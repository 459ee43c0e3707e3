"""How an optimizer moves what is trained: the learning rate, AdamW for everything, or Muon for matrices.

Muon (Jordan et al. 2024, github.com/KellerJordan/Muon) makes the average of a matrix's gradients orthogonal before it
takes the step; with the update scaled to the size of AdamW's (arXiv 2502.16982, section 2.2), one learning rate and one
weight decay serve both.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from colar_jax.config import OptimizerConfig
from colar_jax.parallel.sharding import LogicalAxes, Tree
from colar_jax.training.state import TrainState

# The root mean square of an AdamW update before the learning rate, as it was measured in arXiv 2502.16982.
ADAMW_RMS = 0.2
STACKED = "layers"  # the logical axis of stacked layers: each has a matrix of its own
# Axes of words or of choices: rows that are looked up or scored one by one, which are no map from space to space.
TABLES = frozenset({"vocab", "choice_out"})


def learning_rate_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then a cosine to `final_fraction` of the peak at `num_steps`, or the peak for ever."""
    warmup = optax.linear_schedule(0.0, config.learning_rate, max(config.warmup_steps, 1))
    if config.schedule == "constant":
        after = optax.constant_schedule(config.learning_rate)
    else:
        rest = max(num_steps - config.warmup_steps, 1)
        after = optax.cosine_decay_schedule(config.learning_rate, rest, alpha=config.final_fraction)
    return optax.join_schedules([warmup, after], [config.warmup_steps])


def make_optimizer(
    config: OptimizerConfig, num_steps: int, axes: LogicalAxes | None = None
) -> optax.GradientTransformation:
    """Clipping by the norm over all that is trained, then the optimizer that `config.name` says.

    AdamW decays every parameter, decoupled, as in PyTorch.

    Args:
        axes: what the model says of its parameters (`parallel.sharding.logical_axes`): Muon asks which are matrices.
    """
    rate = learning_rate_schedule(config, num_steps)
    adamw = optax.adamw(rate, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay)
    if config.name == "muon":
        if axes is None:
            raise ValueError("Muon has to be told the logical axes of the parameters")
        moved = optax.partition(
            {"muon": _muon(config, rate, axes), "adamw": adamw}, lambda tree: _optimizer_of_each(tree, axes)
        )
    else:
        moved = adamw
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), moved)


def matrix_axes(names: tuple[str | None, ...]) -> optax.contrib.MuonDimensionNumbers | None:
    """Which axes of a parameter are a matrix's inputs and outputs, by their logical names; None where it is no matrix.

    An adapter's factors are matrices. Each of the stacked layers has its own. Embedding, language head and the head
    over speeds are tables, norms and biases are vectors.
    """
    of_matrix = [axis for axis, name in enumerate(names) if name != STACKED]
    if len(of_matrix) != 2 or TABLES & set(names):
        return None
    return optax.contrib.MuonDimensionNumbers(*of_matrix)


def _optimizer_of_each(tree: Tree, axes: LogicalAxes) -> Tree:
    return jax.tree.map_with_path(lambda path, _: "adamw" if matrix_axes(axes[_names(path)]) is None else "muon", tree)


def _names(path) -> tuple[str, ...]:
    return tuple(key.key for key in path)


def _muon(config: OptimizerConfig, rate: optax.Schedule, axes: LogicalAxes) -> optax.GradientTransformation:
    """Of matrices alone: what is none has been taken out of the trees that it sees."""

    def matrices(tree: Tree) -> Tree:
        return jax.tree.map_with_path(lambda path, _: matrix_axes(axes[_names(path)]), tree)

    def as_large_as_adamw(path, update):
        """An orthogonal matrix `[I, O]` has a root mean square of 1 / sqrt(max(I, O))."""
        size = max(update.shape[axis] for axis in matrix_axes(axes[_names(path)]))
        return ADAMW_RMS * size**0.5 * update

    return optax.chain(
        optax.contrib.scale_by_muon(beta=config.momentum, weight_dimension_numbers=matrices),
        optax.stateless(lambda updates, _: jax.tree.map_with_path(as_large_as_adamw, updates)),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(rate),
    )


def without_moments(state: TrainState) -> TrainState:
    """The state with the averages of gradients as before the first step; the learning rate goes on by its schedule."""

    def keeps_averages(part) -> bool:
        return isinstance(part, optax.ScaleByAdamState | optax.contrib.MuonState)

    def forget(part):
        if not keeps_averages(part):
            return part
        forgotten = jax.tree.map(jnp.zeros_like, part)
        # Muon's coefficients are no average.
        return forgotten._replace(ns_coeffs=part.ns_coeffs) if hasattr(part, "ns_coeffs") else forgotten

    return dataclasses.replace(state, optimizer=jax.tree.map(forget, state.optimizer, is_leaf=keeps_averages))


def at_update(state: TrainState, number: int) -> TrainState:
    """The state with the learning rate of update `number` (from 0), whatever the number of those taken."""

    def is_schedule(part) -> bool:
        return isinstance(part, optax.ScaleByScheduleState)

    def moved(part):
        return part._replace(count=jnp.full_like(part.count, number)) if is_schedule(part) else part

    return dataclasses.replace(state, optimizer=jax.tree.map(moved, state.optimizer, is_leaf=is_schedule))
