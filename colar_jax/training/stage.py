"""One stage of a run: resume, step, log late, validate by generation, save; the same command again after anything."""

import contextlib
import dataclasses
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import traverse_util

from colar_jax.config import StageConfig
from colar_jax.errors import TrainingEnded
from colar_jax.evaluation.evaluator import Outcome
from colar_jax.metric_hooks import Hook
from colar_jax.metric_writer import MetricWriter, NoWriter
from colar_jax.metrics import Metric, divide, merge
from colar_jax.model.lora import split_base
from colar_jax.model.reasoner import PARTS
from colar_jax.parallel.hosts import Agreement, ends_with_its_peers, is_first
from colar_jax.progress import Progress
from colar_jax.training.checkpoints import Checkpoints
from colar_jax.training.interruption import Interrupted, InterruptionGuard
from colar_jax.training.pace import Forecast, Pace
from colar_jax.training.state import TrainState, Tree, join
from colar_jax.training.trainer import Step, Trainer

logger = logging.getLogger(__name__)

CHECKPOINTS_FOLDER = "checkpoints"  # in a stage's folder

# Decodes the validation set with these parameters: by speed what became of it, and what the trainer says of that.
Validate = Callable[[Tree], dict[str, tuple[Outcome, dict[str, float]]]]


class LastIteration(TrainingEnded):
    """Training ends by itself, with a step that is not handed on; its metrics are the last that are written."""

    metrics: dict[str, Metric] | None = None


class Diverged(TrainingEnded):
    """The loss or its gradient is not finite."""


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
            with contextlib.closing(stage.trainer.steps(state, frozen, key, start, stage.num_steps)) as steps:
                _loop(stage, enumerate(steps, start=start + 1), frozen, _LateLog(stage, unlogged), outlets)


class _Outlets(NamedTuple):
    """Where what happens in a stage goes, and where a signal comes from."""

    checkpoints: Checkpoints
    writer: MetricWriter | NoWriter
    progress: Progress
    guard: InterruptionGuard


def _loop(stage: StageRun, steps: Iterator[tuple[int, Step]], frozen: Tree, log: "_LateLog", outlets: _Outlets) -> None:
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
    stage: StageRun, steps: Iterator[tuple[int, Step]], log: "_LateLog", writer: MetricWriter | NoWriter
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


def saved_tree(state: TrainState, frozen: Tree, config: StageConfig) -> Tree:
    """What a stage's checkpoint holds: not the base beside adapters, nor other methods' own modules.

    Its method's modules are there even where they are not trained: what reads the checkpoint needs them as they were.
    """
    own, _ = split_base(join(state.trainable, frozen))
    own = {name: part for name, part in own.items() if name in PARTS or name in config.bound_method.modules}
    return {"parameters": own, "optimizer": state.optimizer, "step": state.step}


def restore_state(
    checkpoints: Checkpoints, step: int, state: TrainState, frozen: Tree, config: StageConfig
) -> tuple[TrainState, Tree]:
    """The state and what is frozen, from a checkpoint, placed as the given ones are, which may be shapes.

    What the checkpoint does not hold, as the base beside adapters, is taken from `frozen`.

    Raises:
        UserError: the checkpoint is of another model.
    """
    saved = checkpoints.restore(step, jax.tree.map(_abstract, saved_tree(state, frozen, config)))
    trainable = _subtree(saved["parameters"], state.trainable)
    flat, given = (traverse_util.flatten_dict(tree) for tree in (saved["parameters"], frozen))
    frozen = traverse_util.unflatten_dict({path: flat.get(path, leaf) for path, leaf in given.items()})
    return TrainState(saved["step"], trainable, saved["optimizer"]), frozen


def _abstract(leaf) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _subtree(tree: Tree, like: Tree) -> Tree:
    return {name: _subtree(tree[name], part) if isinstance(part, dict) else tree[name] for name, part in like.items()}


def _write_evidence(folder: Path, step: int, batch: dict[str, np.ndarray], values: dict[str, float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"batch_{step}.npz", **batch)
    shown = {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
    (folder / f"metrics_{step}.json").write_text(json.dumps(shown, indent=2), encoding="utf-8")


class _LateLog:
    """Metrics of the steps since the last log line, read when the device is done with them."""

    def __init__(self, stage: StageRun, unlogged: list):
        self._stage = stage
        self._pending: list[tuple[int, dict[str, Metric]]] = [
            (step, {name: Metric(*map(np.float32, metric)) for name, metric in metrics.items()})
            for step, metrics in unlogged
        ]
        self.num_examples = 0

    def add(self, step: int, metrics: dict[str, Metric], num_examples: int) -> None:
        self._pending.append((step, metrics))
        self.num_examples += num_examples

    def read(self, *, everything: bool) -> tuple[dict[str, float], int]:
        """The merged values of all pending steps (without `everything`, of all but the newest), and their examples."""
        count = len(self._pending) if everything else len(self._pending) - 1
        ready, self._pending = self._pending[:count], self._pending[count:]
        num_examples, self.num_examples = self.num_examples, 0
        if not ready:
            return {}, num_examples
        self._raise_if_not_finite(ready)
        return divide(merge(*(metrics for _, metrics in ready))), num_examples

    def unlogged(self) -> list:
        """What the next line will be made of, as JSON: a run that goes on from here writes the same line."""
        return [
            (step, {name: (float(metric.sum), float(metric.count)) for name, metric in metrics.items()})
            for step, metrics in jax.device_get(self._pending)
        ]

    def check(self) -> None:
        """Make sure that every step so far is finite, so that what is saved is good."""
        self._raise_if_not_finite(self._pending)

    def _raise_if_not_finite(self, steps: list[tuple[int, dict[str, Metric]]]) -> None:
        for step, metrics in steps:
            values = divide(metrics)
            # An iteration of reinforcement learning has no loss if no group had different rewards.
            if not all(math.isfinite(values.get(name, 0.0)) for name in ("loss", "gradient_norm")):
                folder = self._stage.folder / "diverged"
                if is_first():
                    _write_evidence(folder, step, self._stage.trainer.evidence(step), values)
                raise Diverged(
                    f"stage {self._stage.name}: not finite at step {step} (loss {values['loss']}, gradient norm "
                    f"{values['gradient_norm']}). The batch is in {folder}; the last checkpoint is untouched. "
                    f"{self._stage.trainer.advice}"
                )
