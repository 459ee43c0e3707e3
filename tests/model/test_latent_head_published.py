"""Our latent head against the recorded latent policy: mean, std, density, entropy and draws, at two temperatures."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx
from golden.published import largest_difference, published_model, recorded

TOLERANCE = 1e-5


@functools.partial(jax.jit, static_argnames="deterministic")
def predict(hidden, *, deterministic=False):
    graph, parameters = published_model(deterministic=deterministic)
    return nnx.merge(graph, parameters).latent_head(hidden)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_gaussian(temperature):
    forward = recorded("forward")
    expected = {k: forward[f"policy/T{temperature}/{k}"] for k in ("mean", "std", "log_prob", "entropy", "rsample")}
    noise, target = forward[f"policy/T{temperature}/noise"], forward["policy/target"]
    predicted = predict(forward["policy/x"])
    assert largest_difference(predicted.mean, expected["mean"]) < TOLERANCE
    assert largest_difference(temperature * predicted.std, expected["std"]) < TOLERANCE
    assert largest_difference(predicted.log_prob(target, temperature), expected["log_prob"]) < TOLERANCE
    assert largest_difference(predicted.sample(noise, temperature), expected["rsample"]) < TOLERANCE
    # Ours is the entropy at temperature 1, which is what training rewards; a factor on std adds its logarithm.
    assert largest_difference(predicted.entropy() + np.log(temperature), expected["entropy"]) < TOLERANCE


def test_deterministic():
    """The published std of 1e-9, whose entropy is -19.3, is none at all here: a draw is the mean."""
    forward = recorded("forward")
    predicted = predict(forward["policy/x"], deterministic=True)
    assert largest_difference(predicted.mean, forward["policy/det/mean"]) < TOLERANCE
    np.testing.assert_allclose(forward["policy/det/std"], 1e-9, rtol=1e-6)
    np.testing.assert_array_equal(predicted.std, np.zeros_like(forward["policy/det/std"]))
    np.testing.assert_array_equal(predicted.sample(forward["policy/T1.0/noise"]), predicted.mean)
