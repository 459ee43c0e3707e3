"""How much better a rollout did than the others of its group: what its actions are credited with."""

import numpy as np


def group_advantages(rewards_QG: np.ndarray, *, kind: str = "group", eps: float = 1e-8) -> np.ndarray:
    """float32 `[Q, G]` from the rewards of `Q` groups of `G` rollouts.

    `group` (GRPO): (reward - mean) / (standard deviation + eps), the unbiased one (of G - 1). `dr_grpo`: reward - mean;
    without the division a question that is nearly always (or never) solved does not weigh more than others.
    """
    rewards_QG = np.asarray(rewards_QG, np.float64)
    centred_QG = rewards_QG - rewards_QG.mean(axis=1, keepdims=True)
    if kind == "group":
        centred_QG = centred_QG / (rewards_QG.std(axis=1, ddof=1, keepdims=True) + eps)
    return centred_QG.astype(np.float32)


def has_variance(rewards_QG: np.ndarray) -> np.ndarray:
    """Which groups have anything to tell apart, bool `[Q]`: where all rewards are equal, every advantage is 0."""
    return rewards_QG.max(axis=1) > rewards_QG.min(axis=1)
