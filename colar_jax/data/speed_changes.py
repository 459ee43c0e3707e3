"""Changes of speed in mid-chain, one a problem: where in its chain, and from which speed."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from colar_jax.data.grouping import num_groups
from colar_jax.settings.speeds import ASKED_PHASE


@dataclasses.dataclass(frozen=True, eq=False)
class SpeedChanges:
    """Of `N` problems; the speed after the change is what a model has to learn to choose."""

    speeds_N: np.ndarray  # float64, before the change
    after_N: np.ndarray  # int64, how many latents come before it, at least 1
    labels_N: np.ndarray | None = None  # int32, of a grid of speeds after it (`OwnSpeed.labels_of`)

    def head(self, count: int) -> "SpeedChanges":
        """Those of the first problems alone."""
        labels_N = None if self.labels_N is None else self.labels_N[:count]
        return SpeedChanges(self.speeds_N[:count], self.after_N[:count], labels_N)


def draw_changes(step_lengths: np.ndarray, speeds: Sequence[float], seed: int) -> SpeedChanges:
    """A speed before the change, each as likely, and a place inside the chain of so many tokens, each as likely.

    A chain of one latent has its change after that one: all that follows is the end.
    """
    rng = np.random.default_rng((seed, len(step_lengths)))
    speeds_N = rng.choice(np.asarray(speeds, np.float64), len(step_lengths))
    most_N = np.maximum(num_groups(step_lengths, speeds_N, ASKED_PHASE) - 1, 1)
    return SpeedChanges(speeds_N, rng.integers(1, most_N + 1))
