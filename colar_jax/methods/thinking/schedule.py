"""What disappears from an example's reasoning as training goes on: a pure function of the epoch, as a real number."""

import abc
import dataclasses
import math
from typing import ClassVar

import numpy as np

EVERYTHING = int(np.iinfo(np.int32).max)  # more than any chain has


@dataclasses.dataclass(frozen=True)
class Phase:
    """How a stretch of training sees its examples."""

    removed: int  # of the first tokens or steps; EVERYTHING: all
    num_latents: int  # that stand in their place


class Schedule(abc.ABC):
    """What holds when. Its constants are those of a schedule without stages; others say them as fields."""

    unit: str  # of what is removed: token, or step
    resets_optimizer: ClassVar[bool] = False  # when a phase begins
    resets_each_epoch: ClassVar[bool] = False
    uniform_probability: ClassVar[float] = 0.0  # how often an example is in a stage drawn from 0 to its number of steps
    num_epochs: ClassVar[float] = 0.0  # the epoch from which on nothing changes

    @abc.abstractmethod
    def phase(self, epoch: float) -> Phase:
        """What holds at `epoch`."""

    def phase_of(self, phase: Phase, num_steps: int, rng: np.random.Generator) -> Phase:
        """What holds for an example of so many steps in a phase; `rng` is its own, of this epoch."""
        return phase


@dataclasses.dataclass(frozen=True)
class TokenRemoval(Schedule):
    """iCoT: one more token (or step) is gone every `1 / removed_per_epoch` epochs, until all are."""

    unit: str  # token, or step
    removed_per_epoch: float
    removed_at_start: int
    last: int  # when so many are to be removed, all are
    smoothing: float = 0.0
    resets_optimizer: bool = False

    @property
    def num_epochs(self) -> float:
        return max(self.last - self.removed_at_start, 0) / self.removed_per_epoch

    def phase(self, epoch: float) -> Phase:
        removed = self.removed_at_start + math.floor(epoch * self.removed_per_epoch + 1e-9)
        return Phase(EVERYTHING if removed >= self.last else removed, 0)

    def phase_of(self, phase: Phase, num_steps: int, rng: np.random.Generator) -> Phase:
        """Removal smoothing takes more from some examples."""
        if not self.smoothing or phase.removed == EVERYTHING:
            return phase
        return dataclasses.replace(phase, removed=phase.removed + extra_removed(self.smoothing, rng.random()))


@dataclasses.dataclass(frozen=True)
class LatentStages(Schedule):
    """Coconut: in stage s (from 1) the first s steps are gone and `s * latents_per_stage` latents are there."""

    unit: ClassVar[str] = "step"

    num_stages: int
    latents_per_stage: int
    epochs_per_stage: float
    final_stage: bool  # whether one more stage, without any step, comes after them
    resets_optimizer: bool = False
    resets_each_epoch: bool = False
    uniform_probability: float = 0.0
    pads_latents: bool = True  # False: an example without steps left has latents for the steps that it had, no more

    @property
    def num_epochs(self) -> float:
        return (self.num_stages - 1 + self.final_stage) * self.epochs_per_stage

    def phase(self, epoch: float) -> Phase:
        return self._of_stage(1 + math.floor(epoch / self.epochs_per_stage + 1e-9))

    def phase_of(self, phase: Phase, num_steps: int, rng: np.random.Generator) -> Phase:
        if self.uniform_probability and rng.random() < self.uniform_probability:
            phase = self._of_stage(int(rng.integers(num_steps + 1)))
        if phase.removed == EVERYTHING and not self.pads_latents:
            fewer = min(num_steps, self.num_stages) * self.latents_per_stage
            return dataclasses.replace(phase, num_latents=min(phase.num_latents, fewer))
        return phase

    def _of_stage(self, stage: int) -> Phase:
        is_last = stage >= self.num_stages + self.final_stage
        return Phase(EVERYTHING if is_last else stage, min(stage, self.num_stages) * self.latents_per_stage)


@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """No schedule: the same phase from the first step to the last."""

    unit: ClassVar[str] = "step"

    only: Phase

    def phase(self, epoch: float) -> Phase:
        return self.only


@dataclasses.dataclass(frozen=True)
class LatentsByStep(Constant):
    """A chain of s steps has `base + per_step * s` latents, no more than the phase says."""

    base: int = 0
    per_step: int = 1

    def phase_of(self, phase: Phase, num_steps: int, rng: np.random.Generator) -> Phase:
        return dataclasses.replace(phase, num_latents=min(phase.num_latents, self.base + self.per_step * num_steps))


def extra_removed(smoothing: float, uniform: float) -> int:
    """Removal smoothing: how many more an example has removed, geometric with P(n) ~ exp(-smoothing * n)."""
    return math.floor(-math.log(1 - uniform) / smoothing) if smoothing else 0
