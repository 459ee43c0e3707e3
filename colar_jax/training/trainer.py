"""The steps of a stage: what differs between learning from data and learning from rewards."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from colar_jax.data.loader import Batches, prefetch
from colar_jax.data.problems import Problem
from colar_jax.evaluation.evaluator import Outcome
from colar_jax.metrics import Metric
from colar_jax.parallel.mesh import own_rows, put_own_rows
from colar_jax.training.optimizer import without_moments
from colar_jax.training.state import TrainState, Tree
from colar_jax.training.step import TrainStep

# The state after a step, what was measured in it, and how many examples it had.
Step = tuple[TrainState, dict[str, Metric], int]


class Trainer(Protocol):
    """Takes the steps of a stage; what it remembers between two of them can be saved and taken up again."""

    advice: str  # what to try when a step is not finite
    num_tokens: int  # that the steps handed out so far had read; 0: not known

    def steps(self, state: TrainState, frozen: Tree, key: jax.Array, start: int, stop: int) -> Iterator[Step]:
        """The steps `start + 1` to `stop`. A state that was handed out is donated to the next step.

        Closing the iterator ends what goes on in the background.
        """

    def memory(self) -> dict:
        """JSON: all that the steps to come depend on besides state and number, after the last one handed out."""

    def recall(self, memory: dict) -> None:
        """Go on from what `memory` returned."""

    def evidence(self, step: int) -> dict[str, np.ndarray]:
        """The batch of a step that went wrong, to look at."""

    def appraise(self, problems: Sequence[Problem], outcome: Outcome) -> dict[str, float]:
        """What a validation measures besides accuracy and #L, means over problems: `reward`, where there is one."""


@dataclasses.dataclass(frozen=True)
class _OwnPart:
    """What a process reads of each batch: its rows, and how many examples there are in all of them."""

    loader: Batches
    rows: slice

    def batch(self, step: int) -> tuple[Any, int]:
        return self.loader.batch(step, self.rows), self.loader.num_examples(step)


class SftTrainer:
    """Learns from batches, which are a pure function of the step: there is nothing to remember.

    Args:
        num_rows: of each batch with the empty ones that make them divide by the devices.
    """

    advice = "Lower optimizer.learning_rate, or look at the batch"

    def __init__(self, loader: Batches, step: TrainStep, mesh: jax.sharding.Mesh, num_rows: int):
        self.loader, self._step, self._mesh, self._num_rows = loader, step, mesh, num_rows
        self.num_tokens = 0

    def steps(self, state: TrainState, frozen: Tree, key: jax.Array, start: int, stop: int) -> Iterator[Step]:
        own = own_rows(self._mesh, self._num_rows)
        batches = prefetch(_OwnPart(self.loader, own), start, stop)
        try:
            for number, (batch, num_examples) in enumerate(batches, start=start):
                if self.loader.resets_optimizer(number):
                    state = without_moments(state)
                state, metrics = self._step(state, frozen, put_own_rows(batch, self._mesh, self._num_rows), key)
                # The rows of other processes are taken to have as many; the empty ones, which are the last, have none.
                num_filled = max(1, min(own.stop, self.loader.num_rows) - own.start)
                self.num_tokens += batch.num_tokens * self.loader.num_rows // num_filled
                yield state, metrics, num_examples
        finally:
            batches.close()

    def memory(self) -> dict:
        return {}

    def recall(self, memory: dict) -> None:
        pass

    def evidence(self, step: int) -> dict[str, np.ndarray]:
        return dataclasses.asdict(self.loader.batch(step - 1))

    def appraise(self, problems: Sequence[Problem], outcome: Outcome) -> dict[str, float]:
        return {}
