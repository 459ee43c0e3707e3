"""Clipping and alarms see how far a latent's distribution moved, whatever its number of dimensions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colar_jax.config import RlConfig
from colar_jax.rl.update import clipped_loss, latent_loss

NUM_LATENTS = 2000


def moved(size: int, nats: float) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities, means over dimensions, of latents now and before: the mean moved by a divergence of `nats`."""
    rng = np.random.default_rng(size)
    noise = rng.normal(size=(NUM_LATENTS, size))
    shift = np.sqrt(2 * nats / size)  # of every dimension, in standard deviations
    return (-0.5 * np.square(noise - shift)).mean(axis=1), (-0.5 * np.square(noise)).mean(axis=1)


def outside(ratios, rl: RlConfig) -> float:
    return float(np.mean((ratios < 1 - rl.epsilon) | (ratios > 1 + rl.epsilon_high)))


@pytest.mark.parametrize(("size", "nats"), [(128, 16.0), (2048, 400.0)])
def test_a_latent_that_left_its_distribution_is_clipped(size, nats):
    now, old = moved(size, nats)
    whole, reduced = RlConfig(), RlConfig(latent_ratio="reduced")
    assert outside(latent_loss(now, old, 1.0, size, whole)[1], whole) > 0.99
    assert outside(latent_loss(now, old, 1.0, size, reduced)[1], reduced) < 0.05  # how it was: hardly any


@pytest.mark.parametrize("size", [128, 2048])
def test_a_small_move_is_clipped_alike_at_all_sizes(size):
    """0.005 nats a latent: the ratio's logarithm has a standard deviation of 0.1."""
    now, old = moved(size, 0.005)
    _, ratios = latent_loss(now, old, 1.0, size, RlConfig())
    assert outside(ratios, RlConfig()) < 0.06
    assert float(np.std(np.log(np.asarray(ratios, np.float64)))) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("size", [128, 2048])
@pytest.mark.parametrize(("reduction", "scale"), [("mean", 1.0), ("root", None), ("sum", "size")])
def test_at_unchanged_parameters_the_gradient_is_that_of_the_reduced_log_probability(size, reduction, scale):
    expected = {None: size**0.5, "size": size}.get(scale, scale)
    for latent_ratio in ("whole", "reduced"):
        rl = RlConfig(log_prob_reduction=reduction, latent_ratio=latent_ratio)
        slope = jax.grad(lambda new, rl=rl: latent_loss(new, 0.3, 1.0, size, rl)[0])(jnp.float32(0.3))
        assert float(slope) == pytest.approx(-expected, rel=1e-5)


def test_a_bad_action_that_became_likely_counts_no_more_than_the_dual_clip():
    def slope(log_ratio, advantage, **settings):
        rl = RlConfig(**settings)
        return float(jax.grad(lambda new: clipped_loss(new, 0.0, advantage, rl)[0])(jnp.float32(log_ratio)))

    assert slope(6.0, -1.0) == pytest.approx(np.exp(6.0), rel=1e-4)  # without: 400 times that of a token on policy
    assert slope(6.0, -1.0, dual_clip=3.0) == 0
    assert slope(1.0, -1.0, dual_clip=3.0) == slope(1.0, -1.0) > 0
    assert slope(-6.0, 1.0, dual_clip=3.0) == slope(-6.0, 1.0) < 0


@pytest.mark.parametrize(("advantage", "dual_clip"), [(1.0, 0.0), (0.0, 0.0), (1.0, 3.0), (0.0, 3.0), (-1.0, 3.0)])
@pytest.mark.parametrize("nats", [50.0, 87.0, 100.0, 1000.0])
def test_a_clipped_latent_that_became_far_more_likely_has_no_gradient(nats, advantage, dual_clip):
    """A float32's exponential ends at 88 nats; at 2,048 dimensions that is 0.04 nats each."""
    rl = RlConfig(dual_clip=dual_clip)

    def loss(log_prob):
        losses, ratios = latent_loss(log_prob, jnp.float32(0.0), jnp.float32(advantage), 2048, rl)
        return losses, ratios

    log_prob = jnp.float32(nats / 2048)
    slope, ratio = jax.grad(loss, has_aux=True)(log_prob)
    assert float(slope) == 0.0 and np.isfinite(float(ratio)) and float(ratio) > 1e20
    clip = -3.0 if advantage < 0 else 1.2
    assert float(loss(log_prob)[0]) == pytest.approx(-clip * abs(advantage) / 2048, rel=1e-5)


def test_a_bad_latent_without_a_limit_has_an_unbounded_gradient():
    """Which ends the run, as a loss that is not finite does: nothing may hide it."""
    loss = lambda log_prob: latent_loss(log_prob, jnp.float32(0.0), jnp.float32(-1.0), 2048, RlConfig())[0]  # noqa: E731
    assert np.isinf(float(loss(jnp.float32(100 / 2048))))
