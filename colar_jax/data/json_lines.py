"""Problems in JSON Lines files: one object a line (`data.records` says which)."""

import codecs
import dataclasses
import gzip
import json
import reprlib
import sys
import zlib
from decimal import Decimal, InvalidOperation
from pathlib import Path

from colar_jax.data.problems import Problem
from colar_jax.data.records import log_unread, parse_problem, unread_keys
from colar_jax.errors import UserError

SUFFIXES = (".jsonl", ".jsonl.gz")
# What a validation set is called, in a folder or on the hub; ours first.
VAL_NAMES = ("val", "validation", "valid", "dev")
FORM = '{"question": "...", "steps": ["...", ...], "answer": "..."}'

_JSON_WHITE_SPACE = b" \t\r\n"
_GZIP = b"\x1f\x8b"
# UTF-32's comes first: it begins with UTF-16's.
_OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_problems(path: Path, limit: int | None = None, *, needs_steps: bool = True) -> list[Problem]:
    """The problems of a `.jsonl` or `.jsonl.gz` file (UTF-8), or the first `limit` of them: problem n is line n.

    Blank lines at the end are no problems. Keys that are not read are logged, one line for the file.

    Args:
      needs_steps: whether a line without steps has to say so, as `records.parse_problem` takes it.

    Raises:
      UserError: if the name has another ending, the file cannot be read, or a line breaks the form. Names the file,
        the line, what is wrong with it and what is expected.
    """
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"{path}: a file of problems is JSON Lines and its name ends in {' or '.join(SUFFIXES)}")
    problems, unread, first_blank = [], set(), 0
    try:
        # Lines of bytes: text mode would fail on bad UTF-8 without a line number.
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if number == 1:
                    line = _without_byte_order_mark(line, path)
                if not line.strip(_JSON_WHITE_SPACE):
                    first_blank = first_blank or number
                    continue
                if first_blank:
                    raise UserError(f"{path}:{first_blank}: the line is blank, and others follow: remove it")
                problem, others = _parse_line(line, f"{path}:{number}", needs_steps)
                problems.append(problem)
                unread |= others
                if len(problems) == limit:
                    break
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}): is it whole, and is its ending right?") from error
    log_unread(str(path), unread)
    return problems


def find_split_file(folder: Path, split: str) -> Path:
    """The file `<split>.jsonl` or `<split>.jsonl.gz` of a folder; of "val" the first of `VAL_NAMES` that is there.

    Raises:
      UserError: if the folder has neither of the two, or both.
    """
    for name in VAL_NAMES if split == "val" else (split,):
        present = [path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()]
        if len(present) > 1:
            raise UserError(f"{folder} has both {present[0].name} and {present[1].name}: remove one")
        if present:
            return present[0]
    others = sorted(path.name for path in folder.iterdir() if path.name.endswith(SUFFIXES))
    advice = _without_validation(folder, others) if split == "val" else ""
    wanted = " or ".join(f"{split}{suffix}" for suffix in SUFFIXES)
    raise UserError(f"{folder} has no {wanted}, only {', '.join(others) or 'other files'}{advice}")


def _without_validation(folder: Path, others: list[str]) -> str:
    """What to do with a folder that has no validation file: its training file has a part for that."""
    train, test = (next((name for name in others if name.startswith(f"{split}.")), "") for split in ("train", "test"))
    if not train:
        return ""
    tested = f" and --config.data.test={folder / test}" if test else ""
    return (
        f". Name the files, --config.data.train={folder / train}{tested}: then a tenth of the training file is the "
        "validation set (data.held_out)"
    )


def _parse_line(line: bytes, place: str, needs_steps: bool) -> tuple[Problem, set[str]]:
    """The problem of a line, and its keys that are not read."""
    line = line.strip(_JSON_WHITE_SPACE)
    try:
        record = _decode(line)
        if isinstance(record, list):
            raise UserError(_A_LIST)
        problem = parse_problem(record, needs_steps=needs_steps)
        return dataclasses.replace(problem, place=place), unread_keys(record)
    except json.JSONDecodeError as error:
        fault = _fault_of_a_whole_file(line) or f"not JSON: {error.msg} (column {error.colno})"
    except UnicodeDecodeError as error:
        fault = f"not UTF-8: {error.reason} at byte {error.start}"
    except RecursionError:
        fault = "lists or objects stand inside each other too deeply"
    except UserError as error:
        fault = str(error)
    raise UserError(f"{place}: {fault}; expected {FORM}")


_A_LIST = "a list: write one object a line"


def _fault_of_a_whole_file(line: bytes) -> str:
    """What is wrong with the first line of a file that is JSON only as a whole; empty where it is of no such file."""
    if line.startswith(b"["):
        return _A_LIST
    return "an object that goes on in the next line: write one object a line" if line == b"{" else ""


def _decode(line: bytes) -> object:
    """What a line says, read strictly: a key stands once, and no number is more than Python can hold."""
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


def _without_byte_order_mark(line: bytes, path: Path) -> bytes:
    """The first line without the mark that some editors write; a file of another kind is one UserError."""
    if line.startswith(_GZIP):
        raise UserError(f"{path}: is compressed: give it a name that ends in .jsonl.gz")
    for mark, encoding in _OTHER_ENCODINGS.items():
        if line.startswith(mark):
            raise UserError(f"{path}: is {encoding}: save it as UTF-8")
    return line.removeprefix(codecs.BOM_UTF8)
