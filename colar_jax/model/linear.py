"""The linear layer, and the gated product between two of them, with backward passes that copy and keep little."""

import jax
import jax.numpy as jnp
from flax import nnx

Axes = tuple[str | None, ...]


@jax.custom_vjp
def project(x, kernel_IO):
    """`x @ kernel` over the last dimension of `x`, accumulated in float32 when `x` is of lower precision.

    The weight gradient contracts the *flattened* leading dimensions of both operands: XLA's CPU backend would otherwise
    materialise a transposed copy of each (a quarter of a training step on two cores).
    """
    return jnp.matmul(x, kernel_IO)


def _project_forward(x, kernel_IO):
    # Not `project` itself: a call inside a call hides the product from remat policies, which then keep none.
    return jnp.matmul(x, kernel_IO), (x, kernel_IO)


def _project_backward(residuals, grad):
    x, kernel_IO = residuals
    flat_x = x.reshape(-1, x.shape[-1])
    flat_grad = grad.reshape(-1, grad.shape[-1])
    kernel_grad_IO = jax.lax.dot_general(
        flat_x, flat_grad, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
    ).astype(kernel_IO.dtype)
    x_grad = jax.lax.dot_general(grad, kernel_IO, (((grad.ndim - 1,), (1,)), ((), ())))
    return x_grad, kernel_grad_IO


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
