"""Where each parameter lies on a mesh, from the logical names that its module gives its axes.

The table is the whole rule. What it does not name is the same on all devices: norms, adapters, the latent head.
"""

from typing import Any

import jax
import numpy as np
from flax import nnx, traverse_util
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from colar_jax.parallel.mesh import put

Tree = dict[str, Any]
# The name of each axis of each parameter, by the parameter's path.
LogicalAxes = dict[tuple[str, ...], tuple[str | None, ...]]

# logical axis -> mesh axis
RULES = {"embed": "fsdp", "vocab": "tensor", "heads": "tensor", "kv_heads": "tensor", "mlp": "tensor"}


def parameter_specs(graph, parameters: Tree, mesh: Mesh) -> Tree:
    """A `PartitionSpec` for each parameter (arrays, tracers or shapes, of the whole model).

    A dimension is split where its name has a rule and the mesh axis divides it (a vocabulary with an added row, for
    one, has few divisors); otherwise it is whole everywhere. No mesh axis is used twice in one parameter.
    """
    names_of = logical_axes(graph, parameters)
    flat = traverse_util.flatten_dict(parameters)
    return traverse_util.unflatten_dict({path: _spec(names_of[path], leaf.shape, mesh) for path, leaf in flat.items()})


def logical_axes(graph, parameters: Tree) -> LogicalAxes:
    """The names that the modules give the axes of their parameters (arrays, tracers or shapes, of the whole model)."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), parameters)
    names: LogicalAxes = {}

    def read(parameters):
        for path, variable in nnx.to_flat_state(nnx.state(nnx.merge(graph, parameters))):
            names[path] = variable.get_metadata().get("out_sharding") or ()

    jax.eval_shape(read, shapes)
    return names


def _spec(names: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh) -> P:
    axes: list[str | None] = []
    for name, size in zip(names, shape, strict=True):
        axis = RULES.get(name)
        is_split = axis is not None and axis not in axes and mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0
        axes.append(axis if is_split else None)
    while axes and axes[-1] is None:
        axes.pop()
    return P(*axes)


def specs_for(tree: Tree, specs: Tree) -> Tree:
    """The specs of some of a model's parameters, or of a copy of them under another name (RL's reference policy)."""
    flat_specs = traverse_util.flatten_dict(specs)
    flat = traverse_util.flatten_dict(tree)
    return traverse_util.unflatten_dict({path: flat_specs[path if path in flat_specs else path[1:]] for path in flat})


def shardings_of(specs, mesh: Mesh):
    """The same tree of `NamedSharding`s."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda leaf: isinstance(leaf, P))


def moved(tree, specs, mesh: Mesh):
    """Arrays that lie on another mesh of the same devices, as `specs` say on this one; as they are where none does."""
    shardings = (getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(tree))
    if all(getattr(sharding, "mesh", mesh) == mesh for sharding in shardings):
        return tree
    return put(tree, shardings_of(specs, mesh))


def placed_shapes(tree, specs, mesh: Mesh):
    """A tree of `jax.ShapeDtypeStruct`s (from shapes or arrays) with the shardings of a tree of specs."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings_of(specs, mesh),
    )


def only(axes: frozenset[str], specs):
    """The part of each spec that is about these axes: what a `shard_map` that is manual over them is told."""

    def part(spec: P) -> P:
        return P(*(axis if axis in axes else None for axis in spec))

    return jax.tree.map(part, specs, is_leaf=lambda leaf: isinstance(leaf, P))


def split_dimension(spec: P, axis: str) -> int | None:
    """Which dimension of a parameter is split over a mesh axis."""
    return spec.index(axis) if axis in spec else None


def bytes_per_device(parameters: Tree, specs: Tree, mesh: Mesh, axes: tuple[str, ...] = ("fsdp", "tensor")) -> int:
    """What of the parameters a device holds, if they are split over these axes."""
    total = 0
    for leaf, spec in zip(
        jax.tree.leaves(parameters),
        jax.tree.leaves(specs, is_leaf=lambda leaf: isinstance(leaf, P)),
        strict=True,
    ):
        parts = int(np.prod([mesh.shape[axis] for axis in spec if axis in axes]))
        total += int(np.prod(leaf.shape)) * leaf.dtype.itemsize // parts
    return total
