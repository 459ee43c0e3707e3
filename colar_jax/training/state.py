"""What training changes, and what it leaves alone."""

import dataclasses
from collections.abc import Collection

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax.sharding import Mesh

from colar_jax.model.lora import joined, split_base
from colar_jax.parallel.mesh import REPLICATED, put
from colar_jax.parallel.sharding import Tree, parameter_specs, placed_shapes, shardings_of, specs_for

REFERENCE = "reference"  # among what is frozen: what the first policy of reinforcement learning was trained to


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that an optimizer step replaces: only this is donated, averaged over devices and saved."""

    step: jax.Array  # int32 scalar: optimizer steps taken
    trainable: Tree
    optimizer: optax.OptState


def partition(parameters: Tree, trains: Collection[str]) -> tuple[Tree, Tree]:
    """Parameters as (trainable, frozen); `join` is the inverse.

    What adapters stand beside is never trained, nor is the embedding scale.

    Args:
        trains: the parts of the model that are trained, as `Method.trains` names them.
    """
    own, base = split_base(parameters)

    def is_trainable(path: tuple[str, ...]) -> bool:
        return path[0] in trains and path[-1] != "embed_std"

    flat = traverse_util.flatten_dict(own)
    parts = ({p: v for p, v in flat.items() if is_trainable(p) is wanted} for wanted in (True, False))
    trainable, frozen = (traverse_util.unflatten_dict(part) for part in parts)
    return trainable, join(frozen, base)


def join(trainable: Tree, frozen: Tree) -> Tree:
    """The whole parameters from their two parts."""
    return joined(trainable, frozen)


def initial_state(trainable: Tree, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.int32(0), trainable, optimizer.init(trainable))


def model_specs(graph, trainable: Tree, frozen: Tree, mesh: Mesh) -> Tree:
    """How all parameters of the model lie on a mesh (`parallel.sharding.parameter_specs`).

    `frozen` may hold a copy of what is trained under `REFERENCE`, which lies as the model does (`specs_for`).
    """
    parameters = join(trainable, frozen)
    return parameter_specs(graph, {name: part for name, part in parameters.items() if name != REFERENCE}, mesh)


def state_specs(state: TrainState, optimizer: optax.GradientTransformation, specs: Tree) -> TrainState:
    """How a state lies on a mesh: what the optimizer keeps of a parameter lies as the parameter does."""
    own = specs_for(state.trainable, specs)

    def is_elsewhere(part) -> bool:
        """Whether another optimizer moves this parameter."""
        return isinstance(part, optax.MaskedNode)

    of_optimizer = optax.tree.map_params(
        optimizer,
        lambda part, spec: part if is_elsewhere(part) else spec,
        state.optimizer,
        own,
        transform_non_params=lambda _: REPLICATED,
        is_leaf=is_elsewhere,
    )
    return TrainState(REPLICATED, own, of_optimizer)


def place_state(state: TrainState, optimizer: optax.GradientTransformation, specs: Tree, mesh: Mesh) -> TrainState:
    """A state onto the devices, as a step leaves it (otherwise the second step would be compiled once more)."""
    return put(state, shardings_of(state_specs(state, optimizer, specs), mesh))


def state_shapes(trainable: Tree, optimizer: optax.GradientTransformation, specs: Tree, mesh: Mesh) -> TrainState:
    """The shapes of `place_state(initial_state(trainable, optimizer), ...)`, with shardings: nothing is allocated."""
    state = jax.eval_shape(lambda tree: initial_state(tree, optimizer), trainable)
    return placed_shapes(state, state_specs(state, optimizer, specs), mesh)
