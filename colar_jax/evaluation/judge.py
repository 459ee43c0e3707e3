"""Turn the tokens of an answer into text, and judge whether it is right."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from colar_jax.data.answers import VERIFIERS, Verifier, extract_answer
from colar_jax.data.problems import Problem
from colar_jax.data.tokenizers import Tokenizer


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

    def were_cut(self, ids_NA: np.ndarray, num_tokens_N: np.ndarray) -> np.ndarray:
        """Which answers fill all `A` tokens and end on no eos: bool `[N]`."""
        return (num_tokens_N == ids_NA.shape[1]) & (ids_NA[:, -1] != self.tokenizer.eos_id)

    def judge(self, problems: Sequence[Problem], predictions: Sequence[str]) -> np.ndarray:
        """Which of the predictions, one for each problem, are right: bool `[N]`."""
        pairs = zip(predictions, problems, strict=True)
        return np.array([self.is_right(prediction, problem.answer) for prediction, problem in pairs], bool)
