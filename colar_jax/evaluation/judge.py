"""Turn the tokens of an answer into text, and judge whether it is right."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from colar_jax.data.answers import VERIFIERS, Verifier, extract_answer
from colar_jax.data.problems import Problem
from colar_jax.data.tokenizers import Tokenizer
from colar_jax.evaluation.measures import Answers


@dataclasses.dataclass(frozen=True, eq=False)
class Judge:
    """Reads answers, and says which are right."""

    tokenizer: Tokenizer
    verifier: Verifier = VERIFIERS["numeric"]

    @functools.cached_property
    def is_right(self) -> Verifier:
        """(prediction, answer) -> bool. The same answer to the same question is judged once, however often it comes."""
        return functools.lru_cache(maxsize=2**16)(self.verifier)

    def read(self, ids_NA: np.ndarray, num_tokens_N: np.ndarray) -> tuple[list[str], list[str]]:
        """The whole texts of `N` answers, and the answers that can be extracted from them."""
        texts = self.tokenizer.answer_texts(ids_NA, num_tokens_N)
        return texts, [extract_answer(text) for text in texts]

    def answers(
        self,
        problems: Sequence[Problem],
        ids_NA: np.ndarray,
        num_tokens_N: np.ndarray,
        lengths_N: np.ndarray,
        **known: Any,
    ) -> Answers:
        """Answers that are read and judged; what is `known` besides are the other fields of `Answers`."""
        texts, predictions = self.read(ids_NA, num_tokens_N)
        right_N = self.judge(problems, predictions)
        found = (ids_NA, num_tokens_N, texts, predictions, right_N, lengths_N)
        return Answers(problems, self.tokenizer, *found, **known)

    def judge(self, problems: Sequence[Problem], predictions: Sequence[str]) -> np.ndarray:
        """Which of the predictions, one for each problem, are right: bool `[N]`."""
        pairs = zip(predictions, problems, strict=True)
        return np.array([self.is_right(prediction, problem.answer) for prediction, problem in pairs], bool)
