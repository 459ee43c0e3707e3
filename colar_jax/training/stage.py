"""One stage of a run: resume, step, log late, validate by generation, save; the same command again after anything."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from colar_jax.config import StageConfig
from colar_jax.errors import TrainingEnded
from colar_jax.evaluation.evaluator import Outcome
from colar_jax.metric_hooks import Hook
from colar_jax.metric_writer import MetricWriter, NoWriter
from colar_jax.metrics import Metric
from colar_jax.parallel.hosts import Agreement, ends_with_its_peers, is_first
from colar_jax.progress import Progress
from colar_jax.training.checkpoints import Checkpoints
from colar_jax.training.interruption import Interrupted, InterruptionGuard
from colar_jax.training.late_log import LateLog
from colar_jax.training.pace import Forecast, Pace
from colar_jax.training.saved_state import restore_state, saved_tree
from colar_jax.training.state import TrainState, Tree, join
from colar_jax.training.trainer import Step, Trainer

logger = logging.getLogger(__name__)

CHECKPOINTS_FOLDER = "checkpoints"  # in a stage's folder

# Decodes the validation set with these parameters: by speed what became of it, and what the trainer says of that.
Validate = Callable[[Tree], dict[str, tuple[Outcome, dict[str, float]]]]


class LastIteration(TrainingEnded):
    """Training ends by itself, with a step that is not handed on; its metrics are the last that are written."""

    metrics: dict[str, Metric] | None = None


@dataclasses.dataclass(frozen=True)
class StageRun:
    """All that a stage needs to run, made by `run.py`."""

    name: str
    folder: Path
    mesh: jax.sharding.Mesh
    config: StageConfig
    num_steps: int
    trainer: Trainer
    validate: Validate
    identity: dict  # what a checkpoint says it belongs to
    place: Callable[[int], dict[str, float]]  # the learning rate and the epoch of a step
    hooks: Sequence[Hook]  # where metrics go besides
    keep_checkpoints: int


def run_stage(stage: StageRun, state: TrainState, frozen: Tree, key: jax.Array) -> None:
    """Train until `num_steps`, from the stage's latest checkpoint if it has one; the result is on disk.

    Where there is a checkpoint, what it holds of `state` and `frozen` may be shapes, with shardings.

    Raises:
        Interrupted: after SIGTERM or Ctrl-C, when the state is saved.
        Diverged: at a NaN or Inf; the offending batch is written to `<folder>/diverged`, checkpoints stay as they were.
    """
    with Checkpoints(stage.folder / CHECKPOINTS_FOLDER, keep_best=stage.keep_checkpoints) as checkpoints:
        latest = checkpoints.latest_step()
        start, unlogged = latest or 0, []
        if latest is not None:  # 0 where a stage was given to begin with (`starts.adopt`)
            if start >= stage.num_steps:
                return
            state, frozen = restore_state(checkpoints, start, state, frozen, stage.config)
            saved = checkpoints.read(start)[1]
            unlogged = saved.get("unlogged", [])
            stage.trainer.recall(saved.get("trainer", {}))
            logger.info("stage %s goes on from step %d of %d", stage.name, start, stage.num_steps)
        with (
            ends_with_its_peers(),
            MetricWriter(stage.folder, resume_step=start, hooks=stage.hooks) if is_first() else NoWriter() as writer,
            Progress(f"stage {stage.name}", stage.num_steps, done=start) as progress,
            InterruptionGuard() as guard,
        ):
            outlets = _Outlets(checkpoints, writer, progress, guard)
            log = LateLog(stage.name, stage.folder, stage.trainer, unlogged)
            with contextlib.closing(stage.trainer.steps(state, frozen, key, start, stage.num_steps)) as steps:
                _loop(stage, enumerate(steps, start=start + 1), frozen, log, outlets)


class _Outlets(NamedTuple):
    """Where what happens in a stage goes, and where a signal comes from."""

    checkpoints: Checkpoints
    writer: MetricWriter | NoWriter
    progress: Progress
    guard: InterruptionGuard


def _loop(stage: StageRun, steps: Iterator[tuple[int, Step]], frozen: Tree, log: LateLog, outlets: _Outlets) -> None:
    config, agreement = stage.config, Agreement(stage.mesh)
    checkpoints, writer, progress, guard = outlets
    pace, forecast = Pace(), Forecast(stage.name, stage.num_steps)
    for step, (state, metrics, num_examples) in _with_the_last_line(stage, steps, log, writer):
        log.add(step, metrics, num_examples)
        progress.advance(step)
        forecast.look(step, metrics)
        signal_number = agreement.late(guard.signal_number)
        is_last = step == stage.num_steps
        is_validation = is_last or _is_multiple(step, config.eval_every)
        if step % config.log_every == 0 or is_validation:
            # All steps but the newest, which is still under way. At a validation there is nothing to overlap, and who
            # wants every step wants it now.
            values, num_examples = log.read(everything=is_validation or config.log_every == 1)
            if values:
                times = pace.read(step, num_examples, stage.trainer.num_tokens)
                writer.write(step, values | stage.place(step) | times)
                progress.log(step, _shown(values), num_examples)
        # Decided once: a signal that comes later in this step ends a step that is saved, or the next one.
        is_saved = is_validation or signal_number is not None or _is_multiple(step, config.save_every)
        if is_saved:
            log.check()
            metrics = _validate(stage, join(state.trainable, frozen), step, writer, progress) if is_validation else None
            identity = stage.identity | {"unlogged": log.unlogged(), "trainer": stage.trainer.memory()}
            writer.sync()
            checkpoints.save(step, saved_tree(state, frozen, config), metrics=metrics, identity=identity)
            if is_validation:
                pace.skip()
        if is_saved and (signal_number := agreement.now(signal_number or guard.signal_number)):
            checkpoints.wait()
            logger.warning("stage %s: signal %d, saved step %d", stage.name, signal_number, step)
            raise Interrupted(signal_number)


def _with_the_last_line(
    stage: StageRun, steps: Iterator[tuple[int, Step]], log: LateLog, writer: MetricWriter | NoWriter
) -> Iterator[tuple[int, Step]]:
    """The steps; where training ends by itself, what it has measured since the last line is written first."""
    step = 0
    try:
        for step, of_step in steps:
            yield step, of_step
    except LastIteration as error:
        if error.metrics is not None:
            log.add(step := step + 1, error.metrics, 0)
        if values := log.read(everything=True)[0]:
            writer.write(step, values | stage.place(step))
        raise


def _is_multiple(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def _shown(values: dict[str, float]) -> dict[str, float]:
    """What a progress line has room for."""
    shown = ("loss", "label_accuracy", "latent_loss", "reward", "accuracy", "length", "clip_fraction/latent")
    return {name: values[name] for name in shown if name in values}


def _validate(
    stage: StageRun, parameters: Tree, step: int, writer: MetricWriter, progress: Progress
) -> dict[str, float]:
    """The means over speeds by which the best checkpoint is chosen; every speed's values are written."""
    values, of_speeds = {}, []
    outcomes = stage.validate(parameters)
    for speed, (outcome, appraisal) in outcomes.items():
        suffix = f"/speed_{speed}" if len(outcomes) > 1 else ""
        of_speeds.append({"accuracy": outcome.accuracy} | appraisal)
        measured = of_speeds[-1] | {"length": float(outcome.lengths_N.mean())}
        measured["forced_stops"] = float(outcome.forced_stop_N.mean())
        values |= {f"val/{name}{suffix}": value for name, value in measured.items()}
    means = {name: float(np.mean([measured[name] for measured in of_speeds])) for name in of_speeds[0]}
    writer.write(step, values | {f"val/{name}": mean for name, mean in means.items()})
    progress.log(step, {name: value for name, value in values.items() if "forced" not in name})
    return means
