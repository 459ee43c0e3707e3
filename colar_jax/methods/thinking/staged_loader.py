"""Batches whose examples change as training goes on, still a pure function of the step.

Every step has the same number of examples, so step `s` is epoch `s / steps_per_epoch` whatever the schedule has
removed, and n epochs are n passes over the data. A row's room shrinks with what is removed, in four sizes at most: that
many programs are compiled. How the examples come to their rows: `methods.thinking.dealing`.
"""

import dataclasses
import functools
import math
from typing import NamedTuple, Protocol

import jax
import numpy as np

from colar_jax.data.encoding import EncodedProblems
from colar_jax.errors import UserError
from colar_jax.methods.thinking.dealing import deal_epoch, most_examples
from colar_jax.methods.thinking.schedule import EVERYTHING, Phase, Schedule

# How many sizes a row's room has, from what the first phase needs to what the last does.
NUM_SIZES = 4


class Dealt(NamedTuple):
    """An example of a row, as its phase has it."""

    example: int
    removed: int  # of its step tokens, from the first on
    num_latents: int


class Form(Protocol):
    """What a method makes of its examples: how much room each takes, and a batch of them."""

    def sizes(self, encoded: EncodedProblems, kept_N: np.ndarray, examples_N=slice(None)) -> np.ndarray:
        """Positions of each kind that `N` examples take, `[N, kinds]`, with `kept_N` of their step tokens kept."""

    def fill(self, encoded: EncodedProblems, rows: list[list[Dealt]], room: "Room"):
        """The batch of these rows."""


@dataclasses.dataclass(frozen=True)
class Room:
    """What a row holds: so many examples at most, and so many positions of each of a form's kinds."""

    examples: int
    positions: tuple[int, ...]


def examples_that_fit(encoded: EncodedProblems, form: Form, row_positions: int) -> np.ndarray:
    """Which examples a row of so many positions has room for with all their steps; the others are left out."""
    return np.flatnonzero(form.sizes(encoded, encoded.step_lengths).sum(axis=1) <= row_positions)


class StagedLoader:
    """Training batches under a schedule.

    Raises:
        UserError: no example fits into a row.
    """

    def __init__(
        self, encoded: EncodedProblems, schedule: Schedule, form: Form, *, seed: int, rows: int, row_positions: int
    ):
        self.encoded, self.schedule, self.form = encoded, schedule, form
        self.seed, self.num_rows = seed, rows
        sizes = form.sizes(encoded, encoded.step_lengths)
        self._examples = examples_that_fit(encoded, form, row_positions)
        self.num_left_out = len(encoded) - len(self._examples)
        if not len(self._examples):
            raise UserError(
                f"no example fits into a row: the shortest has {sizes.sum(axis=1).min()} positions, "
                f"stage.row_positions is {row_positions}"
            )
        self._sizes_NK = sizes[self._examples]
        self._removed = functools.lru_cache(maxsize=2)(self._removed_of_all)
        self._room = functools.lru_cache(maxsize=None)(self._room_of)
        self._plan = functools.lru_cache(maxsize=2)(self._deal)
        self.examples_per_step = most_examples(self._sizes_NK, rows, row_positions, (seed, 0, 0))
        self.steps_per_epoch = len(self._plan(0))
        self.share_left_over = max(0.0, 1 - self.steps_per_epoch * self.examples_per_step / len(self._examples))

    @property
    def first_final_step(self) -> int:
        """From this step on batches are as the trained model is decoded: nothing changes any more."""
        return math.ceil(self.schedule.num_epochs * self.steps_per_epoch)

    def phase(self, step: int) -> Phase:
        """What the schedule says for a step."""
        return self.schedule.phase(step / self.steps_per_epoch)

    def resets_optimizer(self, step: int) -> bool:
        """Whether the optimizer forgets its moments before step `step`: a new phase begins, or a new epoch."""
        if step == 0:
            return False
        is_new_phase = self.schedule.resets_optimizer and self.phase(step) != self.phase(step - 1)
        return is_new_phase or (self.schedule.resets_each_epoch and step % self.steps_per_epoch == 0)

    def batch(self, step: int, rows: slice = slice(None)):
        """The batch of optimizer step `step`, the same whenever it is asked for; or these of its rows only."""
        of_rows = self._rows(step)
        of_rows += [[]] * ((rows.stop or 0) - len(of_rows))
        whole = self.form.fill(self.encoded, of_rows, self._room_at(self.phase(step)))
        return jax.tree.map(lambda leaf: leaf[rows], whole)

    def num_examples(self, step: int) -> int:
        """How many examples the batch of a step has."""
        return sum(map(len, self._rows(step)))

    def _rows(self, step: int) -> list[list[Dealt]]:
        """The examples of each row of a step, and what is left of each."""
        epoch, index = divmod(step, self.steps_per_epoch)
        phase = self.phase(step)
        rows = [
            [self._deal_one(example, phase, epoch) for example in row[row >= 0].tolist()]
            for row in self._plan(epoch)[index]
        ]
        room = self._room_at(phase)
        return [self._fitting(row, room) for row in rows]

    def _room_at(self, phase: Phase) -> Room:
        """Where examples of any stage are mixed in, some have all their steps."""
        return self._room(0 if self.schedule.uniform_probability else phase.removed)

    def _fitting(self, row: list[Dealt], room: Room) -> list[Dealt]:
        """The row without the last examples that it has no room for: rare, and they come again in another deal."""
        while row:
            examples, removed, _ = np.array(row).T
            kept = self.encoded.step_lengths[examples] - removed
            if np.all(self.form.sizes(self.encoded, kept, examples).sum(axis=0) <= room.positions):
                break
            row = row[:-1]
        return row

    def _deal_one(self, example: int, phase: Phase, epoch: int) -> Dealt:
        """An example as its schedule has it in a phase."""
        rng = np.random.default_rng((self.seed, epoch, 1, example))
        own = self.schedule.phase_of(phase, len(self.encoded.problems[example].steps), rng)
        return Dealt(example, self._tokens_of(example, own.removed), own.num_latents)

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

    def _deal(self, epoch: int) -> np.ndarray:
        """The examples of an epoch, `[steps, rows, E]`: every one once, but for those that fill no whole step."""
        places = deal_epoch(self._sizes_NK, self.examples_per_step, self.num_rows, (self.seed, epoch, 0))
        return np.where(places < 0, -1, self._examples[places])

    def _room_of(self, removed: int) -> Room:
        """What a row needs, its positions rounded up to one of a few sizes, of which the last phase has its own."""
        last = self.schedule.phase(self.schedule.num_epochs).removed
        most, least, need = (-(-self._needed(gone) // 8) for gone in (0, last, removed))  # in eights
        step = np.maximum(-(-(most - least) // (NUM_SIZES - 1)), 1)
        sizes = np.minimum(least + step * np.maximum(-(-(need - least) // step), 0), most)
        return Room(self._plan(0).shape[2], tuple((8 * sizes).tolist()))

    def _needed(self, removed: int) -> np.ndarray:
        """The most of each kind that a row of the first epoch, or one example alone, takes."""
        sizes = self.form.sizes(self.encoded, self.encoded.step_lengths - self._removed(removed))
        plan = self._plan(0)
        in_rows = np.where((plan >= 0)[..., None], sizes[plan], 0).sum(axis=2)
        return np.maximum(in_rows.max(axis=(0, 1)), sizes[self._examples].max(axis=0))
