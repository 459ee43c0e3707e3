"""One optimizer step: jit(gradients under shard_map -> update), whatever the method.

The batch's rows are split over the devices. Supervised positions are counted over all devices and microbatches *before*
the forward pass, so each part's loss is its share of one global mean, and gradients are just added. Weights that
are split over `fsdp` are gathered where they are used (`model.sharded`), which adds their gradients up over `fsdp`; the
rest is added up at the end. The update is elementwise except for the norm, so XLA computes it on the shards.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from colar_jax.config import StageConfig
from colar_jax.engine import Engine
from colar_jax.methods import Method
from colar_jax.metrics import Metric
from colar_jax.model.execution import Execution
from colar_jax.model.reasoner import Reasoner
from colar_jax.parallel.mesh import REPLICATED, ROWS, manual_axes, summed_axes
from colar_jax.parallel.sharding import only, shardings_of, specs_for
from colar_jax.training.state import TrainState, Tree, join, model_specs, state_specs

# A pytree of arrays whose first axis is rows: `data.packing.Batch`, `methods.thinking.thought_rows.ThoughtBatch`,
# `rl.tree_batch.TreeBatch`.
Rows = Any
# (state, frozen, batch, key) -> (state, metrics)
TrainStep = Callable[[TrainState, Tree, Rows, jax.Array], tuple[TrainState, dict[str, Metric]]]
# From this device's part of all parameters to the model.
Merge = Callable[[Tree], Reasoner]
# (merge, how to compute, trainable, frozen, batch, key, counts) -> (this part's share of the loss, metrics)
PartLoss = Callable[[Merge, Execution, Tree, Tree, Rows, jax.Array, Any], tuple[jax.Array, dict[str, Metric]]]


def make_train_step(
    engine: Engine, method: Method, stage: StageConfig, optimizer: optax.GradientTransformation
) -> TrainStep:
    """The compiled step of a method's objective.

    It takes arrays placed as `training.state.state_specs` says. `.lower` takes their shapes, with shardings, as well.
    """

    def loss(merge: Merge, compute: Execution, trainable, frozen, batch: Rows, key, counts):
        keys_B = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, batch.row_ids_B)
        return method.objective(merge(join(trainable, frozen)), batch, keys_B, counts, compute)

    return compile_step(
        engine,
        loss,
        optimizer,
        count=method.count,
        accumulation=stage.accumulation,
        matmul_precision=stage.matmul_precision,
    )


def compile_step(
    engine: Engine,
    part_loss: PartLoss,
    optimizer: optax.GradientTransformation,
    *,
    count: Callable[[Rows], Any],
    accumulation: int,
    matmul_precision: str = "default",
) -> TrainStep:
    """The compiled step of any loss. `state` is donated; `key` is the run's, the step's own is folded in.

    `count` says what a batch has; the loss is told how much the whole step has of it.
    """
    mesh, axes = engine.mesh, summed_axes(engine.mesh)

    def step(state: TrainState, frozen, batch: Rows, key):
        specs = model_specs(engine.graph, state.trainable, frozen, mesh)
        own_specs, frozen_specs = (
            only(manual_axes(mesh), specs_for(tree, specs)) for tree in (state.trainable, frozen)
        )

        compute = dataclasses.replace(engine.execution(specs), rows_over=axes)
        loss = functools.partial(part_loss, lambda shards: engine.merge(shards, specs), compute)

        def of_this_device(trainable, frozen, batch: Rows, key):
            trainable, frozen = _as_own(trainable, own_specs, axes), _as_own(frozen, frozen_specs, axes)
            with _at_precision(matmul_precision):
                shares = _gradients(loss, count, accumulation, axes)(trainable, frozen, batch, key)
            return _sum(shares, own_specs, axes)

        with jax.named_scope("gradients"):
            loss, metrics, gradients = jax.shard_map(
                of_this_device,
                mesh=mesh,
                axis_names=manual_axes(mesh),
                in_specs=(own_specs, frozen_specs, ROWS, REPLICATED),
                out_specs=(REPLICATED, REPLICATED, own_specs),
                # Kernels do not say over which axes their results vary. Without sums nothing could be checked.
                check_vma=engine.attention == "xla" and bool(axes),
            )(state.trainable, frozen, batch, jax.random.fold_in(key, state.step))
        with jax.named_scope("update"):
            updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.trainable)
            trainable = optax.apply_updates(state.trainable, updates)
        one = jnp.float32(1.0)
        metrics["loss"] = Metric(loss, one)
        metrics["gradient_norm"] = Metric(optax.tree.norm(gradients), one)
        state = TrainState(state.step + 1, trainable, optimizer_state)
        return jax.lax.with_sharding_constraint(
            state, shardings_of(state_specs(state, optimizer, specs), mesh)
        ), metrics

    return jax.jit(step, donate_argnums=0)


def _at_precision(name: str) -> contextlib.AbstractContextManager:
    """A context in which float32 products are traced; "default" leaves what JAX_DEFAULT_MATMUL_PRECISION says."""
    return contextlib.nullcontext() if name == "default" else jax.default_matmul_precision(name)


def _gradients(loss: Callable, count: Callable[[Rows], Any], accumulation: int, axes: tuple[str, ...]):
    """A function (trainable, frozen, batch, key) -> (loss, metrics, gradients), this device's shares of each."""

    def part(trainable, frozen, batch: Rows, key, counts):
        (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(trainable, frozen, batch, key, counts)
        return value, metrics, gradients

    def whole(trainable, frozen, batch: Rows, key):
        # At least 1, so that a batch without latents (or labels) has loss 0 and not 0/0.
        counts = jax.tree.map(lambda n: jnp.maximum(jax.lax.psum(n, axes), 1), count(batch))
        if accumulation == 1:
            return part(trainable, frozen, batch, key, counts)
        parts = jax.tree.map(lambda leaf: leaf.reshape(accumulation, -1, *leaf.shape[1:]), batch)
        first = jax.tree.map(lambda leaf: leaf[0], parts)
        shapes = jax.eval_shape(lambda: part(trainable, frozen, first, key, counts))
        zeros = jax.tree.map(lambda leaf: jax.lax.pcast(jnp.zeros(leaf.shape, leaf.dtype), axes, to="varying"), shapes)

        def add(total, microbatch):
            return jax.tree.map(jnp.add, total, part(trainable, frozen, microbatch, key, counts)), None

        return jax.lax.scan(add, zeros, parts)[0]

    return whole


def _other_axes(spec: P, axes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(axis for axis in axes if axis not in spec)


def _as_own(tree: Tree, specs: Tree, axes: tuple[str, ...]) -> Tree:
    """Each device differentiates its own copy; `_sum` adds them up once, after all microbatches.

    What is frozen is cast too: a custom backward pass must give gradients of the type of its arguments, even of ones
    that are never read.
    """
    return jax.tree.map(
        lambda leaf, spec: jax.lax.pcast(leaf, others, to="varying") if (others := _other_axes(spec, axes)) else leaf,
        tree,
        specs,
    )


def _sum(shares, specs: Tree, axes: tuple[str, ...]):
    """Loss, metrics and gradients over all devices. Gathering has added a split weight's gradient up over its axis."""
    value, metrics, gradients = shares
    return (
        *jax.lax.psum((value, metrics), axes),
        jax.tree.map(lambda leaf, spec: jax.lax.psum(leaf, _other_axes(spec, axes)), gradients, specs),
    )
