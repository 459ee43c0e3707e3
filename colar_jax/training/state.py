"""What training changes, and what it leaves alone."""

import dataclasses
from collections.abc import Collection

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax.sharding import Mesh

from colar_jax.config import OptimizerConfig
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


def learning_rate_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then a cosine to `final_fraction` of the peak at `num_steps`, or the peak for ever."""
    warmup = optax.linear_schedule(0.0, config.learning_rate, max(config.warmup_steps, 1))
    if config.schedule == "constant":
        after = optax.constant_schedule(config.learning_rate)
    else:
        rest = max(num_steps - config.warmup_steps, 1)
        after = optax.cosine_decay_schedule(config.learning_rate, rest, alpha=config.final_fraction)
    return optax.join_schedules([warmup, after], [config.warmup_steps])


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW (decoupled decay of every parameter, as in PyTorch)."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate_schedule(config, num_steps), b1=config.b1, b2=config.b2, weight_decay=config.weight_decay
        ),
    )


def without_moments(state: TrainState) -> TrainState:
    """The state with AdamW's moments as before the first step; the learning rate goes on by its schedule."""

    def is_moments(part) -> bool:
        return isinstance(part, optax.ScaleByAdamState)

    def forget(part):
        return jax.tree.map(jnp.zeros_like, part) if is_moments(part) else part

    return dataclasses.replace(state, optimizer=jax.tree.map(forget, state.optimizer, is_leaf=is_moments))


def at_update(state: TrainState, number: int) -> TrainState:
    """The state with the learning rate of update `number` (from 0), whatever the number of those taken."""

    def is_schedule(part) -> bool:
        return isinstance(part, optax.ScaleByScheduleState)

    def moved(part):
        return part._replace(count=jnp.full_like(part.count, number)) if is_schedule(part) else part

    return dataclasses.replace(state, optimizer=jax.tree.map(moved, state.optimizer, is_leaf=is_schedule))


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
    of_optimizer = optax.tree.map_params(
        optimizer, lambda _, spec: spec, state.optimizer, own, transform_non_params=lambda _: REPLICATED
    )
    return TrainState(REPLICATED, own, of_optimizer)


def place_state(state: TrainState, optimizer: optax.GradientTransformation, specs: Tree, mesh: Mesh) -> TrainState:
    """A state onto the devices, as a step leaves it (otherwise the second step would be compiled once more)."""
    return put(state, shardings_of(state_specs(state, optimizer, specs), mesh))


def state_shapes(trainable: Tree, optimizer: optax.GradientTransformation, specs: Tree, mesh: Mesh) -> TrainState:
    """The shapes of `place_state(initial_state(trainable, optimizer), ...)`, with shardings: nothing is allocated."""
    state = jax.eval_shape(lambda tree: initial_state(tree, optimizer), trainable)
    return placed_shapes(state, state_specs(state, optimizer, specs), mesh)
