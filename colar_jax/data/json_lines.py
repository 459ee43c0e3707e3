"""Problems in JSON Lines files: one object a line, with the keys question, steps and answer, or in GSM8K's own form."""

import codecs
import dataclasses
import gzip
import itertools
import json
import math
import reprlib
import sys
import zlib
from decimal import Decimal, InvalidOperation
from pathlib import Path

from colar_jax.data.problems import Problem
from colar_jax.errors import UserError

SUFFIXES = (".jsonl", ".jsonl.gz")
KEYS = ("question", "steps", "answer")
FORM = '{"question": "...", "steps": ["...", ...], "answer": "..."}'

# In GSM8K's own form the answer follows this mark, on a line of its own after the worked solution.
_GSM8K_MARK = "\n####"
_JSON_WHITE_SPACE = b" \t\r\n"
_GZIP = b"\x1f\x8b"
# UTF-32's comes first: it begins with UTF-16's.
_OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


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
                if number == 1:
                    line = _without_byte_order_mark(line, path)
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
    train = next((name for name in others if split == "val" and name.startswith("train.")), None)
    hint = f". Name {folder / train} itself, and a tenth of it is the validation set (data.held_out)" if train else ""
    raise UserError(
        f"{folder} has no {wanted[0].name} or {wanted[1].name}, only {', '.join(others) or 'other files'}{hint}"
    )


def parse_problem(record: object) -> Problem:
    """A problem from a decoded JSON object, in our form or GSM8K's own (`parse_gsm8k`).

    An answer may be a number; it is written as Python prints it.

    Raises:
      UserError: says which part is wrong and what it is; the caller knows where it stands.
    """
    if not isinstance(record, dict):
        raise UserError(f"{reprlib.repr(record)} is not an object")
    if record.keys() == {"question", "answer"} and isinstance(record["answer"], str) and "####" in record["answer"]:
        return parse_gsm8k(record["question"], record["answer"])
    missing = [key for key in KEYS if key not in record]
    unexpected = sorted(record.keys() - set(KEYS))
    if missing or unexpected:
        faults = [f"key {key!r} is missing" for key in missing]
        faults += [f"key {reprlib.repr(key)} is unexpected" for key in unexpected[:5]]
        raise UserError(", ".join(faults) + (f" and {len(unexpected) - 5} more" if len(unexpected) > 5 else ""))
    question, steps, answer = (record[key] for key in KEYS)
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"question is {reprlib.repr(question)}, not a text with something in it")
    if not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
        raise UserError(f"steps is {reprlib.repr(steps)}, not a list of texts")
    if type(answer) in (int, Decimal) or (type(answer) is float and math.isfinite(answer)):
        answer = str(answer)
    if not isinstance(answer, str) or not answer.strip():
        raise UserError(f"answer is {reprlib.repr(answer)}, not a text with something in it and not a number")
    _refuse_half_characters({"question": question, "a step": "".join(steps), "answer": answer})
    return Problem(question, tuple(steps), answer)


def parse_gsm8k(question: object, solution: str) -> Problem:
    """A problem in GSM8K's own form: each line of the solution is a step, `<<..>>` marks kept; `#### 18` ends it.

    Raises:
      UserError: no answer follows the last `####` at the start of a line, or more than one line, or as `parse_problem`.
    """
    text = solution.replace("\r\n", "\n").replace("\r", "\n")
    worked, mark, answer = f"\n{text}".rpartition(_GSM8K_MARK)
    if not mark:
        raise UserError(f"no final answer after '####' in {reprlib.repr(solution)}")
    if "\n" in answer.strip():
        raise UserError(f"more than a line after '####', where the answer alone stands: {reprlib.repr(answer.strip())}")
    steps = [line for line in worked.split("\n") if line.strip()]
    return parse_problem({"question": question, "steps": steps, "answer": answer.strip()})


def _parse_line(line: bytes, place: str) -> Problem:
    try:
        record = _decode(line.strip(_JSON_WHITE_SPACE))
        return dataclasses.replace(parse_problem(record), place=place)
    except json.JSONDecodeError as error:
        fault = f"not JSON: {error.msg} (column {error.colno})"
    except UnicodeDecodeError as error:
        fault = f"not UTF-8: {error.reason} at byte {error.start}"
    except RecursionError:
        fault = "lists or objects stand inside each other too deeply"
    except UserError as error:
        fault = str(error)
    raise UserError(f"{place}: {fault}; expected {FORM}")


def _decode(line: bytes) -> object:
    """What a line says, read strictly: a key stands once, and no number is more than Python can hold."""
    if not line:
        raise UserError("the line is blank")
    if b"\x00" in line:
        raise UserError("zero bytes, as in a damaged file or one that is UTF-16: restore it, or save it as UTF-8")
    text = line.decode()  # not by json, which guesses encodings, and lets half characters pass
    if "\r" in text:
        raise UserError("lines that end in a carriage return alone: save the file with line feeds")
    return json.loads(text, object_pairs_hook=_object, parse_int=_integer, parse_float=_fraction)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UserError(f"key {reprlib.repr(twice)} is there twice")
    return record


def _integer(digits: str) -> int:
    most = sys.get_int_max_str_digits()
    if 0 < most < len(digits):
        raise UserError(f"a number of {len(digits)} digits: write it as a text")
    return int(digits)


def _fraction(text: str) -> float | Decimal:
    """A float where it is that number as it prints, or else the number itself: an answer is never rounded."""
    try:
        exact = Decimal(text)
    except InvalidOperation:
        raise UserError(f"the number {reprlib.repr(text)}: write it as a text") from None
    rounded = float(text)
    return rounded if Decimal(str(rounded)) == exact else exact


def _refuse_half_characters(texts: dict[str, str]) -> None:
    """JSON can write half of a surrogate pair, as in "\\ud800"; it is no character, and nothing can encode it."""
    for name, text in texts.items():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = text[error.start]
            raise UserError(f"{name} has {half!r}, half of a character (a lone surrogate): mend or remove it") from None


def _without_byte_order_mark(line: bytes, path: Path) -> bytes:
    """The first line without the mark that some editors write; a file of another kind is one UserError."""
    if line.startswith(_GZIP):
        raise UserError(f"{path}: is compressed: give it a name that ends in .jsonl.gz")
    for mark, encoding in _OTHER_ENCODINGS.items():
        if line.startswith(mark):
            raise UserError(f"{path}: is {encoding}: save it as UTF-8")
    return line.removeprefix(codecs.BOM_UTF8)
