"""Changes of speed in mid-chain, one a problem: where in its chain, and from which speed."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from colar_jax.data.grouping import full_ends, num_groups
from colar_jax.settings.speeds import ASKED_PHASE


@dataclasses.dataclass(frozen=True, eq=False)
class SpeedChanges:
    """Of `N` problems; the speed after the change is what a model has to learn to choose."""

    speeds_N: np.ndarray  # float64, before the change
    after_N: np.ndarray  # int64, how many latents come before it, at least 1
    # int32, of a grid of speeds after it (`OwnSpeed.labels_of`); -1 where none was right
    labels_N: np.ndarray | None = None

    def head(self, count: int) -> "SpeedChanges":
        """Those of the first problems alone."""
        labels_N = None if self.labels_N is None else self.labels_N[:count]
        return SpeedChanges(self.speeds_N[:count], self.after_N[:count], labels_N)


def ends_line(ends_G: np.ndarray, num_tokens: int, step_starts: np.ndarray) -> np.ndarray:
    """Of each group of a chain whether the next step begins where it ends, or nothing comes after it; bool `[G]`."""
    return np.isin(ends_G, step_starts) | (ends_G >= num_tokens)


def draw_changes(
    step_lengths: np.ndarray, step_starts: Sequence[np.ndarray], speeds: Sequence[float], seed: int
) -> SpeedChanges:
    """A speed before the change, each as likely, and a latent inside the chain that ends a line, each as likely.

    Where no group of that speed ends a line before the last one does, the change comes after any latent; in a chain of
    one latent after that one, where all that follows is the end.
    """
    rng = np.random.default_rng((seed, len(step_lengths)))
    speeds_N = rng.choice(np.asarray(speeds, np.float64), len(step_lengths))
    after_N = np.ones(len(step_lengths), np.int64)
    for index, (length, starts, speed) in enumerate(zip(step_lengths, step_starts, speeds_N, strict=True)):
        inside_G = full_ends(int(num_groups(length, speed, ASKED_PHASE)), speed, ASKED_PHASE)[:-1]
        places = np.flatnonzero(np.isin(inside_G, starts))
        places = places if len(places) else np.arange(max(len(inside_G), 1))
        after_N[index] = 1 + rng.choice(places)
    return SpeedChanges(speeds_N, after_N)
