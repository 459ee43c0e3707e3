"""A model from this device's part of its parameters, inside `shard_map`."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx, traverse_util

from colar_jax.model.reasoner import Reasoner
from colar_jax.parallel import fsdp
from colar_jax.parallel.sharding import Tree, split_dimension

_STACKED = ("llama", "blocks")
# Stacked layers, also of a method's own copy of a Llama, are gathered one by one where they are used.
_BLOCKS = "blocks"


def merge_shards(graph, shards: Tree, specs: Tree) -> Reasoner:
    """The model: embedding and language head whole at once; its layers are gathered when it is their turn.

    Args:
        shards: all parameters, split over `fsdp` as `specs` (of `parallel.sharding.parameter_specs`) say.
    """
    flat = traverse_util.flatten_dict(shards)
    for path, spec in traverse_util.flatten_dict(specs).items():
        if path[1] != _BLOCKS:
            flat[path] = fsdp.gather(flat[path], split_dimension(spec, fsdp.AXIS))
    return nnx.merge(graph, traverse_util.unflatten_dict(flat))


def layer_gatherer(specs: Tree, dtype: jnp.dtype) -> Callable[[Tree], Tree] | None:
    """What makes a layer's weights whole, which travel in `dtype`; None where they are."""
    # A layer has no axis of layers.
    dimensions = {
        path[2:]: dimension - 1
        for path, spec in traverse_util.flatten_dict(specs).items()
        if path[:2] == _STACKED and (dimension := split_dimension(spec, fsdp.AXIS)) is not None
    }
    if not dimensions:
        return None

    def gather_layer(layer: Tree) -> Tree:
        gathered = {
            path: fsdp.gather(leaf, dimensions.get(path), dtype)
            for path, leaf in traverse_util.flatten_dict(layer).items()
        }
        return traverse_util.unflatten_dict(gathered)

    return gather_layer
