"""Hashes of problems: they depend on the content, not on where a file lies or what it is called."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence

import numpy as np

from colar_jax.data.problems import Problem

# Long enough that two sets do not collide, short enough to read.
_HASH_BYTES = 8

# What sentences are punctuated with. Operators are not in it: "3 + 4" and "3 * 4" are two questions.
_PUNCTUATION = re.compile(r"[.,;:!?'\"‘’“”]")
_BRACKETS = frozenset(")]}")


def comparable_question(question: str) -> str:
    """A question without case, white space and the punctuation of sentences.

    "Hello!" is "hello", but "5!" and "n!" stay factorials, "3.5" is not "3 5", ".5" not "5", and "f'(2)" not "f(2)".
    """
    return " ".join(_PUNCTUATION.sub(_kept, question.casefold()).split())


def _kept(sign: re.Match) -> str:
    """A sign where it means something in a number, between numbers or after a variable, or else a space."""
    text, start, end = sign.string, sign.start(), sign.end()
    before, after = text[start - 1 : start], text[end : end + 1]
    if sign[0] == "!":
        return "!" if _is_factorial(text, start) else " "
    if sign[0] in ".,:":
        begins_number = sign[0] == "." and not _ends_text(before)
        return sign[0] if after.isdecimal() and (before.isdecimal() or begins_number) else " "
    if sign[0] in "'’":
        return sign[0] if after == "(" and (before.isalnum() or before == "_") else " "
    return " "


def _ends_text(before: str) -> bool:
    """Whether a dot after this character ends what stands before it: a word, a number, brackets or other dots."""
    return before.isalnum() or before in _BRACKETS or before in {"_", "."}


def _is_factorial(text: str, start: int) -> bool:
    """Whether the `!` at `start` follows a number, a bracket, a variable of one letter, or one `!` that does."""
    if text[start - 1 : start] == "!" and start > 1:
        start -= 1
    before = text[start - 1 : start]
    two_before = text[start - 2 : start - 1] if start > 1 else ""
    is_variable = before.isalpha() and not (two_before.isalnum() or two_before == "_")
    return before.isdecimal() or before in _BRACKETS or is_variable


def problems_hash(problems: Iterable[Problem]) -> str:
    """16 hexadecimal digits of the SHA-256 of questions, steps and answers, in their order."""
    digest = hashlib.sha256()
    for problem in problems:
        # JSON says where each text ends.
        line = json.dumps([problem.question, problem.steps, problem.answer], ensure_ascii=False)
        digest.update(line.encode(errors="surrogatepass") + b"\n")
    return digest.hexdigest()[: 2 * _HASH_BYTES]


def question_hashes(problems: Sequence[Problem]) -> np.ndarray:
    """A hash of each different question (`comparable_question`), uint64, sorted: for `np.isin` and `np.intersect1d`."""
    texts = {comparable_question(problem.question) for problem in problems}
    hashes = (hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:_HASH_BYTES] for text in texts)
    return np.unique(np.frombuffer(b"".join(hashes), "<u8").astype(np.uint64))
