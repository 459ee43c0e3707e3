"""A problem from a record with named values: a JSON object, a row of a data set, a dict."""

import difflib
import logging
import math
import re
import reprlib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from colar_jax.data.problems import Problem
from colar_jax.errors import UserError

logger = logging.getLogger(__name__)

KEYS = ("question", "steps", "answer")

_ALSO_STEPS = "cot"  # what some sets call them
# In GSM8K's own form the answer follows this mark, on a line of its own after the worked solution.
_GSM8K_MARK = "\n####"
# Beside steps no answer has it; white space may come first.
_MARKED_LINE = re.compile(r"^[^\S\n]*####", re.MULTILINE)
_MOST_NAMED = 5
_NEAR = 0.75  # as `difflib` counts: "step" and "Steps" are near to "steps", "tests" is not


def parse_problem(record: object, *, needs_steps: bool = True) -> Problem:
    """A problem from a record, in our form or GSM8K's own (`parse_gsm8k`), which has `####` in its answer and no steps.

    An answer may be a number; it is written as Python prints it. Beside steps it has no line that begins with `####`.
    Steps may be one text (`steps` or `cot`): marks `<<..>>`, or else lines. Other keys do not matter (`unread_keys`).

    Args:
      needs_steps: whether a record without steps has to say so (`"steps": []`), as one to learn from has; of a problem
        that is only asked, they may be missing.

    Raises:
      UserError: says which part is wrong and what it is; the caller knows where it stands.
    """
    if not isinstance(record, Mapping):
        raise UserError(f"{reprlib.repr(record)} is not an object")
    steps_key = _steps_key(record)
    missing = [key for key in KEYS if (steps_key if key == "steps" else key) not in record]
    if missing == ["steps"] and not _near(record, "steps"):
        answer = record["answer"]
        if isinstance(answer, str) and "####" in answer:
            return parse_gsm8k(record["question"], answer)
        missing = missing if needs_steps else []
        if not missing and isinstance(answer, str) and "\n" in answer.strip():
            raise UserError(
                "key 'steps' is missing, and the answer has more than a line: end a worked solution with a line "
                '#### and the answer alone, or write "steps": []'
            )
    if missing:
        raise UserError(_missing(record, missing))
    question, steps, answer = record["question"], record.get(steps_key, []), record["answer"]
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"question is {reprlib.repr(question)}, not a text with something in it")
    if isinstance(steps, str):
        steps = _split_steps(steps)
    if not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
        raise UserError(f"steps is {reprlib.repr(steps)}, not a list of texts and not a text")
    if type(answer) in (int, Decimal) or (type(answer) is float and math.isfinite(answer)):
        answer = str(answer)
    if not isinstance(answer, str) or not answer.strip():
        raise UserError(f"answer is {reprlib.repr(answer)}, not a text with something in it and not a number")
    if _MARKED_LINE.search(_with_line_feeds(answer)):
        raise UserError(
            f"answer is {reprlib.repr(answer)}, with a line that begins with '####': beside {steps_key!r} write the "
            f"answer alone, or leave {steps_key!r} out, as GSM8K's form does"
        )
    _refuse_half_characters({"question": question, "a step": "".join(steps), "answer": answer})
    return Problem(question, tuple(steps), answer)


def parse_gsm8k(question: object, solution: str) -> Problem:
    """A problem in GSM8K's own form: each line of the solution is a step, `<<..>>` marks kept; `#### 18` ends it.

    Raises:
      UserError: no answer follows the last `####` at the start of a line, or more than one line, or as `parse_problem`.
    """
    worked, mark, answer = f"\n{_with_line_feeds(solution)}".rpartition(_GSM8K_MARK)
    if not mark:
        raise UserError(f"no final answer after '####' in {reprlib.repr(solution)}")
    if "\n" in answer.strip():
        raise UserError(f"more than a line after '####', where the answer alone stands: {reprlib.repr(answer.strip())}")
    return parse_problem({"question": question, "steps": _lines(worked), "answer": answer.strip()})


def unread_keys(record: Mapping[Any, Any]) -> set[Any]:
    """The keys of a record that `parse_problem` does not look at."""
    return record.keys() - {"question", _steps_key(record), "answer"}


def log_unread(place: str, keys: Iterable[Any]) -> None:
    """One line for all keys of a file or set that were not read; none where there are none."""
    if named := _named(keys):
        logger.info("%s: a problem is question, steps and answer; not read: %s", place, named)


def _steps_key(record: Mapping[Any, Any]) -> str:
    return _ALSO_STEPS if _ALSO_STEPS in record and "steps" not in record else "steps"


def _missing(record: Mapping[Any, Any], missing: list[str]) -> str:
    """That these keys are missing, and what stands there in their places."""
    near = {key: _near(record, key) for key in missing}
    faults = [f"key {key!r} is missing" + (f"; is it {reprlib.repr(near[key])}?" if near[key] else "") for key in near]
    others = _named(unread_keys(record) - set(near.values()))
    return ", ".join(faults) + (f" (other keys: {others})" if others else "")


def _near(record: Mapping[Any, Any], key: str) -> str:
    """Of the keys that are not read, the one that may be another spelling of `key`; empty where none may."""
    others = [other for other in unread_keys(record) if isinstance(other, str)]
    return next(iter(difflib.get_close_matches(key, others, n=1, cutoff=_NEAR)), "")


def _named(keys: Iterable[Any]) -> str:
    named = sorted(map(reprlib.repr, keys))
    more = len(named) - _MOST_NAMED
    return ", ".join(named[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _lines(text: str) -> list[str]:
    return [line for line in _with_line_feeds(text).split("\n") if line.strip()]


def _with_line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _split_steps(text: str) -> list[str]:
    """The marks `<<..>>` of a text that holds nothing else (white space aside), or else its lines."""
    marks = re.findall(r"<<.*?>>", text)
    return marks if re.sub(r"\s", "", "".join(marks)) == re.sub(r"\s", "", text) else _lines(text)


def _refuse_half_characters(texts: dict[str, str]) -> None:
    """JSON can write half of a surrogate pair, as in "\\ud800"; it is no character, and nothing can encode it."""
    for name, text in texts.items():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = text[error.start]
            raise UserError(f"{name} has {half!r}, half of a character (a lone surrogate): mend or remove it") from None
