"""The pure functions of the loss against NumPy, and the policy gradient against an exact one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colar_jax.config import RlConfig
from colar_jax.rl.credit import advantages_of, has_variance, term_weights
from colar_jax.rl.update import clipped_loss, k3_divergence

RNG = np.random.default_rng(0)
NEW, OLD, ADVANTAGES = (RNG.normal(size=(6, 5)).astype(np.float32) * 0.5 for _ in range(3))
MASK = np.arange(5) < np.array([5, 1, 3, 0, 2, 4])[:, None]


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.5)])
def test_clipping(low, high):
    loss, ratios = clipped_loss(NEW, OLD, ADVANTAGES, RlConfig(epsilon=low, epsilon_high=high))
    expected_ratios = np.exp(NEW - OLD)
    bounded = np.clip(expected_ratios, 1 - low, 1 + high)
    np.testing.assert_allclose(ratios, expected_ratios, rtol=1e-5)
    expected = -np.minimum(expected_ratios * ADVANTAGES, bounded * ADVANTAGES)
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)


def test_clip_higher_lets_good_actions_grow_further_and_bad_ones_shrink_as_far():
    def gradient(log_ratio, advantage, high):
        loss = lambda new: clipped_loss(new, 0.0, advantage, RlConfig(epsilon_high=high))[0]  # noqa: E731
        return float(jax.grad(loss)(jnp.float32(log_ratio)))

    assert gradient(np.log(1.3), 1.0, 0.2) == 0 and gradient(np.log(1.3), 1.0, 0.4) < 0
    assert gradient(np.log(0.7), -1.0, 0.2) == gradient(np.log(0.7), -1.0, 0.4) == 0
    # What went wrong is still corrected: a bad action that grew, a good one that shrank.
    assert gradient(np.log(1.3), -1.0, 0.2) > 0 and gradient(np.log(0.7), 1.0, 0.2) < 0


def test_k3_is_not_negative_and_its_gradient_is_that_of_the_divergence_at_hand():
    difference = np.linspace(-2, 2, 41).astype(np.float32)
    values = k3_divergence(jnp.zeros(41), difference)
    assert (np.asarray(values) >= 0).all() and float(values[20]) == 0
    slope = jax.vmap(jax.grad(k3_divergence), in_axes=(0, 0))(jnp.zeros(41), difference)
    np.testing.assert_allclose(slope, 1 - np.exp(difference), rtol=1e-5, atol=1e-6)
    # Its mean over the policy's own actions is the divergence.
    own, other = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])
    estimate = float(np.sum(own * np.asarray(k3_divergence(np.log(own), np.log(other)))))
    assert estimate == pytest.approx(np.sum(own * np.log(own / other)), rel=1e-5)


def test_weights_of_the_aggregations():
    values = RNG.normal(size=MASK.shape)
    per_chain = np.array([np.mean(row[mask]) if mask.any() else 0.0 for row, mask in zip(values, MASK, strict=True)])

    def weights(aggregation, mask=MASK):
        return term_weights(mask, RlConfig(loss_aggregation=aggregation, configured_length=7))

    def total(aggregation):
        return np.sum(values * weights(aggregation))

    assert total("chain_mean") == pytest.approx(per_chain.mean(), rel=1e-6)
    assert total("configured_length") == pytest.approx(np.sum(values * MASK) / 7 / len(MASK), rel=1e-6)
    assert total("token") == pytest.approx(values[MASK].mean(), rel=1e-6)
    assert not weights("token", np.zeros((2, 3), bool)).any()


def test_advantages():
    rewards = np.array([[1, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0.5]])
    np.testing.assert_array_equal(has_variance(rewards, RlConfig()), [True, False, True])
    grpo, plain = (advantages_of(rewards, RlConfig(advantage=name)) for name in ("group", "dr_grpo"))
    np.testing.assert_allclose(plain, rewards - rewards.mean(axis=1, keepdims=True), rtol=1e-6)
    np.testing.assert_allclose(grpo[0], np.array([1, -1, -1, 1]) * 0.5 / np.std(rewards[0], ddof=1), rtol=1e-6)
    assert not grpo[1].any()
    np.testing.assert_allclose(grpo[2] * np.std(rewards[2], ddof=1), plain[2], rtol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_policy_gradient_is_that_of_the_expected_reward(sign):
    """A policy over five actions, each with its reward: everything can be added up."""
    logits, rewards = jnp.array([0.3, -0.5, 1.0, 0.0, -1.0]), jnp.array([1.0, 0.0, 0.2, 0.7, 0.0])
    exact = jax.grad(lambda logits: jnp.sum(jax.nn.softmax(logits) * rewards))(logits)
    groups, size = 4000, 8
    actions = jax.random.categorical(jax.random.key(0), logits, shape=(groups, size))
    advantages = sign * advantages_of(np.asarray(rewards[actions]), RlConfig(advantage="dr_grpo"))
    weights = term_weights(np.ones((groups, size, 1), bool), RlConfig())[..., 0]
    old = jax.nn.log_softmax(logits)[actions]

    def loss(logits):
        terms, _ = clipped_loss(jax.nn.log_softmax(logits)[actions], old, advantages, RlConfig())
        return jnp.sum(terms * weights)

    # The mean of a group has the action itself in it, which takes 1 / G of the signal.
    estimate = -np.asarray(jax.grad(loss)(logits)) * size / (size - 1)
    error = 5 * 0.45 / np.sqrt(groups * size)
    assert (np.abs(estimate - exact) < error).all() == (sign == 1)
