"""The device mesh, and how a batch lies on it.

Rows of a batch are split over `data` and `fsdp`; weights over `fsdp` and `tensor` (`parallel.sharding`).
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from colar_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")
# Rows of a batch are split over these axes; what is not a batch is the same on all of them.
BATCH_AXES = ("data", "fsdp")
ROWS = P(BATCH_AXES)
REPLICATED = P()


def make_mesh(devices: list | None = None, sizes: dict[str, int] | None = None, field: str = "parallel.mesh") -> Mesh:
    """A mesh of these devices (default: all). Of `sizes`, `data` may be left to the rest and others default to 1.

    An axis of size 1 costs nothing, so one program serves a laptop and a pod.

    Raises:
        UserError: the sizes, of the setting `field`, do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {} if sizes is None else sizes
    fsdp, tensor = sizes.get("fsdp", 1), sizes.get("tensor", 1)
    data = sizes.get("data", max(1, len(devices) // (fsdp * tensor)))
    if data * fsdp * tensor != len(devices):
        raise UserError(
            f"{field}: data={data} * fsdp={fsdp} * tensor={tensor} is {data * fsdp * tensor}, and there are "
            f"{len(devices)} devices. Name sizes that divide it, or auto"
        )
    return Mesh(np.array(devices).reshape(data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def manual_axes(mesh: Mesh) -> frozenset[str]:
    """The axes that a `shard_map` of ours is manual over: all but a tensor axis that splits something, which is XLA's.

    One of size 1 is manual too: then kernels that XLA cannot split need no `shard_map` of their own.
    """
    return frozenset(BATCH_AXES if mesh.shape["tensor"] > 1 else AXES)


def num_shards(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are split."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))


def summed_axes(mesh: Mesh) -> tuple[str, ...]:
    """The axes over which values of single devices are added up inside a `shard_map`.

    There are none where only `tensor` splits something: rows are whole there, and XLA refuses a sum over axes of
    size 1 beside an axis that it splits by itself.
    """
    return () if mesh.shape["tensor"] > 1 and num_shards(mesh) == 1 else BATCH_AXES


def put(tree, shardings):
    """A pytree of host arrays (or of arrays on one device) onto the devices of `shardings`, a tree of the same form.

    With several processes each must have the whole arrays, the same in all, and takes from them what its devices hold.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)
    return jax.tree.map(_put_own_part, tree, shardings)


def _put_own_part(leaf, sharding: NamedSharding):
    if isinstance(leaf, jax.Array):
        if not leaf.is_fully_addressable:
            return leaf if leaf.sharding == sharding else jax.jit(lambda x: x, out_shardings=sharding)(leaf)
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(_put_own_part(jax.random.key_data(leaf), sharding))
    array = np.asarray(leaf)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def put_rows(batch, mesh: Mesh):
    """A pytree of host arrays onto the devices, split by rows."""
    return put(batch, jax.tree.map(lambda _: NamedSharding(mesh, ROWS), batch))


def shapes_of_rows(batch, mesh: Mesh):
    """As `put_rows`, of shapes (or of arrays for their shapes): what a program is lowered with."""
    rows = NamedSharding(mesh, ROWS)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rows), batch)


def rows_that_divide(num_rows: int, num_shards: int, accumulation: int = 1) -> int:
    """So many rows, and as few empty ones as make them divide by the devices, and a device's by its microbatches."""
    multiple = num_shards * accumulation
    return multiple * -(-num_rows // multiple)


def own_rows(mesh: Mesh, num_rows: int) -> slice:
    """Which rows of a batch this process's devices hold: all it has to read."""
    spans = NamedSharding(mesh, ROWS).addressable_devices_indices_map((num_rows,)).values()
    spans = [span.indices(num_rows)[:2] for (span,) in spans]
    first, last = min(start for start, _ in spans), max(stop for _, stop in spans)
    return slice(first, last)


def put_own_rows(rows, mesh: Mesh, num_rows: int):
    """As `put_rows`, of a batch of which each process has its `own_rows` only."""
    if jax.process_count() == 1:
        return put_rows(rows, mesh)
    sharding, first = NamedSharding(mesh, ROWS), own_rows(mesh, num_rows).start

    def put_leaf(leaf):
        def part(index):
            start, stop, _ = index[0].indices(num_rows)
            return leaf[start - first : stop - first]

        return jax.make_array_from_callback((num_rows, *leaf.shape[1:]), sharding, part)

    return jax.tree.map(put_leaf, rows)


def replicate(tree, mesh: Mesh):
    """A pytree onto the devices, the same on each."""
    return put(tree, jax.tree.map(lambda _: NamedSharding(mesh, REPLICATED), tree))
