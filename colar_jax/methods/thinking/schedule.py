"""What disappears from an example's reasoning as training goes on: a pure function of the epoch, as a real number."""

import dataclasses
import math

import numpy as np

EVERYTHING = int(np.iinfo(np.int32).max)  # more than any chain has


@dataclasses.dataclass(frozen=True)
class Phase:
    """How a stretch of training sees its examples."""

    removed: int  # of the first tokens or steps; EVERYTHING: all
    num_latents: int  # that stand in their place


@dataclasses.dataclass(frozen=True)
class TokenRemoval:
    """iCoT: one more token (or step) is gone every `1 / removed_per_epoch` epochs, until all are."""

    unit: str  # token, or step
    removed_per_epoch: float
    removed_at_start: int
    last: int  # when so many are to be removed, all are
    smoothing: float = 0.0
    resets_optimizer: bool = False

    @property
    def num_epochs(self) -> float:
        """The epoch from which on nothing changes."""
        return max(self.last - self.removed_at_start, 0) / self.removed_per_epoch

    def phase(self, epoch: float) -> Phase:
        """What holds at `epoch`."""
        removed = self.removed_at_start + math.floor(epoch * self.removed_per_epoch + 1e-9)
        return Phase(EVERYTHING if removed >= self.last else removed, 0)


@dataclasses.dataclass(frozen=True)
class LatentStages:
    """Coconut: in stage s (from 1) the first s steps are gone and `s * latents_per_stage` latents are there."""

    num_stages: int
    latents_per_stage: int
    epochs_per_stage: float
    final_stage: bool  # whether one more stage, without any step, comes after them
    resets_optimizer: bool = False
    unit: str = "step"
    smoothing: float = 0.0

    @property
    def num_epochs(self) -> float:
        """The epoch from which on nothing changes."""
        return (self.num_stages - 1 + self.final_stage) * self.epochs_per_stage

    def phase(self, epoch: float) -> Phase:
        """What holds at `epoch`; n epochs a stage are n epochs."""
        stage = 1 + math.floor(epoch / self.epochs_per_stage + 1e-9)
        is_last = stage >= self.num_stages + self.final_stage
        return Phase(EVERYTHING if is_last else stage, min(stage, self.num_stages) * self.latents_per_stage)


@dataclasses.dataclass(frozen=True)
class Constant:
    """No schedule: the same phase from the first step to the last."""

    only: Phase
    unit: str = "step"
    smoothing: float = 0.0
    resets_optimizer: bool = False
    num_epochs: float = 0.0

    def phase(self, epoch: float) -> Phase:
        """What holds at any epoch."""
        return self.only


Schedule = TokenRemoval | LatentStages | Constant


def extra_removed(smoothing: float, uniform: float) -> int:
    """Removal smoothing: how many more an example has removed, geometric with P(n) ~ exp(-smoothing * n)."""
    return math.floor(-math.log(1 - uniform) / smoothing) if smoothing else 0
