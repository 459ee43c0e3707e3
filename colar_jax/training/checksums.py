"""Sums by which a checkpoint that was read is known to be the one that was saved.

A leaf's sum is that of its elements' bits, taken as unsigned integers, modulo 2^32: any shard may add its part, so it
does not depend on how the leaf lies on the devices. It changes with any overwritten stretch of the leaf, but for one
chance in 2^32; that elements changed places, which no disk does, it does not see. On the CPU it costs about 1 % of what
reading costs.
"""

import json
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

_WORD = 2**32


def sums_of(leaf_of_path: dict[str, Any]) -> dict[str, int]:
    """The sum of each array, the same in every process; all processes call it with the same paths."""
    parts = {path: _own_sums(leaf) for path, leaf in leaf_of_path.items()}
    own = np.array([sum(map(int, part)) % _WORD for part in parts.values()], np.uint32)
    if jax.process_count() > 1:
        own = multihost_utils.process_allgather(own).astype(np.uint64).sum(axis=0) % _WORD
    return dict(zip(parts, map(int, own), strict=True))


def digest_of(facts: dict[str, Any], metrics: dict[str, float]) -> int:
    """A checksum of all that is saved beside the arrays: their identity, their sums and the metrics."""
    kept = [facts["identity"], facts.get("sums"), {name: repr(value) for name, value in metrics.items()}]
    return zlib.crc32(json.dumps(kept, sort_keys=True).encode())


def _own_sums(leaf: Any) -> list:
    """Of this process's shards, each counted once in all processes; still on the devices, where these are no CPUs."""
    if not isinstance(leaf, jax.Array):
        return [_sum(np.asarray(leaf))] if jax.process_index() == 0 else []
    shards = [shard.data for shard in leaf.addressable_shards if shard.replica_id == 0]
    is_on_host = leaf.sharding.device_set and next(iter(leaf.sharding.device_set)).platform == "cpu"
    return [_sum(np.asarray(shard)) if is_on_host else _device_sum(shard) for shard in shards]


def _sum(array: np.ndarray) -> int:
    unsigned = np.dtype(f"u{array.dtype.itemsize}")
    words = np.ascontiguousarray(array).reshape(-1).view(unsigned)
    # Words of 64 bits are as good as those of 32 in a sum modulo 2^32, if both of their halves are counted.
    if unsigned.itemsize == 8:
        words = words.view(np.uint32)
    return int(np.add.reduce(words, dtype=np.uint32)) if words.size else 0


@jax.jit
def _device_sum(array: jax.Array) -> jax.Array:
    if array.dtype == jnp.bool_:
        return jnp.sum(array, dtype=jnp.uint32)
    unsigned = jnp.dtype(f"uint{8 * array.dtype.itemsize}")
    return jnp.sum(jax.lax.bitcast_convert_type(array, unsigned), dtype=jnp.uint32)
