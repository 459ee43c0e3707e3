"""What changes evenly over a stage's iterations: the floor, the odds of stopping, the limit on thinking.

All three are data to the compiled programs, so a new value compiles nothing.
"""

import dataclasses

import jax
import numpy as np

from colar_jax.config import DecodeConfig, RlConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Annealed:
    """Their values in one iteration, as scalars."""

    cut_at: np.int32  # thinking is cut after so many latents
    min_std: np.float32  # floor of the latents' standard deviation
    stop_odds_temperature: np.float32


def annealed(rl: RlConfig, decode: DecodeConfig, iteration: int, num_iterations: int) -> Annealed | None:
    """Of iteration `iteration` (from 0); None where all three stay, so that they may be part of the programs."""
    if not (rl.final_max_latents or rl.final_min_std or rl.final_stop_odds_temperature):
        return None
    share = min(iteration / max(num_iterations - 1, 1), 1.0)

    def between(first: float, last: float) -> float:
        return first + share * (last - first) if last else first

    return Annealed(
        cut_at=np.int32(round(between(decode.max_latents, rl.final_max_latents))),
        min_std=np.float32(between(rl.min_std, rl.final_min_std)),
        stop_odds_temperature=np.float32(between(rl.stop_odds_temperature, rl.final_stop_odds_temperature)),
    )
