"""What averaging over a chain does to its length: exact expected gradients of a policy that only decides when to stop.

Chain `n` takes decisions 1 .. n, the last of which is to stop; at the limit it stops by itself. `right_L` says how
often a chain of each length is right.
"""

import numpy as np
import pytest

from colar_jax.config import RlConfig
from colar_jax.rl.credit import term_weights

LIMIT = 16
LENGTHS = np.arange(1, LIMIT + 1)
AGGREGATIONS = ("chain_mean", "configured_length")


def expected_gradient(logits_L, right_L, aggregation: str):
    """Of the stop decisions' logits, and the mean length under them."""
    stop_L = np.append(1 / (1 + np.exp(-logits_L[:-1])), 1.0)
    probability_L = stop_L * np.append(1.0, np.cumprod(1 - stop_L)[:-1])
    advantage_L = right_L - probability_L @ right_L
    mask_LL = LENGTHS[None] <= LENGTHS[:, None]
    mask_LL[-1, -1] = False  # a forced stop was not chosen
    # A chain at a time: the weights of one chain among many, up to the number of chains.
    rl = RlConfig(loss_aggregation=aggregation, configured_length=LIMIT)
    weights_LL = np.concatenate([term_weights(mask_L[None], rl) for mask_L in mask_LL])
    score_LL = np.eye(LIMIT) - stop_L  # of going on -p, of stopping 1 - p
    gradient_L = ((probability_L * advantage_L)[:, None] * weights_LL * score_LL * mask_LL).sum(axis=0)
    return gradient_L, probability_L @ LENGTHS


def length_after(right_L, aggregation: str, steps: int = 3000, rate: float = 4.0) -> float:
    logits_L = np.full(LIMIT, -1.0)
    for _ in range(steps):
        gradient_L, _ = expected_gradient(logits_L, right_L, aggregation)
        logits_L = logits_L + rate * gradient_L
    return expected_gradient(logits_L, right_L, aggregation)[1]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_length_goes_to_where_chains_are_right(aggregation):
    start = expected_gradient(np.full(LIMIT, -1.0), LENGTHS / LIMIT, aggregation)[1]
    assert length_after(0.2 + 0.7 * LENGTHS / LIMIT, aggregation) > start + 6
    assert length_after(0.9 - 0.7 * LENGTHS / LIMIT, aggregation) < start - 2
