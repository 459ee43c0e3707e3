"""One stage of a run: resume, step, log late, validate by generation, save; the same command again after anything."""

import collections
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from colar_jax.config import StageConfig
from colar_jax.errors import TrainingEnded
from colar_jax.evaluation.evaluator import Outcome
from colar_jax.metric_hooks import Hook
from colar_jax.metric_writer import VALIDATION, MetricWriter, NoWriter
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
# What the identity of a checkpoint has besides the stage's, for the steps after it: metrics that are not in a line yet,
# what the trainer remembers, and whether the validation of its step was cut short by a signal.
UNLOGGED, TRAINER, VALIDATION_OWED = REMEMBERED = ("unlogged", "trainer", "validation_owed")

# What a process notes for all to agree on besides the number of a signal, below which it is: too long without a save.
SAVE_IS_DUE = 1
assert all(number > SAVE_IS_DUE for number in InterruptionGuard.SIGNALS)

# Steps that are handed to the device before it is done with the first of them. It needs a next one; were they as many
# as there are between two log lines, a request to stop would wait for all of them.
MOST_UNDER_WAY = 3

# Decodes the validation set with these parameters: by speed what became of it, and what the trainer says of that. The
# second argument is called before each batch; what it raises ends the validation.
Validate = Callable[[Tree, Callable[[], None]], dict[str, tuple[Outcome, dict[str, float]]]]


class LastIteration(TrainingEnded):
    """Training ends by itself, with a step that is not handed on; its metrics are the last that are written."""

    metrics: dict[str, Metric] | None = None


class _CutShort(Exception):
    """A signal came during a validation."""


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


def is_owed(metrics: dict[str, float], identity: dict) -> bool:
    """Whether what `Checkpoints.read` says of a step lacks a validation that was cut short by a signal."""
    return identity.get(VALIDATION_OWED, False) and not metrics


def run_stage(stage: StageRun, state: TrainState, frozen: Tree, key: jax.Array) -> None:
    """Train until `num_steps`, from the stage's latest checkpoint if it has one; the result is on disk.

    A signal during a validation ends it: that step is saved without, and validated first where training goes on.

    Where there is a checkpoint, what it holds of `state` and `frozen` may be shapes, with shardings.

    Raises:
        Interrupted: after SIGTERM or Ctrl-C, when the state is saved.
        Diverged: at a NaN or Inf; the offending batch is written to `<folder>/diverged`, checkpoints stay as they were.
    """
    with Checkpoints(stage.folder / CHECKPOINTS_FOLDER, keep_best=stage.keep_checkpoints) as checkpoints:
        latest = checkpoints.latest_step()
        start, unlogged, owes_validation = latest or 0, [], False
        if latest is not None:  # 0 where a stage was given to begin with (`starts.adopt`)
            metrics, saved = checkpoints.read(start)
            owes_validation = is_owed(metrics, saved)
            if start >= stage.num_steps and not owes_validation:
                return
            state, frozen = restore_state(checkpoints, start, state, frozen, stage.config)
            unlogged = saved.get(UNLOGGED, [])
            stage.trainer.recall(saved.get(TRAINER, {}))
            logger.info("stage %s goes on from step %d of %d", stage.name, start, stage.num_steps)
        with (
            ends_with_its_peers(),
            _writer_of(stage, start, owes_validation) as writer,
            Progress(f"stage {stage.name}", stage.num_steps, done=start) as progress,
            InterruptionGuard() as guard,
        ):
            log = LateLog(stage.name, stage.folder, stage.trainer, unlogged)
            running = _Running(stage, frozen, log, checkpoints, writer, progress, guard, Agreement(stage.mesh))
            if owes_validation:
                running.make_up_for_validation(start, state)
            with contextlib.closing(stage.trainer.steps(state, frozen, key, start, stage.num_steps)) as steps:
                _loop(running, steps, start)
            checkpoints.wait()  # a signal ends nothing until the last step is on disk
            running.stop_if_asked(stage.num_steps)


def _writer_of(stage: StageRun, start: int, owes_validation: bool) -> MetricWriter | NoWriter:
    """What a stage writes its metrics with, in the first process."""
    if not is_first():
        return NoWriter()
    return MetricWriter(stage.folder, start, stage.hooks, validates_again=owes_validation)


@dataclasses.dataclass(frozen=True)
class _Running:
    """A stage that is under way: where what happens in it goes, and where a signal comes from."""

    stage: StageRun
    frozen: Tree
    log: LateLog
    checkpoints: Checkpoints
    writer: MetricWriter | NoWriter
    progress: Progress
    guard: InterruptionGuard
    agreement: Agreement

    def make_up_for_validation(self, step: int, state: TrainState) -> None:
        """Validate a step that was saved without.

        Raises:
            Interrupted: a signal came before the validation had ended.
        """
        try:
            metrics = self._validate(step, join(state.trainable, self.frozen))
        except _CutShort:
            self.stop_if_asked(step)
        self.writer.sync()
        self.checkpoints.add_metrics(step, metrics)

    def validate_and_save(self, step: int, state: TrainState) -> None:
        """Save a step with what its validation measures.

        Raises:
            Interrupted: a signal came before the validation had ended; the step is saved without.
        """
        try:
            metrics = self._validate(step, join(state.trainable, self.frozen))
        except _CutShort:
            self.save(step, state, owes_validation=True)
            self.stop_if_asked(step)
        self.save(step, state, metrics)

    def save(
        self, step: int, state: TrainState, metrics: dict[str, float] | None = None, *, owes_validation: bool = False
    ) -> None:
        """Start to save a step, and all that has been logged until now."""
        identity = self.stage.identity | {UNLOGGED: self.log.unlogged(), TRAINER: self.stage.trainer.memory()}
        if owes_validation:
            identity[VALIDATION_OWED] = True
        self.writer.sync()
        tree = saved_tree(state, self.frozen, self.stage.config)
        self.checkpoints.save(step, tree, metrics=metrics, identity=identity)

    def stop_if_asked(self, step: int, signal_number: int | None = None) -> None:
        """Raise Interrupted where a signal has come by now, to any process, when what was saved is on disk."""
        if signal_number := self.agreement.now(signal_number or self.guard.signal_number):
            self.checkpoints.wait()
            logger.warning("stage %s: signal %d, saved step %d", self.stage.name, signal_number, step)
            raise Interrupted(signal_number)

    def _cut_short_if_asked(self) -> None:
        if self.agreement.now(self.guard.signal_number):
            raise _CutShort

    def _validate(self, step: int, parameters: Tree) -> dict[str, float]:
        """The means over speeds by which the best checkpoint is chosen; every speed's values are written."""
        values, of_speeds = {}, []
        outcomes = self.stage.validate(parameters, self._cut_short_if_asked)
        for speed, (outcome, appraisal) in outcomes.items():
            suffix = f"/speed_{speed}" if len(outcomes) > 1 else ""
            of_speeds.append({"accuracy": outcome.accuracy} | appraisal)
            measured = of_speeds[-1] | {"length": float(outcome.lengths_N.mean())}
            measured["forced_stops"] = float(outcome.forced_stop_N.mean())
            values |= {f"{VALIDATION}{name}{suffix}": value for name, value in measured.items()}
        means = {name: float(np.mean([measured[name] for measured in of_speeds])) for name in of_speeds[0]}
        self.writer.write(step, values | {f"{VALIDATION}{name}": mean for name, mean in means.items()})
        self.progress.log(step, {name: value for name, value in values.items() if "forced" not in name})
        return means


def _loop(running: _Running, steps: Iterator[Step], start: int) -> None:
    stage, config = running.stage, running.stage.config
    log, writer, progress, guard = running.log, running.writer, running.progress, running.guard
    pace, forecast = Pace(), Forecast(stage.name, stage.num_steps)
    under_way: collections.deque[dict[str, Metric]] = collections.deque()
    saved_at = time.monotonic()
    for step, (state, metrics, num_examples) in _with_the_last_line(stage, steps, start, log, writer):
        log.add(step, metrics, num_examples)
        under_way.append(metrics)
        if len(under_way) == MOST_UNDER_WAY:
            jax.block_until_ready(under_way.popleft())
        progress.advance(step)
        forecast.look(step, metrics)
        is_due = 0 < config.save_minutes <= (time.monotonic() - saved_at) / 60
        noted = running.agreement.late(guard.signal_number or (SAVE_IS_DUE if is_due else None))
        signal_number = None if noted == SAVE_IS_DUE else noted
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
        is_saved = is_validation or noted is not None or _is_multiple(step, config.save_every)
        if is_saved:
            log.check()
            if is_validation:
                running.validate_and_save(step, state)
                pace.skip()
            else:
                running.save(step, state)
            saved_at = time.monotonic()
            running.stop_if_asked(step, signal_number)
            running.agreement.forget()  # that a save was due


def _with_the_last_line(
    stage: StageRun, steps: Iterator[Step], start: int, log: LateLog, writer: MetricWriter | NoWriter
) -> Iterator[tuple[int, Step]]:
    """The steps after `start`, numbered; where training ends by itself, what it has measured is written first."""
    step = start
    try:
        for step, of_step in enumerate(steps, start=start + 1):
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
