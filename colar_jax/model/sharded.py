"""A model from this device's part of its parameters, inside `shard_map`."""

import jax.numpy as jnp
from flax import nnx, traverse_util
from jax.sharding import Mesh

from colar_jax.model.execution import Execution
from colar_jax.model.reasoner import Reasoner
from colar_jax.parallel import fsdp
from colar_jax.parallel.sharding import Tree, split_dimension

_STACKED = ("llama", "blocks")


def merge(
    graph, shards: Tree, specs: Tree, *, mesh: Mesh, dtype: str, attention: str, gathers_each_step: bool = False
) -> Reasoner:
    """The model: embedding and language head whole at once, each layer's weights when it is its turn.

    Args:
        shards: all parameters, split over `fsdp` as `specs` (of `parallel.sharding.parameter_specs`) say.
        dtype: in which layers compute: their weights travel in it.
        attention, gathers_each_step: of `Execution`.
    """
    flat, layer_dimensions = traverse_util.flatten_dict(shards), {}
    for path, spec in traverse_util.flatten_dict(specs).items():
        dimension = split_dimension(spec, fsdp.AXIS)
        if path[:2] != _STACKED:
            flat[path] = fsdp.gather(flat[path], dimension)
        elif dimension is not None:  # a layer has no axis of layers
            layer_dimensions[path[2:]] = dimension - 1

    def gather_layer(layer: Tree) -> Tree:
        gathered = {
            path: fsdp.gather(leaf, layer_dimensions.get(path), jnp.dtype(dtype))
            for path, leaf in traverse_util.flatten_dict(layer).items()
        }
        return traverse_util.unflatten_dict(gathered)

    model = nnx.merge(graph, traverse_util.unflatten_dict(flat))
    model.llama.execution = Execution(
        gather_layer=gather_layer if layer_dimensions else None,
        gathers_each_step=gathers_each_step and bool(layer_dimensions),
        attention=attention,
        splits_heads=mesh.shape["tensor"] > 1,
    )
    return model
