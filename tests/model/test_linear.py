"""The linear layer's product, at the precision that is asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colar_jax.model.linear import TILE, project


def arrays(leading, in_size, out_size):
    """An input, a kernel, and a gradient of their product."""
    rng = np.random.default_rng(0)
    shapes = (*leading, in_size), (in_size, out_size), (*leading, out_size)
    return tuple(rng.standard_normal(shape, dtype=np.float32) for shape in shapes)


def product_and_gradients(x, kernel_IO, grad):
    """Of the compiled layer: its product, and the gradients of input and kernel."""
    product, backward = jax.vjp(project, x, kernel_IO)
    return product, *backward(grad)


def expected_of(x, kernel_IO, grad):
    """The same in float64."""
    x, kernel_IO, grad = (np.asarray(array, np.float64) for array in (x, kernel_IO, grad))
    flat_x, flat_grad = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
    return x @ kernel_IO, grad @ kernel_IO.T, flat_x.T @ flat_grad


# Whole tiles, which are transposed one by one, and what has none.
SIZES = [((2, TILE), 2 * TILE, 30), ((3, 5), 20, 30), ((7,), TILE, TILE)]


@pytest.mark.parametrize(("leading", "in_size", "out_size"), SIZES)
def test_a_product_is_that_of_its_operands(leading, in_size, out_size):
    given = arrays(leading, in_size, out_size)
    found = jax.jit(product_and_gradients)(*given)
    for one, expected in zip(found, expected_of(*given), strict=True):
        np.testing.assert_allclose(one, expected, atol=1e-4)


@pytest.mark.parametrize(("leading", "in_size", "out_size"), SIZES)
def test_in_bfloat16_it_is_that_of_rounded_operands_in_float32(leading, in_size, out_size):
    given = arrays(leading, in_size, out_size)
    with jax.default_matmul_precision("bfloat16"):
        found = jax.jit(product_and_gradients)(*given)
    rounded = [jnp.asarray(array, jnp.bfloat16) for array in given]
    for one, expected, exact in zip(found, expected_of(*rounded), expected_of(*given), strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, expected, atol=1e-4)
        assert np.abs(one - exact).max() > 1e-3


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_bfloat16_stays_bfloat16(precision):
    given = [jnp.asarray(array, jnp.bfloat16) for array in arrays((TILE,), TILE, 8)]
    with jax.default_matmul_precision(precision):
        found = jax.jit(product_and_gradients)(*given)
    assert {one.dtype for one in found} == {jnp.dtype(jnp.bfloat16)}
