"""The norm's own backward pass is the derivative of its forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colar_jax.model.norm import RMSNorm

SIZE, EPS = 24, 1e-5


def plain(x, scale_D):
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + EPS)
    return (wide * scale_D.reshape((1,) * (x.ndim - 1) + (SIZE,))).astype(x.dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("leading", [(3, 7), (5,)])
def test_gradients_are_those_of_the_forward_pass(leading, dtype, tolerance):
    x_key, scale_key, grad_key = jax.random.split(jax.random.key(0), 3)
    x = (0.3 * jax.random.normal(x_key, (*leading, SIZE))).astype(dtype)
    scale_D = 1 + 0.5 * jax.random.normal(scale_key, (SIZE,))
    out_grad = jax.random.normal(grad_key, x.shape).astype(dtype)
    with nnx.use_eager_sharding(False):
        norm = RMSNorm(SIZE, EPS, rngs=nnx.Rngs(0))

    graph, _ = nnx.split(norm)

    def ours(x, scale_D):
        return nnx.merge(graph, {"scale": scale_D})(x)

    out, pull = jax.vjp(ours, x, scale_D)
    wanted_out, wanted_pull = jax.vjp(plain, x, scale_D)
    np.testing.assert_array_equal(np.asarray(out, np.float32), np.asarray(wanted_out, np.float32))
    for gradient, wanted in zip(pull(out_grad), wanted_pull(out_grad), strict=True):
        assert gradient.dtype == wanted.dtype
        gradient, wanted = (np.asarray(value, np.float32) for value in (gradient, wanted))
        np.testing.assert_allclose(gradient, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())
