"""The device mesh, and how a batch lies on it."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
# Rows of a batch are split over these axes; what is not a batch is the same on all of them.
BATCH_AXES = ("data", "fsdp")
ROWS = P(BATCH_AXES)
REPLICATED = P()


def make_mesh(devices: list | None = None) -> Mesh:
    """All devices along the data axis (the other axes have size 1, which costs nothing)."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.array(devices).reshape(len(devices), 1, 1), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def num_shards(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are split."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))


def put_rows(batch, mesh: Mesh):
    """A pytree of host arrays onto the devices, split by rows."""
    return jax.device_put(batch, NamedSharding(mesh, ROWS))


def replicate(tree, mesh: Mesh):
    """A pytree onto the devices, the same on each."""
    return jax.device_put(tree, NamedSharding(mesh, REPLICATED))
