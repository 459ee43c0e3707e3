"""GELU's own backward pass is the derivative of its forward pass, also in a sharded step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from scipy import special

from colar_jax.model.gelu import gelu
from colar_jax.parallel.mesh import make_mesh


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_its_value_is_that_of_jax(dtype):
    x = jnp.linspace(-6, 6, 201).astype(dtype)
    np.testing.assert_array_equal(np.asarray(gelu(x)), np.asarray(jax.nn.gelu(x, approximate=False)))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 2e-2)])
def test_gradients_are_those_of_the_formula(dtype, tolerance):
    x = jnp.linspace(-6, 6, 201).astype(dtype)
    gradient = jax.grad(lambda x: gelu(x).sum())(x)
    exact = np.asarray(x, np.float64)
    wanted = special.ndtr(exact) + exact * np.exp(-0.5 * exact**2) / np.sqrt(2 * np.pi)
    assert gradient.dtype == x.dtype
    np.testing.assert_allclose(np.asarray(gradient, np.float64), wanted, atol=tolerance)


def test_it_is_differentiated_where_values_vary_over_the_mesh():
    """As in every training step: jax 0.12.0 cannot do that with its own derivative."""
    mesh, spec = make_mesh(), PartitionSpec("data")
    gradient = jax.jit(jax.shard_map(jax.grad(lambda x: gelu(x).sum()), mesh=mesh, in_specs=spec, out_specs=spec))
    np.testing.assert_allclose(np.asarray(gradient(jnp.zeros(8))), 0.5)
