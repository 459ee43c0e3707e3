"""One optimizer step: jit(shard_map(objective -> gradients -> update)), whatever the method.

The batch's rows are split over the devices. What is supervised is counted over all devices and microbatches *before*
the forward pass, so each part's loss is its share of one global mean, and gradients only need adding up.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from colar_jax.config import ModelConfig, StageConfig
from colar_jax.methods import Method
from colar_jax.metrics import Metric
from colar_jax.parallel.mesh import BATCH_AXES, REPLICATED, ROWS
from colar_jax.training.state import TrainState, Tree, join

# A pytree of arrays whose first axis is rows: `data.packing.Batch`, `data.thought_rows.ThoughtBatch`,
# `rl.tree_batch.TreeBatch`.
Rows = Any
# (state, frozen, batch, key) -> (state, metrics)
TrainStep = Callable[[TrainState, Tree, Rows, jax.Array], tuple[TrainState, dict[str, Metric]]]
# (trainable, frozen, batch, key, counts) -> (this part's share of the loss, metrics)
PartLoss = Callable[[Tree, Tree, Rows, jax.Array, Any], tuple[jax.Array, dict[str, Metric]]]


def loss_and_gradients(part_loss: PartLoss, count: Callable[[Rows], Any], accumulation: int):
    """A function (trainable, frozen, batch, key) -> (loss, metrics, gradients) of this device's rows.

    Inside `shard_map`: the loss and the metrics are added up over the batch axes, and so are the gradients.
    """

    def part(trainable, frozen, batch: Rows, key, counts):
        (value, metrics), gradients = jax.value_and_grad(part_loss, has_aux=True)(trainable, frozen, batch, key, counts)
        return value, metrics, gradients

    def whole(trainable, frozen, batch: Rows, key):
        # At least 1, so that a batch without latents (or labels) has loss 0 and not 0/0.
        counts = jax.tree.map(lambda n: jnp.maximum(jax.lax.psum(n, BATCH_AXES), 1), count(batch))
        # Each device differentiates its own copy; psum adds them up once, after all microbatches. What is frozen is
        # cast too: a custom backward pass must give gradients of the type of its arguments, even ones never read.
        trainable, frozen = jax.lax.pcast((trainable, frozen), BATCH_AXES, to="varying")
        if accumulation == 1:
            value, metrics, gradients = part(trainable, frozen, batch, key, counts)
        else:
            parts = jax.tree.map(lambda leaf: leaf.reshape(accumulation, -1, *leaf.shape[1:]), batch)
            first = jax.tree.map(lambda leaf: leaf[0], parts)
            shapes = jax.eval_shape(lambda: part(trainable, frozen, first, key, counts))
            zeros = jax.tree.map(
                lambda leaf: jax.lax.pcast(jnp.zeros(leaf.shape, leaf.dtype), BATCH_AXES, to="varying"), shapes
            )

            def add(total, microbatch):
                return jax.tree.map(jnp.add, total, part(trainable, frozen, microbatch, key, counts)), None

            (value, metrics, gradients), _ = jax.lax.scan(add, zeros, parts)
        return jax.lax.psum((value, metrics, gradients), BATCH_AXES)

    return whole


def make_train_step(
    graph, method: Method, stage: StageConfig, compute: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainStep:
    """The compiled step of a method's objective."""

    def loss(trainable, frozen, batch: Rows, key, counts):
        model = nnx.merge(graph, join(trainable, frozen))
        keys_B = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, batch.row_ids_B)
        return method.objective(model, batch, keys_B, counts, stage, compute)

    return compile_step(loss, optimizer, mesh, count=method.count, accumulation=stage.accumulation)


def compile_step(
    part_loss: PartLoss,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    count: Callable[[Rows], Any],
    accumulation: int,
) -> TrainStep:
    """The compiled step of any loss. `state` is donated; `key` is the run's, the step's own is folded in.

    `count` says what a batch has; the loss is told how much the whole step has of it.
    """
    gradients_of = loss_and_gradients(part_loss, count, accumulation)

    def step(state: TrainState, frozen, batch: Rows, key):
        with jax.named_scope("gradients"):
            loss, metrics, gradients = gradients_of(state.trainable, frozen, batch, jax.random.fold_in(key, state.step))
        with jax.named_scope("update"):
            updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.trainable)
            trainable = optax.apply_updates(state.trainable, updates)
        one = jnp.float32(1.0)
        metrics["loss"] = Metric(loss, one)
        metrics["gradient_norm"] = Metric(optax.tree.norm(gradients), one)
        return TrainState(state.step + 1, trainable, optimizer_state), metrics

    sharded = jax.shard_map(
        step, mesh=mesh, in_specs=(REPLICATED, REPLICATED, ROWS, REPLICATED), out_specs=(REPLICATED, REPLICATED)
    )
    return jax.jit(sharded, donate_argnums=0)
