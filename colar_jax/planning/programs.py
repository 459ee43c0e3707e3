"""The programs that a stage runs, lowered from shapes alone: its training step, and its decode of the validation."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from colar_jax.config import Config, StageConfig
from colar_jax.data.loader import Loader
from colar_jax.decoding.compiled import decode_gather
from colar_jax.evaluation.evaluator import Evaluator
from colar_jax.methods import METHODS
from colar_jax.parallel.mesh import REPLICATED, ROWS, num_shards
from colar_jax.parallel.sharding import parameter_specs, shardings_of, specs_for
from colar_jax.planning.data_shape import PlannedData
from colar_jax.training.state import initial_state, make_optimizer, model_specs, partition, state_specs
from colar_jax.training.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A program that can be compiled, and what it is given, by what it is for."""

    name: str
    program: jax.stages.Lowered
    arguments: dict[str, Any]  # trees of `ShapeDtypeStruct`s with shardings


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A stage's training, counted."""

    rows: int
    positions: int
    supervised: int
    examples_per_step: float
    num_steps: int


def lower_training_step(config: Config, name: str, graph, parameters, data: PlannedData, mesh: Mesh):
    """A stage's optimizer step, and its schedule: `(Lowered, Schedule)`.

    Raises:
        ValueError: its rows cannot be split over the mesh, or no example fits into one.
    """
    stage = config.stages[name]
    method = METHODS[stage.method]
    split = num_shards(mesh) * stage.accumulation
    if stage.rows % split:
        raise ValueError(
            f"stages.{name}.rows={stage.rows} cannot be split over {num_shards(mesh)} chips and accumulation="
            f"{stage.accumulation}: make it a multiple of {split}, or give --rows_per_chip"
        )
    loader = Loader(data.train, method.recipe(stage), seed=0, rows=stage.rows, row_positions=stage.row_positions)
    schedule = _schedule(stage, loader, data)
    optimizer = make_optimizer(stage.optimizer, schedule.num_steps)
    trainable, frozen = partition(parameters, trains_latent_head=method.trains_latent_head)
    specs = model_specs(graph, trainable, frozen, mesh)
    state = jax.eval_shape(lambda tree: initial_state(tree, optimizer), trainable)
    state = _placed(state, state_specs(state, optimizer, specs), mesh)
    frozen = _placed(frozen, specs_for(frozen, specs), mesh)
    batch = _placed(loader.batch(0), ROWS, mesh)
    key = _placed(jax.eval_shape(lambda: jax.random.key(0)), REPLICATED, mesh)
    step = make_train_step(graph, method, stage, config.model, optimizer, mesh, config.parallel)
    arguments = {"trained": state.trainable, "optimizer": state.optimizer, "frozen": frozen, "batch": batch}
    return Lowered("training step", step.lower(state, frozen, batch, key), arguments), schedule


def lower_rollout(config: Config, name: str, graph, parameters, data: PlannedData, mesh: Mesh, memory: int) -> Lowered:
    """A stage's greedy decode of a batch of validation questions, every loop to its limit.

    `memory` is a chip's: `parallel.decode_gather=auto` goes by it.
    """
    method = METHODS[config.stages[name].method]
    specs = parameter_specs(graph, parameters, mesh)
    evaluator = Evaluator(
        graph,
        method,
        data.vocabulary,
        config.decode,
        config.model,
        mesh,
        batch_size=min(config.eval.batch_size, len(data.val)),
        sets=[data.val],
        speeds=method.recipe(config.stages[name]).prompt_speeds,
        parallel=dataclasses.replace(
            config.parallel,
            decode_gather=decode_gather(parameters, specs, config.model, mesh, config.parallel, memory)[0],
        ),
    )
    parameters = _placed(parameters, specs, mesh)
    return Lowered("rollout", evaluator.lower(parameters, greedy=True), {"parameters": parameters})


def bytes_on_a_chip(tree) -> int:
    """What one device holds of a tree of placed arrays."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=np.int64)) * _itemsize(leaf.dtype)
        for leaf in jax.tree.leaves(tree)
    )


def _itemsize(dtype) -> int:
    return 8 if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) else jnp.dtype(dtype).itemsize


def _schedule(stage: StageConfig, loader: Loader, data: PlannedData) -> Schedule:
    """Steps by the real number of examples, of which the data here may be a sample."""
    examples_per_step = (len(data.train) - loader.num_left_out) / len(data.train)
    examples_per_step *= len(data.train) / loader.steps_per_epoch if loader.steps_per_epoch > 1 else _in_rows(loader)
    steps = stage.steps or int(np.ceil(stage.epochs * data.num_examples / examples_per_step))
    shape = loader.row_shape
    return Schedule(stage.rows, shape.positions, shape.supervised, examples_per_step, steps)


def _in_rows(loader: Loader) -> float:
    """Examples in a full batch, where one holds more than there are here."""
    batch = loader.batch(0)
    in_row = batch.segment_ids_BS.max(axis=1)
    return float(in_row[in_row > 0].mean() * loader.num_rows)


def _placed(tree, specs, mesh: Mesh):
    """Shapes with shardings; `specs` is a tree of the same form, or one for all."""
    shardings = shardings_of(specs, mesh)
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings_of(specs, mesh), tree)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree, shardings
    )
