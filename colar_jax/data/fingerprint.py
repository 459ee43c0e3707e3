"""Problems known by their content, wherever their file lies and whatever it is called."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence

import numpy as np

from colar_jax.data.problems import Problem

# Long enough that no two sets of this world meet, short enough to be read.
_HASH_BYTES = 8

# What a sign must stand beside to mean something: 5! and n! are factorials, 3.5 and 3:5 no sentences, f'(2) a slope.
_FACTORIAL = r"(?:(?<=[\d)\]}])|(?<=\b[^\W\d_])|(?<=[\d)\]}]!)|(?<=\b[^\W\d_]!))!"
_IN_A_NUMBER = r"(?<=\d)[.,:](?=\d)"
_PRIME = r"(?<=\w)['’](?=\()"
# What sentences are punctuated with. Operators are not in it: "3 + 4" and "3 * 4" are two questions.
_BETWEEN_WORDS = re.compile(rf"(?:(?!{_FACTORIAL}|{_IN_A_NUMBER}|{_PRIME})[\s.,;:!?'\"‘’“”])+")


def comparable_question(question: str) -> str:
    """A question without case, white space and the punctuation of sentences.

    "Hello!" is "hello", but "5!" stays a factorial, and "3.5" is not "3 5".
    """
    return _BETWEEN_WORDS.sub(" ", question.casefold()).strip()


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
