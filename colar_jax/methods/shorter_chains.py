"""Shorter chains of thought by plain training: the shortest right one of a model's own, and the control for it.

Concise self-training (arXiv 2502.20122): a stage samples some chains of each training problem from the model that it
starts from, and learns the shortest that ends in the right answer. Problems that it never gets right are left out.
"""

import dataclasses
from typing import ClassVar

from colar_jax.methods.cot import Cot
from colar_jax.settings.checks import require


@dataclasses.dataclass(frozen=True)
class Concise(Cot):
    """A chain of thought, learned from the model's own (`runs.own_chains` samples them)."""

    group: ClassVar[str] = "concise"

    num_chains: int = 8  # sampled for each problem, as `decode` says (stop_temperature, top_p)
    num_problems: int = 4000  # training problems that are asked; 0: all

    def __post_init__(self):
        require(self.num_chains > 0, f"concise.num_chains={self.num_chains} must be positive")
        require(self.num_problems >= 0, f"concise.num_problems={self.num_problems} is negative: 0 means all")


@dataclasses.dataclass(frozen=True)
class DroppedSteps(Cot):
    """The control: the data's own chains, with random steps left out until they are as short as other ones."""

    group: ClassVar[str] = "dropped_steps"

    # A stage of method concise, or its folder: the same problems, each chain about as long as there. Empty: `share`.
    like: str = ""
    share: float = 0.5  # of each chain's tokens that stay, as nearly as steps in one random order come to it

    def __post_init__(self):
        require(0 <= self.share <= 1, f"dropped_steps.share={self.share} is not between 0 and 1")
