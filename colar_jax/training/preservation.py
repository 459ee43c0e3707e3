"""Which checkpoints of a stage stay, and which is the best."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

# The metrics that say which checkpoint is best, the higher the better: the first that any of a stage's checkpoints has.
# Reinforcement learning maximises the mean reward, even where that costs a little accuracy.
BEST_BY = ("reward", "accuracy")

# What Orbax knows of a checkpoint: its step and its metrics.
Metadata = Any


@dataclasses.dataclass(frozen=True, eq=False)
class BestAndLatest:
    """Orbax's preservation policy for "best n and latest".

    Its own `BestN` keeps checkpoints without a metric for ever, or counts them among the n while there are few.
    """

    keep_best: int
    late_metrics: dict[int, dict[str, float]]  # by step, of checkpoints that were saved without

    def should_preserve(self, checkpoints: Sequence[Metadata], *, context: Any) -> list[bool]:
        kept = self.kept(checkpoints)
        return [checkpoint.step in kept for checkpoint in checkpoints]

    def kept(self, checkpoints: Iterable[Metadata]) -> set[int]:
        """The steps that stay."""
        checkpoints = list(checkpoints)
        latest = sorted(checkpoint.step for checkpoint in checkpoints)[-1:]
        return {*self.ranked(checkpoints)[: self.keep_best], *latest}

    def ranked(self, checkpoints: Iterable[Metadata]) -> list[int]:
        """The steps that have the metric, best first; of equals the latest first."""
        values = {one.step: one.metrics or self.late_metrics.get(one.step, {}) for one in checkpoints}
        metric = next((name for name in BEST_BY if any(name in of_step for of_step in values.values())), None)
        value_of_step = {step: of_step[metric] for step, of_step in values.items() if metric in of_step}
        measured = [step for step, value in value_of_step.items() if math.isfinite(value)]
        return sorted(measured, key=lambda step: (value_of_step[step], step), reverse=True)
