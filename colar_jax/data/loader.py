"""Batches as a pure function of the step: a resumed run needs no saved position in the data.

An epoch is planned as a whole from `(seed, epoch)`: the order of the examples, each one's speed, which rows they are
packed into. A group's label is drawn from `(seed, epoch, example)`. Every epoch has the same number of steps, so step
`s` belongs to epoch `s // steps_per_epoch`. They are the whole steps of epoch 0, or one. Another epoch has other speeds
and another order, and may pack into more rows, which are dropped from its last whole step on, or into fewer: then its
last step has empty rows, or no example at all, and its gradient is zero.
"""

import dataclasses
import functools
import math
import queue
import threading
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from colar_jax.data import layout, packing
from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.grouping import full_ends, group_of_token
from colar_jax.data.layout import Layout, Sizes
from colar_jax.data.packing import Batch, RowShape
from colar_jax.data.recipe import Recipe
from colar_jax.errors import UserError

# Examples packed together. Longer windows pack tighter; within one, rows are shuffled.
PACKING_WINDOW = 2048
# Rows have room for so many more tokens and labels than the average row needs, so that positions fill up first.
SLACK = 1.25


@dataclasses.dataclass(frozen=True)
class _Plan:
    rows: list[list[int]]  # example numbers, one list a row
    speeds: np.ndarray  # the drawn speed of each example
    is_auto: np.ndarray
    phases: np.ndarray  # of the grouping of each example


class Batches(Protocol):
    """Where a stage's batches come from, whatever their kind."""

    encoded: EncodedProblems  # what they are made of
    steps_per_epoch: int  # of every epoch; the last may have empty rows
    num_left_out: int  # examples that no row holds
    share_left_over: float  # of those that are, by epoch 0, which is whole steps: about as much by others, other ones
    first_final_step: int  # from which step on batches are of the kind that is decoded

    num_rows: int

    def batch(self, step: int, rows: slice = slice(None)) -> Any:
        """The batch of optimizer step `step`, or these of its rows; always the same. A dataclass of arrays.

        Rows from `num_rows` on are empty, and change nothing.
        """

    def num_examples(self, step: int) -> int:
        """How many examples the whole batch of a step has; the last of an epoch may have none."""

    def resets_optimizer(self, step: int) -> bool:
        """Whether the optimizer forgets its moments before step `step`."""


class Loader:
    """Packed training batches of a set of problems."""

    first_final_step = 0  # from which step on batches are of the kind that is decoded: there is no schedule

    def __init__(self, encoded: EncodedProblems, recipe: Recipe, *, seed: int, rows: int, row_positions: int):
        self.encoded = encoded
        self.recipe = recipe
        self.seed = seed
        self.num_rows = rows
        self._plan = functools.lru_cache(maxsize=2)(self._make_plan)
        possible = list(self._possible_sizes())
        shortest = min(sizes.positions.min() for sizes in possible)
        if shortest > row_positions:
            raise UserError(
                f"no example fits into a row: the shortest has {shortest} positions, "
                f"stage.row_positions is {row_positions}"
            )
        self.row_shape = _row_shape(self._sizes(*self._draw(0)), possible, row_positions)
        fits = np.stack([packing.fits(sizes, self.row_shape) for sizes in possible])
        # One that does not fit at one of its speeds is left out: else long ones would be trained at high speeds only.
        self._is_used = fits.all(axis=0)
        if not self._is_used.any():
            raise UserError(
                f"no example fits into a row at all its speeds: stage.row_positions is {row_positions}, and the "
                f"shortest has {np.max([sizes.positions for sizes in possible], axis=0).min()} positions at its slowest"
            )
        self.num_left_out = int(np.sum(~self._is_used))
        num_rows = len(self._pack(0))
        self.steps_per_epoch = max(1, num_rows // rows)
        self.share_left_over = max(0.0, 1 - self.steps_per_epoch * rows / num_rows)

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        """The batch of optimizer step `step`, the same whenever it is asked for; or these of its rows only."""
        epoch, index = divmod(step, self.steps_per_epoch)
        plan = self._plan(epoch)
        of_rows = plan.rows[index * self.num_rows : (index + 1) * self.num_rows]
        row_ids = range(max(self.num_rows, rows.stop or 0))[rows]
        layouts = [
            [self._lay_out(example, epoch, plan) for example in (of_rows[row] if row < len(of_rows) else ())]
            for row in row_ids
        ]
        batch = packing.fill(layouts, self.row_shape, pooling=self.recipe.pooling)
        return dataclasses.replace(batch, row_ids_B=np.array(row_ids, np.int32))

    def num_examples(self, step: int) -> int:
        """How many examples the batch of a step has; the last of an epoch may have none."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return sum(map(len, self._plan(epoch).rows[index * self.num_rows : (index + 1) * self.num_rows]))

    def resets_optimizer(self, step: int) -> bool:
        """Whether the optimizer forgets its moments before step `step`: never."""
        return False

    def _make_plan(self, epoch: int) -> _Plan:
        return _Plan(self._pack(epoch), *self._draw(epoch))

    def _rng(self, *what: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, *what))

    def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The speed of each example in this epoch, whether its prompt hides it behind "auto", and its phase."""
        size = len(self.encoded)
        return *self.recipe.draw(self._rng(epoch, 0), size), self.recipe.phases(self._rng(epoch, 3), size)

    def _sizes(self, speeds: np.ndarray, is_auto: np.ndarray, phases: np.ndarray | float = 0.0) -> Sizes:
        drawn, which = np.unique(np.where(is_auto, -speeds, speeds), return_inverse=True)
        said = [self.recipe.said(float(abs(speed)), bool(speed < 0)) for speed in drawn]
        prompt_lengths = self.encoded.head_lengths + np.array([self.encoded.tail_length(text) for text in said])[which]
        step_lengths = self.encoded.step_lengths * self.recipe.keeps_steps
        return layout.sizes(prompt_lengths, step_lengths, self.encoded.answer_lengths, speeds, phases)

    def _possible_sizes(self) -> Iterator[Sizes]:
        """The sizes of all examples at each speed, and with each prompt, that may be drawn.

        Of ranges only the largest: at the lowest speed, with the longest prompt.
        """
        size, step_lengths = len(self.encoded), self.encoded.step_lengths * self.recipe.keeps_steps
        if self.recipe.ranges:
            longest = max(self.encoded.tail_length(text) for text in self.recipe.prompt_speeds)
            slowest = np.full(size, self.recipe.slowest[0])
            prompt_lengths = self.encoded.head_lengths + longest
            yield layout.sizes(prompt_lengths, step_lengths, self.encoded.answer_lengths, slowest)
            return
        for speed in set(self.recipe.speeds):
            for is_auto in (False, True) if self.recipe.auto_probability else (False,):
                yield self._sizes(np.full(size, speed), np.full(size, is_auto))

    def _pack(self, epoch: int) -> list[list[int]]:
        sizes = self._sizes(*self._draw(epoch))
        rng = self._rng(epoch, 1)
        order = rng.permutation(len(self.encoded))
        order = order[self._is_used[order]]
        rows = []
        for start in range(0, len(order), PACKING_WINDOW):
            window = order[start : start + PACKING_WINDOW]
            packed = packing.pack(sizes.take(window), self.row_shape)
            rows.extend([window[packed[row]].tolist() for row in rng.permutation(len(packed))])
        return rows

    def _lay_out(self, example: int, epoch: int, plan: _Plan) -> Layout:
        encoded, recipe = self.encoded, self.recipe
        speed, phase = float(plan.speeds[example]), float(plan.phases[example])
        step_ids = encoded.steps[example] if recipe.keeps_steps else encoded.steps[example][:0]
        told = recipe.told_of_drawn(speed, bool(plan.is_auto[example]))
        prompt_ids, group_T = encoded.prompt(example, told.said), group_of_token(len(step_ids), speed, phase)
        laid_out = layout.lay_out_groups(
            prompt_ids,
            step_ids,
            encoded.answers[example],
            encoded.separator_id,
            group_T,
            self._rng(epoch, 2, example).random(len(step_ids)),
            layout.Supervision(recipe.supervise_latents, recipe.supervise_steps),
        )
        if recipe.counts_tokens:
            num_groups = int(group_T[-1]) + 1 if len(group_T) else 0
            return layout.on_timeline(laid_out, len(prompt_ids), full_ends(num_groups + 1, speed, phase))
        return dataclasses.replace(laid_out, told=(told.number,), phase=recipe.told_phase(phase))


def _row_shape(drawn: Sizes, possible: list[Sizes], row_positions: int) -> RowShape:
    """Room for tokens and labels in proportion to what an average position brings, and for the largest example.

    `drawn` are the sizes of one epoch's draws; `possible` those of every draw there may be, of which all that have few
    enough positions must find room.
    """

    def capacity(kind: str) -> int:
        fitting = [sizes.take(sizes.positions <= row_positions) for sizes in (drawn, *possible)]
        largest = max(getattr(sizes, kind).max(initial=0) for sizes in fitting)
        needs, positions = getattr(fitting[0], kind), fitting[0].positions
        if not len(needs):
            return 8 * math.ceil(largest / 8)
        room = row_positions * min(SLACK * needs.sum() / positions.sum(), np.max(needs / positions))
        return 8 * math.ceil(max(room, largest) / 8)

    return RowShape(row_positions, capacity("tokens"), min(row_positions, capacity("supervised")))


def prefetch(loader: Batches, start: int, stop: int, *, depth: int = 2) -> Iterator[Any]:
    """The batches of steps `start` to `stop`, made by a thread while the device works. Closing it stops the thread."""
    batches: queue.Queue = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def produce():
        try:
            for step in range(start, stop):
                batches.put(loader.batch(step))
                if stopped.is_set():
                    return
        except BaseException as error:  # handed to the consumer, which raises it
            batches.put(error)

    threading.Thread(target=produce, name="prefetch", daemon=True).start()
    try:
        for _ in range(start, stop):
            batch = batches.get()
            if isinstance(batch, BaseException):
                raise batch
            yield batch
    finally:
        stopped.set()
        while not batches.empty():
            batches.get_nowait()
