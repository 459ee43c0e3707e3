"""Batches whose examples change as training goes on, still a pure function of the step.

Every step has the same number of examples, so step `s` is epoch `s / steps_per_epoch` whatever the schedule has
removed, and n epochs are n passes over the data. A row holds `E` examples, dealt so that rows are equally full: within
a window of shuffled examples the longest goes to the first row, and so on, back and forth. A row's room shrinks with
what is removed, in four sizes at most: that many programs are compiled.
"""

import dataclasses
import functools
import math
from typing import Protocol

import jax
import numpy as np

from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.schedule import EVERYTHING, Phase, Schedule, extra_removed

# Examples dealt together: more of them make rows more equal.
DEALING_WINDOW = 1024
# A row's room is a multiple of this share of what the first phase needs.
NUM_SIZES = 4


class Form(Protocol):
    """What a method makes of its examples: how much room each takes, and a batch of them."""

    def sizes(self, encoded: EncodedProblems, kept_N: np.ndarray, examples_N=slice(None)) -> np.ndarray:
        """Positions of each kind that `N` examples take, `[N, kinds]`, with `kept_N` of their step tokens kept."""

    def fill(self, encoded: EncodedProblems, rows: list[list[tuple[int, int]]], room: "Room", phase: Phase):
        """The batch of these rows of (example, tokens removed)."""


@dataclasses.dataclass(frozen=True)
class Room:
    """What a row holds: so many examples, and so many positions of each of a form's kinds."""

    examples: int
    positions: tuple[int, ...]


class StagedLoader:
    """Training batches under a schedule.

    Raises:
        ValueError: no example fits into a row.
    """

    def __init__(
        self, encoded: EncodedProblems, schedule: Schedule, form: Form, *, seed: int, rows: int, row_positions: int
    ):
        self.encoded, self.schedule, self.form = encoded, schedule, form
        self.seed, self.num_rows = seed, rows
        totals = form.sizes(encoded, encoded.step_lengths).sum(axis=1)
        self._examples = np.flatnonzero(totals <= row_positions)
        self.num_left_out = len(encoded) - len(self._examples)
        if not len(self._examples):
            raise ValueError(
                f"no example fits into a row: the shortest has {totals.min()} positions, "
                f"stage.row_positions is {row_positions}"
            )
        self._totals = totals
        self._removed = functools.lru_cache(maxsize=2)(self._removed_of_all)
        self._room = functools.lru_cache(maxsize=None)(self._room_of)
        self._plan = functools.lru_cache(maxsize=2)(self._deal)
        self.examples_per_row = self._most_examples(row_positions)
        self.steps_per_epoch = max(1, len(self._plan(0)) // rows)

    @property
    def first_final_step(self) -> int:
        """From this step on batches are as the trained model is decoded: nothing changes any more."""
        return math.ceil(self.schedule.num_epochs * self.steps_per_epoch)

    def phase(self, step: int) -> Phase:
        """What the schedule says for a step."""
        return self.schedule.phase(step / self.steps_per_epoch)

    def resets_optimizer(self, step: int) -> bool:
        """Whether the optimizer forgets its moments before step `step`: a new phase begins."""
        return self.schedule.resets_optimizer and step > 0 and self.phase(step) != self.phase(step - 1)

    def batch(self, step: int, rows: slice = slice(None)):
        """The batch of optimizer step `step`, the same whenever it is asked for; or these of its rows only."""
        phase = self.phase(step)
        whole = self.form.fill(self.encoded, self._rows(step), self._room(phase.removed), phase)
        return jax.tree.map(lambda leaf: leaf[rows], whole)

    def num_examples(self, step: int) -> int:
        """How many examples the batch of a step has."""
        return sum(map(len, self._rows(step)))

    def _rows(self, step: int) -> list[list[tuple[int, int]]]:
        """The examples of each row of a step, and how many of their step tokens are gone."""
        epoch, index = divmod(step, self.steps_per_epoch)
        removed, dealt_RE = self.phase(step).removed, self._plan(epoch)
        rows = [
            [(example, self._removed_from(example, removed, epoch)) for example in row]
            for row in dealt_RE[index * self.num_rows : (index + 1) * self.num_rows].tolist()
        ]
        room = self._room(removed)
        return [self._fitting(row, room) for row in rows] + [[]] * (self.num_rows - len(rows))

    def _fitting(self, row: list[tuple[int, int]], room: Room) -> list[tuple[int, int]]:
        """The row without the last examples that it has no room for: rare, and they come again in another deal."""
        while row:
            examples, removed = np.array(row).T
            kept = self.encoded.step_lengths[examples] - removed
            if np.all(self.form.sizes(self.encoded, kept, examples).sum(axis=0) <= room.positions):
                break
            row = row[:-1]
        return row

    def _removed_from(self, example: int, removed: int, epoch: int) -> int:
        """How many step tokens of an example are gone, with what smoothing adds."""
        if self.schedule.smoothing and removed != EVERYTHING:
            uniform = np.random.default_rng((self.seed, epoch, 1, example)).random()
            removed += extra_removed(self.schedule.smoothing, uniform)
        return self._tokens_of(example, removed)

    def _tokens_of(self, example: int, removed: int) -> int:
        """How many step tokens go when `removed` units of an example do."""
        length = int(self.encoded.step_lengths[example])
        if self.schedule.unit == "token" or removed in (0, EVERYTHING):
            return min(removed, length)
        starts = self.encoded.step_starts[example]
        return int(starts[removed]) if removed < len(starts) else length

    def _removed_of_all(self, removed: int) -> np.ndarray:
        """How many step tokens of every example are gone, without smoothing."""
        if self.schedule.unit == "token" or removed in (0, EVERYTHING):
            return np.minimum(self.encoded.step_lengths, removed)
        return np.array([self._tokens_of(example, removed) for example in range(len(self.encoded))])

    def _most_examples(self, row_positions: int) -> int:
        """As many examples a row as always fit while nothing is removed."""
        most = min(row_positions // self._totals[self._examples].mean(), len(self._examples))
        for count in range(int(most), 1, -1):
            if self._totals[self._deal(0, count)].sum(axis=1).max() <= row_positions:
                return count
        return 1

    def _deal(self, epoch: int, examples_per_row: int = 0) -> np.ndarray:
        """The rows of an epoch, `[R, E]`: every example once, but for those that fill no whole row."""
        count = examples_per_row or self.examples_per_row
        rng = np.random.default_rng((self.seed, epoch, 0))
        order = self._examples[rng.permutation(len(self._examples))]
        window_size = max(1, DEALING_WINDOW // count) * count
        rows = []
        for start in range(0, len(order) - count + 1, window_size):
            window = order[start : start + window_size]
            window = window[: len(window) // count * count]
            dealt_ER = window[np.argsort(-self._totals[window], kind="stable")].reshape(count, -1)
            dealt_ER[1::2] = dealt_ER[1::2, ::-1]
            rows.append(dealt_ER.T[rng.permutation(dealt_ER.shape[1])])
        return np.concatenate(rows)

    def _room_of(self, removed: int) -> Room:
        """What a row needs, its positions rounded up to one of a few sizes."""
        whole, needed = self._needed(0), self._needed(removed)
        steps = [8 * math.ceil(most / NUM_SIZES / 8) for most in whole]
        sizes = tuple(int(step * math.ceil(need / step)) for step, need in zip(steps, needed, strict=True))
        return Room(self.examples_per_row, sizes)

    def _needed(self, removed: int) -> np.ndarray:
        """The most of each kind that a row of the first epoch, or one example alone, takes."""
        sizes = self.form.sizes(self.encoded, self.encoded.step_lengths - self._removed(removed))
        return np.maximum(sizes[self._plan(0)].sum(axis=1).max(axis=0), sizes[self._examples].max(axis=0))
