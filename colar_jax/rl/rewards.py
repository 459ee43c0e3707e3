"""Rewards: plain Python functions of what rollouts did, called while the device goes on.

    reward(problems, answers, num_latents) -> one number for each rollout

with a `Problem`, the extracted answer (text) and #L for each rollout. `rl.reward` names one of `REWARDS`, or any
function by its import path: `package.module:function`.
"""

import importlib
import math
from collections.abc import Callable, Sequence

import numpy as np

from colar_jax.config import RlConfig, nearest
from colar_jax.data.answers import Verifier
from colar_jax.data.problems import Problem
from colar_jax.errors import UserError

Reward = Callable[[Sequence[Problem], Sequence[str], Sequence[int]], Sequence[float]]


def correctness(config: RlConfig, is_right: Verifier, max_latents: int) -> Reward:
    """1 for a right answer, less `length_penalty * #L / max_latents`; 0 for a wrong one.

    Only right answers lose something by their length: a wrong one is worth nothing, however short.
    """

    def reward(problems, answers, num_latents):
        return [
            (1.0 - config.length_penalty * length / max_latents) if is_right(answer, problem.answer) else 0.0
            for problem, answer, length in zip(problems, answers, num_latents, strict=True)
        ]

    return reward


REWARDS: dict[str, Callable[[RlConfig, Verifier, int], Reward]] = {"correctness": correctness}


def make_reward(config: RlConfig, is_right: Verifier, max_latents: int) -> Reward:
    """The reward that `config.reward` names. UserError where there is none."""
    if config.reward in REWARDS:
        return REWARDS[config.reward](config, is_right, max_latents)
    module_name, separator, name = config.reward.partition(":")
    if not separator:
        raise UserError(
            f"rl.reward={config.reward!r} is none of {', '.join(REWARDS)}.{nearest(config.reward, REWARDS)} A function "
            "of your own is named as package.module:function"
        )
    try:
        reward = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"rl.reward={config.reward!r} cannot be imported: {error}") from None
    if not callable(reward):
        raise UserError(f"rl.reward={config.reward!r} is no function")
    return reward


def rewards_of(reward: Reward, problems, answers, num_latents) -> np.ndarray:
    """One finite float64 for each rollout. UserError where a function of the user's gives something else."""
    values = np.asarray(reward(problems, answers, num_latents), np.float64)
    if values.shape != (len(answers),) or not all(map(math.isfinite, values)):
        raise UserError(
            f"the reward function gave {values!r:.200} for {len(answers)} rollouts: one finite number each is wanted"
        )
    return values
