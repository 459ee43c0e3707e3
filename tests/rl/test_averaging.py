"""What averaging over a chain does to its length: exact expected gradients of a policy that only decides when to stop.

Chain `n` takes decisions 1 .. n, the last of which is to stop; at the limit it stops by itself. `right_L` says how
often a chain of each length is right.
"""

import numpy as np
import pytest
from cases import fast

from colar_jax.config import RlConfig
from colar_jax.rl.credit import advantages_of, term_weights
from colar_jax.rl.tree_batch import weights_of

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


@pytest.mark.parametrize("aggregation", fast(AGGREGATIONS, AGGREGATIONS[0]))
def test_the_length_goes_to_where_chains_are_right(aggregation):
    start = expected_gradient(np.full(LIMIT, -1.0), LENGTHS / LIMIT, aggregation)[1]
    assert length_after(0.2 + 0.7 * LENGTHS / LIMIT, aggregation) > start + 6
    assert length_after(0.9 - 0.7 * LENGTHS / LIMIT, aggregation) < start - 2


# A group of two speeds. After each latent of four a chain stops with a probability that makes all lengths equally
# likely; whether it is right does not depend on its length: 3 in 4 at one speed, 1 in 4 at the other.
STOPS = np.array([1 / 4, 1 / 3, 1 / 2, 1.0])
CHAINS = np.array([(length, right) for length in range(1, 5) for right in (1, 1, 1, 0)])


def gradients_of_two_speeds(**settings) -> list[np.ndarray]:
    """Of the stop decisions' logits at each speed, over all chains that there are: nothing is left to chance."""
    rl = RlConfig(num_generations=32, minibatch_size=32, speeds_per_group=2, **settings)
    lengths_C, right_C = CHAINS.T
    rewards_QG = np.concatenate([right_C, 1 - right_C])[None].astype(float)  # 3 in 4 are wrong at the second speed
    mask_CL = np.arange(1, 5)[None] <= lengths_C[:, None]
    mask_CL[:, -1] = False  # the fourth latent is the last in any case
    score_CL = (np.arange(1, 5)[None] == lengths_C[:, None]) - STOPS
    weights_CL = term_weights(np.concatenate([mask_CL, mask_CL]), rl)[: len(mask_CL)]
    of_speeds = advantages_of(rewards_QG, rl).reshape(2, -1)
    return [(advantages_C[:, None] * weights_CL * score_CL * mask_CL).sum(axis=0) for advantages_C in of_speeds]


@pytest.mark.parametrize("advantage", ["group", "dr_grpo"])
def test_a_speed_that_is_right_more_often_is_not_pushed_shorter(advantage):
    """What all rollouts of a prompt have in common is no advantage: a mean over the chain would pay for length."""
    for gradient_L in gradients_of_two_speeds(advantage=advantage):
        np.testing.assert_allclose(gradient_L, 0, atol=1e-7)
    better_L, worse_L = gradients_of_two_speeds(advantage=advantage, centre="group")
    assert better_L[:3].max() > 0.004 and worse_L[:3].min() < -0.004  # how it was: shorter, and longer


def length_after_answers(stop_credit: str, aggregation: str, steps: int = 4000, rate: float = 6.0) -> float:
    """Where chains of 64 latents at most go that are right in one of two, whatever their length.

    A right answer has 5 tokens, a wrong one 11: the only thing that differs.
    """
    limit, answers = 64, {5: 1.0, 11: -1.0}
    rl = RlConfig(stop_credit=stop_credit, credit_forced_stops=True, loss_aggregation=aggregation, configured_length=32)
    steps_LL = np.arange(1, limit + 1)[None] <= np.arange(1, limit + 1)[:, None]
    stops_LL = np.eye(limit, dtype=bool)
    weights = {}
    for tokens in answers:
        answer_LA = np.ones((limit, tokens), bool)
        masks = {"latent": steps_LL, "decision": stops_LL if stop_credit == "answer" else steps_LL, "answer": answer_LA}
        # A chain at a time: its weights among many are these, up to their number.
        one_at_a_time = [
            weights_of({kind: mask[None, n : n + 1] for kind, mask in masks.items()}, rl) for n in range(limit)
        ]
        weights[tokens] = np.concatenate([of_chain["decision"][0] for of_chain in one_at_a_time])
    logits_L = np.full(limit, -3.0)
    for _ in range(steps):
        stop_L = 1 / (1 + np.exp(-logits_L))
        reached_L = np.append(1.0, np.cumprod(1 - stop_L)[:-1])
        probability_L = stop_L * reached_L
        probability_L[-1] = reached_L[-1]  # cut at the limit, whatever the policy says
        score_LL = np.eye(limit) - np.where(steps_LL, stop_L, 0.0)
        gradient_L = sum(
            0.5 * advantage * (probability_L[:, None] * weights[tokens] * score_LL).sum(axis=0)
            for tokens, advantage in answers.items()
        )
        logits_L = logits_L + rate * gradient_L
    return float(probability_L @ np.arange(1, limit + 1))


@pytest.mark.parametrize(
    ("stop_credit", "aggregation", "length"),
    [("answer", "chain_mean", 1), ("answer", "configured_length", 19), ("decision", "chain_mean", 19)],
)
def test_stopping_credited_as_the_answers_first_token_makes_chains_short(stop_credit, aggregation, length):
    """As published: a short answer gives its stop a large share, and right answers are the short ones."""
    start = 19.0  # of logits at -3, cut at 64
    after = length_after_answers(stop_credit, aggregation)
    assert after == pytest.approx(length, abs=1.5), (start, after)
