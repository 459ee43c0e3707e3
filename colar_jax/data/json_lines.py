"""Problems in JSON Lines files: one object a line, with exactly the keys question, steps and answer."""

import gzip
import itertools
import json
import math
import reprlib
import zlib
from pathlib import Path

from colar_jax.data.problems import Problem
from colar_jax.errors import UserError

SUFFIXES = (".jsonl", ".jsonl.gz")
KEYS = ("question", "steps", "answer")
FORM = '{"question": "...", "steps": ["...", ...], "answer": "..."}'


def read_problems(path: Path, limit: int | None = None) -> list[Problem]:
    """The problems of a `.jsonl` or `.jsonl.gz` file (UTF-8), or the first `limit` of them: problem n is line n.

    Raises:
      UserError: if the name has another ending, the file cannot be read, or a line breaks the form. Names the file,
        the line, what is wrong with it and what is expected.
    """
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"{path}: a file of problems is JSON Lines and its name ends in {' or '.join(SUFFIXES)}")
    problems = []
    try:
        # Lines of bytes: text mode would fail on bad UTF-8 without a line number.
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
            for number, line in enumerate(itertools.islice(file, limit), start=1):
                problems.append(_parse_line(line, f"{path}:{number}"))
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}): is it whole, and is its ending right?") from error
    return problems


def find_split_file(folder: Path, split: str) -> Path:
    """The file `<split>.jsonl` or `<split>.jsonl.gz` of a folder.

    Raises:
      UserError: if the folder has neither of the two, or both.
    """
    wanted = [folder / f"{split}{suffix}" for suffix in SUFFIXES]
    present = [path for path in wanted if path.is_file()]
    if len(present) == 1:
        return present[0]
    if present:
        raise UserError(f"{folder} has both {wanted[0].name} and {wanted[1].name}: remove one")
    others = sorted(path.name for path in folder.iterdir() if path.name.endswith(SUFFIXES))
    raise UserError(f"{folder} has no {wanted[0].name} or {wanted[1].name}, only {', '.join(others) or 'other files'}")


def parse_problem(record: object) -> Problem:
    """A problem from a decoded JSON object. An answer may be a number; it is written as Python prints it.

    Raises:
      UserError: says which part is wrong and what it is; the caller knows where it stands.
    """
    if not isinstance(record, dict):
        raise UserError(f"{reprlib.repr(record)} is not an object")
    missing = [key for key in KEYS if key not in record]
    unexpected = sorted(record.keys() - set(KEYS))
    if missing or unexpected:
        faults = [f"key {key!r} is missing" for key in missing] + [f"key {key!r} is unexpected" for key in unexpected]
        raise UserError(", ".join(faults))
    question, steps, answer = (record[key] for key in KEYS)
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"question is {reprlib.repr(question)}, not a text with something in it")
    if not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
        raise UserError(f"steps is {reprlib.repr(steps)}, not a list of texts")
    if type(answer) is int or (type(answer) is float and math.isfinite(answer)):
        answer = str(answer)
    if not isinstance(answer, str) or not answer.strip():
        raise UserError(f"answer is {reprlib.repr(answer)}, not a text with something in it and not a number")
    return Problem(question, tuple(steps), answer)


def _parse_line(line: bytes, place: str) -> Problem:
    try:
        if not line.strip():
            raise UserError("the line is blank")
        return parse_problem(json.loads(line.strip()))
    except json.JSONDecodeError as error:
        fault = f"not JSON: {error.msg} (column {error.colno})"
    except UnicodeDecodeError as error:
        fault = f"not UTF-8: {error.reason} at byte {error.start}"
    except ValueError as error:
        fault = str(error)
    raise UserError(f"{place}: {fault}; expected {FORM}")
