"""What a stage of supervised fine-tuning runs: its training step, and its decode of the validation set."""

import math

from colar_jax.data.loader import Batches
from colar_jax.data.packing import Batch
from colar_jax.evaluation.evaluator import Evaluator, Workload
from colar_jax.evaluation.judge import Judge
from colar_jax.parallel.mesh import rows_that_divide
from colar_jax.planning.data_shape import PlannedData
from colar_jax.planning.lowering import Lowered, PlannedStage, StageLength
from colar_jax.planning.model_flops import forward_flops, packed_rows, step_flops
from colar_jax.training.optimizer import make_optimizer
from colar_jax.training.step import make_train_step


def lower_training_step(setting: PlannedStage) -> tuple[Lowered, StageLength]:
    """The optimizer step, and the stage's schedule. UserError where no example fits into a row."""
    stage, method, data, engine = setting.stage, setting.method, setting.data, setting.engine
    loader = method.make_loader(data.train, seed=0, rows=stage.rows, row_positions=stage.row_positions)
    num_rows = rows_that_divide(stage.rows, engine.num_shards, stage.accumulation)
    batch = loader.batch(0, slice(0, num_rows))  # where a schedule removes steps, the largest
    num_examples = _examples_per_step(loader, batch, len(data.train))
    num_steps = stage.steps or math.ceil(stage.epochs * _steps_per_epoch(loader, num_examples, data))
    optimizer = make_optimizer(stage.optimizer, num_steps, setting.logical_axes)
    state, frozen = setting.placed_state(optimizer)
    rows = engine.shapes_of_rows(batch)
    step = make_train_step(engine, method, stage, optimizer)
    lowered = Lowered(
        "training step",
        step.lower(state, frozen, rows, setting.placed_key()),
        {"trained": state.trainable, "optimizer": state.optimizer, "frozen": frozen, "batch": rows},
        number=num_examples,
        unit="examples",
        how=f" in {stage.rows} rows, computed as {num_rows}" * (num_rows > stage.rows),
        smaller_batch=_smaller_batch(setting),
        is_training=True,
        useful_flops=_useful_flops(setting, batch),
    )
    return lowered, StageLength(num_steps, num_examples, "examples")


def lower_validation(setting: PlannedStage) -> Lowered:
    """The greedy decode of a batch of validation questions, every loop to its limit."""
    config, val = setting.config, setting.data.val
    batch_size = min(config.eval.batch_size, len(val))
    evaluator = Evaluator(
        setting.engine,
        setting.method,
        Judge(setting.data.vocabulary),
        config.decode,
        Workload([val], setting.method.recipe.trained_speeds, batch_size),
    )
    parameters = setting.placed_parameters()
    return Lowered(
        "rollout",
        evaluator.lower(parameters, greedy=True),
        {"parameters": parameters},
        number=batch_size,
        unit="questions",
        smaller_batch=f"--config.eval.batch_size={-(-batch_size // 2)} decodes fewer at a time",
        times=0,
    )


def _smaller_batch(setting: PlannedStage) -> str:
    stage, shards = setting.stage, setting.engine.num_shards
    if rows_that_divide(stage.rows, shards) // shards > stage.accumulation:
        return f"--config.stages.{setting.name}.accumulation={2 * stage.accumulation} computes a batch in parts"
    return f"--config.stages.{setting.name}.row_positions={stage.row_positions // 2} shortens the rows"


def _examples_per_step(loader: Batches, batch, num_train: int) -> float:
    """As many as fill all rows of a step, on average, even where a batch holds more examples than there are here."""
    if loader.steps_per_epoch > 1:
        in_steps = (num_train - loader.num_left_out) * (1 - loader.share_left_over)
        return in_steps / loader.steps_per_epoch
    if isinstance(batch, Batch):
        in_row = batch.segment_ids_BS.max(axis=1)
        return float(in_row[in_row > 0].mean() * loader.num_rows)
    return float(loader.examples_per_step)


def _steps_per_epoch(loader: Batches, per_step: float, data: PlannedData) -> int:
    """Whole steps of the real training set, of which the one at hand may be a sample; the rest is left over."""
    used = data.num_examples * (1 - loader.num_left_out / len(data.train))
    return max(1, math.floor(used / per_step * (1 + 1e-9)))


def _useful_flops(setting: PlannedStage, batch) -> float:
    """0 for methods whose latents are computed one after the other in training: their step has no closed form here."""
    if not isinstance(batch, Batch):
        return 0.0
    method = setting.method
    rows, positions, supervised = setting.stage.rows, batch.segment_ids_BS.shape[1], batch.supervised_BM.shape[1]
    if method.learns_beside:  # a small head, whose own products are not counted
        shape = packed_rows(rows, positions, 0, has_latents=False)
        return method.num_passes * sum(forward_flops(setting.llama, setting.config.model, shape).values())
    shape = packed_rows(rows, positions, supervised, has_latents="latent_head" in method.trains)
    return step_flops(setting.llama, setting.config.model, shape, passes=method.num_passes)
