"""RMSNorm's own backward pass is that of the plain formula, on every platform's way to add up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colar_jax.model import norm
from colar_jax.model.norm import RMSNorm

EPS = 1e-5


def plain(x_BTD, scale_D):
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x_BTD), axis=-1, keepdims=True) + EPS)
    return x_BTD * inverse * scale_D[None, None]


def inputs():
    keys = jax.random.split(jax.random.key(0), 3)
    x_BTD = 3.0 * jax.random.normal(keys[0], (2, 5, 16))
    return x_BTD, 1.0 + 0.3 * jax.random.normal(keys[1], (16,)), jax.random.normal(keys[2], x_BTD.shape)


@pytest.mark.parametrize("add_up", [norm._sums, norm._sums_by_products])
def test_gradients_are_those_of_the_formula(monkeypatch, add_up):
    monkeypatch.setattr(norm, "_sums", add_up)
    monkeypatch.setattr(norm, "_sums_by_products", add_up)
    x_BTD, scale_D, grad_BTD = inputs()
    out, pull = jax.vjp(lambda x, scale: norm._normalise(x, scale, EPS), x_BTD, scale_D)
    expected_out, expected_pull = jax.vjp(plain, x_BTD, scale_D)
    np.testing.assert_allclose(out, expected_out, rtol=1e-6)
    for own, expected in zip(pull(grad_BTD), expected_pull(grad_BTD), strict=True):
        np.testing.assert_allclose(own, expected, rtol=2e-5, atol=2e-6)


def test_bfloat16_is_normalised_in_float32():
    x_BTD, scale_D, _ = inputs()
    with nnx.use_eager_sharding(False):
        module = RMSNorm(16, EPS, rngs=nnx.Rngs(0))
    module.scale[...] = scale_D
    low = x_BTD.astype(jnp.bfloat16)
    out = module(low)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, plain(low.astype(jnp.float32), scale_D).astype(jnp.bfloat16))
