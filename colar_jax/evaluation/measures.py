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
    trim: dict[str, np.ndarray] | None = None  # of chains that were trimmed (`evaluation.trimming`), by measure
    own_speeds_N: np.ndarray | None = None  # where the model chose them


@dataclasses.dataclass(frozen=True)
class Measure:
    """One number or flag an answer."""

    name: str
    kind: type  # bool, int (not negative) or float (finite)
    of: Callable[[Answers], np.ndarray | None]  # -> [N]; None: not measured here


def _cut_answer(answers: Answers) -> np.ndarray:
    """No eos came within decode.max_answer_tokens."""
    is_full_N = answers.num_tokens_N == answers.ids_NA.shape[1]
    return is_full_N & (answers.ids_NA[:, -1] != answers.tokenizer.eos_id)


def _of_trimming(name: str, kind: type) -> Measure:
    return Measure(name, kind, lambda answers: None if answers.trim is None else answers.trim[name])


_MEASURES = (
    Measure("cut_answer", bool, _cut_answer),
    Measure("chosen_speed", float, lambda answers: answers.own_speeds_N),
    _of_trimming("agreed", bool),  # thinking ended because answers agreed
    _of_trimming("cut_without_agreement", bool),  # or for another reason of trimming
    _of_trimming("discarded_thoughts", int),  # were thought after the place where thinking was then ended
    _of_trimming("verifier_passes", int),  # questions to the verifier
    _of_trimming("verifier_tokens", int),  # that it read for them, besides what all questions share
)
MEASURES = {measure.name: measure for measure in _MEASURES}


def stacked(of_seeds: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """`[S, N]` by name; what is not known of every seed is left out."""
    names = [name for name in of_seeds[0] if all(name in of_seed for of_seed in of_seeds)]
    return {name: np.stack([of_seed[name] for of_seed in of_seeds]) for name in names}


def measured(answers: Answers) -> dict[str, np.ndarray]:
    """Every measure of `N` answers that was taken, `[N]` each."""
    values = {name: measure.of(answers) for name, measure in MEASURES.items()}
    return {name: np.asarray(of_N, MEASURES[name].kind) for name, of_N in values.items() if of_N is not None}
