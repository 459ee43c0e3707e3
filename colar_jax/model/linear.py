"""The linear layer, and the gated product between two of them, with backward passes that copy and keep little."""

import jax
import jax.numpy as jnp
from flax import nnx

Axes = tuple[str | None, ...]


# A matrix is transposed in tiles of so many rows and columns, where XLA would multiply it as it is (`_transposed`).
TILE = 64


@jax.custom_vjp
def project(x, kernel_IO):
    """`x @ kernel` over the last dimension of `x`, accumulated in float32 when `x` is of lower precision.

    The weight gradient contracts the *flattened* leading dimensions of both operands: XLA's CPU backend would otherwise
    materialise a transposed copy of each (a quarter of a training step on two cores).

    Under `jax.default_matmul_precision("bfloat16")` float32 operands are rounded to bfloat16 here, in the backward pass
    too, and products are summed in float32. XLA's CPU backend knows no precision but that of the operands; a CPU with
    matrix units (AMX) multiplies them several times as fast (`benchmarks/matmul_precision.py`).
    """
    return _project_forward(x, kernel_IO)[0]


def _project_forward(x, kernel_IO):
    # Residuals stay as they came: a scan over layers would write a rounded copy of each.
    return jnp.matmul(*_as_multiplied(x, kernel_IO), preferred_element_type=x.dtype), (x, kernel_IO)


def _project_backward(residuals, grad):
    dtype = grad.dtype
    x, kernel_IO, grad = _as_multiplied(*residuals, grad)
    flat_x, flat_grad = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
    # Elsewhere products of transposed matrices are as fast as others.
    if x.dtype != dtype and jax.default_backend() == "cpu" and _has_tiles(flat_x):
        kernel_grad_IO = jnp.matmul(_transposed(flat_x), flat_grad, preferred_element_type=jnp.float32)
    else:
        kernel_grad_IO = jax.lax.dot_general(
            flat_x, flat_grad, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
        )
    x_grad = jax.lax.dot_general(grad, kernel_IO, (((grad.ndim - 1,), (1,)), ((), ())), preferred_element_type=dtype)
    return x_grad, kernel_grad_IO.astype(residuals[1].dtype)


def _as_multiplied(*operands):
    """Operands at the precision that products are asked for; it is known when a program is traced."""
    if jax.config.jax_default_matmul_precision != "bfloat16":
        return operands
    return tuple(operand.astype(jnp.bfloat16) for operand in operands)


def _has_tiles(matrix) -> bool:
    return all(size % TILE == 0 for size in matrix.shape)


def _transposed(x_MD):
    """`x.T`, a tile at a time.

    XLA's CPU backend would fold a plain transpose into the product, for which it then has no bfloat16 kernel: it
    widens both operands to float32, and is four times as slow.
    """
    M, D = x_MD.shape
    return x_MD.reshape(M // TILE, TILE, D // TILE, TILE).transpose(2, 3, 0, 1).reshape(D, M)


project.defvjp(_project_forward, _project_backward)


@jax.custom_vjp
def swiglu(gate, up):
    """`silu(gate) * up`. Its backward pass recomputes the sigmoid instead of keeping three more arrays of this size."""
    return jax.nn.silu(gate) * up


def _swiglu_forward(gate, up):
    return swiglu(gate, up), (gate, up)


def _swiglu_backward(residuals, grad):
    gate, up = residuals
    sigmoid = jax.nn.sigmoid(gate)
    gate_grad = grad * up * sigmoid * (1 + gate * (1 - sigmoid))
    return gate_grad, grad * gate * sigmoid


swiglu.defvjp(_swiglu_forward, _swiglu_backward)


def geglu(gate, up):
    """`gelu(gate) * up`, with the tanh approximation of Gemma."""
    return jax.nn.gelu(gate, approximate=True) * up


GATED = {"silu": swiglu, "gelu_tanh": geglu}  # `LlamaConfig.activation`


def parameter(rngs: nnx.Rngs, shape: tuple[int, ...], axes: Axes, *, stddev: float | None = None, fill: float = 0.0):
    """A float32 parameter with its logical axis names: normal with `stddev`, or constant `fill`."""
    if stddev is None:
        value = jnp.full(shape, fill, jnp.float32)
    else:
        value = stddev * jax.random.normal(rngs.params(), shape, jnp.float32)
    return nnx.Param(value, out_sharding=axes)


def along_last(vector_D, x):
    """`[D]` with a leading axis of size 1 for each of `x`'s: scales or shifts the last axis, without rank promotion."""
    return vector_D.reshape((1,) * (x.ndim - 1) + vector_D.shape)


class Linear(nnx.Module):
    """`x @ kernel + bias`, computed in the dtype of `x`, and what an adapter adds to it (`model.lora`).

    The kernel starts at 1/sqrt(inputs), which keeps a signal's size. That is the usual 0.02 at 2,048 inputs; a small
    model of 128 would start every layer four times too quiet with it.
    """

    def __init__(
        self,
        in_size: int,
        out_size: int,
        axes: Axes,
        *,
        bias: bool = False,
        adapter: nnx.Module | None = None,
        rngs: nnx.Rngs,
    ):
        self.kernel = parameter(rngs, (in_size, out_size), axes, stddev=in_size**-0.5)
        self.bias = parameter(rngs, (out_size,), axes[-1:]) if bias else None
        self.adapter = adapter

    def __call__(self, x, dropout_keys_B=None):
        out = project(x, self.kernel[...].astype(x.dtype))
        if self.adapter is not None:
            out = out + self.adapter(x, dropout_keys_B)
        return out if self.bias is None else out + along_last(self.bias[...].astype(x.dtype), out)
