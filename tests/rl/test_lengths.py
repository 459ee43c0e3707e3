"""What short chains are paid: only right ones, more where more is right, and nothing where nothing is."""

import numpy as np
import pytest

from colar_jax.config import RlConfig
from colar_jax.rl.credit import advantages_of
from colar_jax.rl.lengths import LENGTH_CREDITS, LengthWeight, Outcomes, rollout_advantages

LENGTHS = np.array([[2, 4, 6, 8]] * 5)
RIGHT = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 1]], bool)
FORCED = LENGTHS == 8
OUTCOMES = Outcomes(RIGHT.astype(float), RIGHT, LENGTHS, FORCED, max_latents=8)


def of(weight: float = 0.5, outcomes: Outcomes = OUTCOMES, **settings):
    return rollout_advantages(outcomes, RlConfig(num_generations=4, minibatch_size=4, **settings), weight)


def correctness(**settings) -> np.ndarray:
    rl = RlConfig(num_generations=4, minibatch_size=4, **settings)
    return advantages_of(RIGHT.astype(float), rl)


def test_no_length_credit_is_the_advantage_of_the_rewards():
    advantages_QG, informative_Q = of(length_credit="none")
    np.testing.assert_array_equal(advantages_QG, correctness())
    assert informative_Q.tolist() == [False, True, True, False, True]


def test_among_right_is_a_second_advantage():
    advantages_QG, informative_Q = of(length_credit="among_right", length_target=1.0)
    of_lengths_QG = advantages_QG - correctness()
    np.testing.assert_allclose(of_lengths_QG[~RIGHT], 0, atol=1e-6)
    np.testing.assert_allclose(
        of_lengths_QG[0], 0.5 * np.array([3, 1, -1, -3]) / np.std([2, 4, 6, 8], ddof=1), rtol=1e-5
    )
    # Half as much where half is right; nothing where one or none is.
    np.testing.assert_allclose(of_lengths_QG[1], 0.25 * np.array([1, -1, 0, 0]) / np.sqrt(2), rtol=1e-5)
    np.testing.assert_allclose(of_lengths_QG[2:4], 0, atol=1e-6)
    assert informative_Q.tolist() == [True, True, True, False, True], "an all-right group teaches lengths"
    # Below the target it falls with the accuracy; from it on it is whole.
    whole, half = (
        of(length_credit="among_right", length_target=0.5)[0],
        of(length_credit="among_right", length_target=1.0)[0],
    )
    np.testing.assert_allclose((whole - correctness())[1], 2 * (half - correctness())[1], rtol=1e-5)
    np.testing.assert_allclose(whole[0], half[0], rtol=1e-6)


def test_when_solved_shortens_what_is_solved_and_lengthens_what_is_not():
    rl = RlConfig()
    bonus_QG = LENGTH_CREDITS["when_solved"](OUTCOMES, rl, 0.5).reward_QG
    np.testing.assert_allclose(bonus_QG[0], -1e-4 * np.array([-3, -1, 1, 3]) / 6, rtol=1e-9)
    np.testing.assert_allclose(
        bonus_QG[4], [0.1 * (2 - 16 / 3) / 6, 0, 0.1 * (6 - 16 / 3) / 6, 0.1 * (8 - 16 / 3) / 6], rtol=1e-9
    )
    assert not bonus_QG[2:4].any(), "of one right length, or none, there is no longer one"
    assert (bonus_QG[~RIGHT] == 0).all() and np.abs(bonus_QG).max() < 0.5, "never makes up for a wrong answer"
    advantages_QG, informative_Q = of(length_credit="when_solved")
    assert advantages_QG[0, 0] > 1 and informative_Q[0], "in a group that is all right it alone decides"


@pytest.mark.parametrize("name", [name for name in LENGTH_CREDITS if name != "cost"])  # a price on every pass
def test_equal_lengths_of_right_answers_are_paid_alike_and_wrong_ones_nothing(name):
    equal = Outcomes(RIGHT.astype(float), RIGHT, np.full_like(LENGTHS, 5), np.zeros_like(RIGHT), max_latents=8)
    credit = LENGTH_CREDITS[name](equal, RlConfig(), 0.5)
    for added in (credit.reward_QG, credit.advantage_QG):
        added_QG = np.broadcast_to(added, RIGHT.shape)
        assert np.isfinite(added_QG).all() and not added_QG[~RIGHT].any() and len(set(added_QG[RIGHT])) == 1


def test_a_penalty_is_part_of_the_reward():
    bonus_QG = LENGTH_CREDITS["penalty"](OUTCOMES, RlConfig(), 0.5).reward_QG
    np.testing.assert_allclose(bonus_QG, -0.5 * RIGHT * LENGTHS / 8)


def test_lengths_are_compared_within_a_prompt():
    """Of two speeds in a group the slower one has longer chains: no reason to be paid less."""
    lengths_QG, right_QG = np.array([[10, 10, 2, 2]]), np.ones((1, 4), bool)
    both = Outcomes(right_QG.astype(float), right_QG, lengths_QG, ~right_QG, max_latents=16)
    for name in ("among_right", "when_solved", "penalty"):
        assert not of(outcomes=both, length_credit=name, speeds_per_group=2)[0].any(), name
        assert of(outcomes=both, length_credit=name, speeds_per_group=2, centre="group")[0].any(), name


def test_overlong_rollouts():
    counted, without, left_out = (of(overlong=how)[0] for how in ("count", "no_advantage", "left_out"))
    assert counted[4, 3] != 0 and not without[FORCED].any() and not left_out[FORCED].any()
    np.testing.assert_array_equal(without[~FORCED], counted[~FORCED])
    # Left out they change neither mean nor spread of the others.
    others = advantages_of(RIGHT[:, :3].astype(float), RlConfig(num_generations=3, minibatch_size=3))
    np.testing.assert_allclose(left_out[:, :3], others, rtol=1e-6)
    only_forced = Outcomes(*(values[:1, [3, 3, 3, 0]] for values in (1.0 * RIGHT, RIGHT, LENGTHS, FORCED)), 8)
    assert not of(outcomes=only_forced, overlong="left_out", length_credit="penalty")[1].any()


def test_the_weight_follows_a_budget():
    weight = LengthWeight(RlConfig(length_credit="penalty", budget=8.0, budget_rate=0.1), 0.5)
    weight.follow(16.0)
    assert weight.value == pytest.approx(0.6), "twice as long as wanted: one rate up"
    weight.follow(4.0)
    assert weight.value == pytest.approx(0.55)
    for _ in range(20):
        weight.follow(1.0)
    assert weight.value == 0, "never paid for long chains"
    fixed = LengthWeight(RlConfig(length_credit="penalty"), 0.5)
    fixed.follow(100.0)
    assert fixed.value == 0.5


@pytest.mark.parametrize("eps", [0.0, 1e-8])
@pytest.mark.parametrize("advantage", ["group", "dr_grpo"])
@pytest.mark.parametrize("overlong", ["count", "no_advantage", "left_out"])
def test_what_is_compared_and_worth_the_same_teaches_nothing(overlong, advantage, eps):
    """0.1 is not the mean of three 0.1, as computers count: no division may make an advantage of that."""
    rewards_QG = np.array([[0.1, 0.1, 0.1, 0.7], [0.1, 0.1, 0.1, 0.1], [0.0, 1.0, 0.0, 1.0]])
    forced_QG = np.zeros((3, 4), bool)
    forced_QG[0, 3] = overlong == "left_out"
    outcomes = Outcomes(rewards_QG, rewards_QG > 0, LENGTHS[:3], forced_QG, max_latents=8)
    advantages_QG, informative_Q = of(outcomes=outcomes, overlong=overlong, advantage=advantage, advantage_eps=eps)
    assert informative_Q.tolist() == [overlong != "left_out", False, True]
    assert np.isfinite(advantages_QG).all() and (advantages_QG[~informative_Q] == 0).all()
