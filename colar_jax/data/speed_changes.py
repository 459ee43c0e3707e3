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
    after_N: np.ndarray  # int64, how many latents come before it; 0 where the chain has no place for one
    # int32, of a grid of speeds after it (`OwnSpeed.labels_of`); -1 where there is no place, and where none was right
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
    """A speed before the change and a latent inside the chain that ends a line there, each as likely as any other.

    A model is asked nowhere else. Of a chain only those speeds are drawn at which a latent but the last one ends a
    line; where there is none, as of a single line, it keeps one speed of them all.
    """
    rng = np.random.default_rng((seed, len(step_lengths)))
    speeds_N, after_N = np.zeros(len(step_lengths)), np.zeros(len(step_lengths), np.int64)
    for index, (length, starts) in enumerate(zip(step_lengths, step_starts, strict=True)):
        places_of = {speed: _line_ends_inside(int(length), starts, float(speed)) for speed in speeds}
        of_changes = [speed for speed, places in places_of.items() if len(places)]
        speeds_N[index] = speed = rng.choice(of_changes or speeds)
        if of_changes:
            after_N[index] = 1 + rng.choice(places_of[speed])
    return SpeedChanges(speeds_N, after_N)


def _line_ends_inside(num_tokens: int, step_starts: np.ndarray, speed: float) -> np.ndarray:
    """The indices of the groups after which a next step begins."""
    ends_G = full_ends(int(num_groups(num_tokens, speed, ASKED_PHASE)), speed, ASKED_PHASE)[:-1]
    return np.flatnonzero(np.isin(ends_G, step_starts))
