"""Weights that are split over `fsdp`: gathered where they are used, their gradients scattered where they are made.

The transpose of an all-gather *is* the reduce-scatter of the gradient, so the backward pass needs nothing of its own.
"""

import functools

import jax
import jax.numpy as jnp

AXIS = "fsdp"
TILE_ROWS = 8  # of a TPU's tiles of float32


def gather(shard, dimension: int | None, dtype=None):
    """The whole weight, in `dtype` (default: its own), from the shards along `dimension`; inside `shard_map`.

    It travels in `dtype` (half the bytes in bfloat16); its gradient is added up over the devices in the weight's own.
    With `dimension` None the weight is whole already.
    """
    if dimension is None:
        return shard
    return _gather(shard, dimension, jnp.dtype(dtype or shard.dtype), shard.dtype)


def _all_gather(shard, dimension: int, dtype):
    with jax.named_scope("gather"):
        return jax.lax.all_gather(shard.astype(dtype), AXIS, axis=dimension, tiled=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gather(shard, dimension: int, dtype, own_dtype):
    return _all_gather(shard, dimension, dtype)


def _gather_forward(shard, dimension, dtype, own_dtype):
    # Not `_gather` itself: a call inside a call hides the collective from remat policies.
    return _all_gather(shard, dimension, dtype), None


def _gather_backward(dimension, dtype, own_dtype, _, gradient):
    with jax.named_scope("scatter"):
        return (scatter(gradient.astype(own_dtype), dimension),)


def scatter(gradient, dimension: int):
    """This device's shard along `dimension` of the sum over the devices; inside `shard_map`.

    Its forms are those of which a TPU's compiler makes a reduce-scatter that sends no more than it must. It adds up and
    passes on a few rows too many where the first dimension is split as it stands, and makes an all-reduce, which sends
    twice as much, where rows that are split along a later one are no whole number of its tiles for each device
    (docs/plan.md).
    """
    num_devices, num_rows = jax.lax.axis_size(AXIS), gradient.shape[0]
    if dimension == 0:
        of_shards = gradient.reshape(num_devices, -1, *gradient.shape[1:])
        return jax.lax.psum_scatter(of_shards, AXIS, scatter_dimension=0)
    padding = [(0, -num_rows % (TILE_ROWS * num_devices)), *[(0, 0)] * (gradient.ndim - 1)]
    padded = jnp.pad(gradient, padding) if padding[0][1] else gradient
    return jax.lax.psum_scatter(padded, AXIS, scatter_dimension=dimension, tiled=True)[:num_rows]


_gather.defvjp(_gather_forward, _gather_backward)


def all_but_gathered(primitive, *_, **__) -> bool:
    """A remat policy: keep everything for the backward pass but gathered weights, which are gathered again.

    Otherwise a scan over the layers would keep the whole model. The gather of a frozen weight, which nobody
    differentiates, is still a call when the policy is asked.
    """
    return primitive.name not in ("all_gather", "custom_vjp_call")
