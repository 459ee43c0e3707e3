"""What is measured of each answer besides what every table needs: one list.

A column that is computed question by question is a measure here and an entry of `report/columns.py`. In between it
travels by its name: an evaluation's outcome, a line of cells.jsonl, a row of samples.jsonl and a result all keep it.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from colar_jax.data.problems import Problem
from colar_jax.data.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """Answers to `N` questions of at most `A` tokens: all that a measure may read."""

    problems: Sequence[Problem]
    tokenizer: Tokenizer
    ids_NA: np.ndarray
    num_tokens_N: np.ndarray  # how many ids count, eos included
    texts: Sequence[str]
    predictions: Sequence[str]  # the answers that were found in the texts
    right_N: np.ndarray  # bool
    lengths_N: np.ndarray  # int, #L


@dataclasses.dataclass(frozen=True)
class Measure:
    """One number or flag an answer."""

    name: str
    kind: type  # bool, int (not negative) or float (finite)
    of: Callable[[Answers], np.ndarray]  # -> [N]


def _cut_answer(answers: Answers) -> np.ndarray:
    """No eos came within decode.max_answer_tokens."""
    is_full_N = answers.num_tokens_N == answers.ids_NA.shape[1]
    return is_full_N & (answers.ids_NA[:, -1] != answers.tokenizer.eos_id)


MEASURES = {measure.name: measure for measure in (Measure("cut_answer", bool, _cut_answer),)}


def measured(answers: Answers) -> dict[str, np.ndarray]:
    """Every measure of `N` answers, `[N]` each."""
    return {name: np.asarray(measure.of(answers), measure.kind) for name, measure in MEASURES.items()}
