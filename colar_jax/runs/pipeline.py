"""The stages of a run one after the other, and the table at its end."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from colar_jax.config import Config, OnResume, StageConfig, plain
from colar_jax.data.prompts import speed_text
from colar_jax.errors import UserError
from colar_jax.evaluation.evaluator import Outcome, Request
from colar_jax.evaluation.samples import samples_of, write_samples
from colar_jax.metric_hooks import check_hooks, open_hooks
from colar_jax.parallel.hosts import is_first, wait_for_all
from colar_jax.parallel.mesh import num_shards, replicate, rows_that_divide
from colar_jax.report.results import Result
from colar_jax.rl.grpo import RewardedStage, make_grpo_trainer, most_updates
from colar_jax.runs.beforehand import check_run, check_stage
from colar_jax.runs.folder_lock import TRAINING, locked
from colar_jax.runs.identity import FIRST_POLICY, NUM_STEPS, VALIDATED_ON, Change, identity_of
from colar_jax.runs.learned import validation_set
from colar_jax.runs.resuming import (
    has_ended,
    is_validated,
    latest_step,
    note_changes,
    refuse_another_run,
    validated_on,
    warn_of_other_validations,
)
from colar_jax.runs.run import Run, prepare
from colar_jax.runs.run_folder import write_config
from colar_jax.runs.stage_batches import check_schedule, loader_of, num_steps_of
from colar_jax.runs.starts import reference_of, source_of, stage_state, start_parameters, tell_what_counts
from colar_jax.runs.sweep.sweep import SAMPLES_FILE, sweep_run
from colar_jax.runs.trained_questions import note_trained_questions
from colar_jax.runs.trained_speeds import SOURCE, noted_source
from colar_jax.training.optimizer import learning_rate_schedule, make_optimizer
from colar_jax.training.stage import StageRun, run_stage
from colar_jax.training.state import TrainState, Tree, partition
from colar_jax.training.step import make_train_step
from colar_jax.training.trainer import SftTrainer, Trainer

logger = logging.getLogger(__name__)

_MUCH_LEFT_OVER = 0.1  # of an epoch


def train(config: Config, *, accept_changes: bool = False) -> list[Result]:
    """Run every stage of `config`, each from where it stopped, then evaluate: the whole of `colar_jax.train`.

    Args:
        accept_changes: whether a stage may go on with another learning rate, batch or length than it was started with.

    Raises:
        UserError: a stage was started with other settings than it may go on with, or another process trains there.
    """
    with locked(Path(config.workdir).expanduser(), TRAINING, "train"):
        return _train(config, accept_changes=accept_changes)


def _train(config: Config, *, accept_changes: bool) -> list[Result]:
    check_hooks(config.report_to)
    run = prepare(config)
    # Before anything is written or trained.
    changes = {name: refuse_another_run(run, name, accept_changes=accept_changes) for name in config.stage_names}
    for name in config.stage_names:
        _refuse_fewer_steps(run, name, changes[name])
    check_run(run)
    wait_for_all("looked at the folder")  # before one of them makes what another would look at
    write_config(run)
    lengths = {name: config.stages[name] for name in config.stage_names}
    told = (f"{name} {s.steps} steps" if s.steps else f"{name} {s.epochs:g} epochs" for name, s in lengths.items())
    logger.info("stages: %s; then the evaluation", ", ".join(told))
    for name in config.stage_names:
        note_changes(run, name, changes[name], has_ended=has_ended(run.workdir / name, num_steps_of(run, name)))
        train_stage(run, name)
        run.loaders.pop(name, None)
        wait_for_all(f"finished {name}")  # what the first has written is there for all
        tell_what_counts(run.workdir / name)
    return sweep_run(run)


def _refuse_fewer_steps(run: Run, name: str, changes: Sequence[Change]) -> None:
    """UserError where changes that were accepted end a stage at once: as another than it is, or not validated."""
    if not any(change.on_resume is OnResume.ADJUSTABLE for change in changes):
        return
    folder = run.workdir / name
    taken, wanted = latest_step(folder), num_steps_of(run, name)
    if taken > wanted or (taken == wanted and has_ended(folder, wanted) and not is_validated(folder, taken)):
        raise UserError(
            f"stages.{name} has taken {taken} steps, and would have {wanted} in all: it cannot go back. "
            f"--config.stages.{name}.steps={taken + 1} ends it with the next one, which is validated"
        )


def train_stage(run: Run, name: str) -> None:
    """Run one stage to its end; what it leaves is in `<workdir>/<name>`."""
    stage, seed = run.config.stages[name], run.seed_of(name)
    folder, speeds = run.workdir / name, run.trained_speeds(name)
    if has_ended(folder, num_steps_of(run, name)):
        return  # what it has learned is read where it is needed
    note_trained_questions(run, name)
    step = latest_step(folder)
    val = validation_set(run, name)
    asked = validated_on(run, name, val.problems, speeds)
    if step is not None:
        warn_of_other_validations(run, name, step, asked)
    evaluator = run.evaluator(name, [val], speeds)
    make_trainer = {"sft": _learn_from_data, "grpo": _learn_from_rewards}[stage.trainer]
    trainer, state, frozen, num_steps = make_trainer(run, name)
    reference = {FIRST_POLICY: reference_of(run, name)} if stage.trainer == "grpo" and stage.rl.beta else {}
    place = _place_of(run, name, trainer, num_steps)
    started_from = run.config.source_of(name) if step is None else noted_source(folder)

    start = _start_of(run, name) if step is None else ""
    logger.info("stage %s: %d steps, %.3g epochs%s", name, num_steps, place(num_steps)["epoch"], start)
    _warn_of_a_warm_up_that_is_all(name, stage, num_steps)

    def validate(parameters: Tree, before_each: Callable[[], None]) -> dict[str, tuple[Outcome, dict[str, float]]]:
        said = ", ".join(map(speed_text, speeds))
        logger.info("stage %s: validating on %d problems, speed %s", name, len(val), said)
        requests = [Request(val, speed, seed=None) for speed in speeds]
        answered = evaluator.run_all(parameters, requests, before_each)
        outcomes = {speed_text(request.speed): outcome for request, outcome in answered}
        samples = (samples_of(val, outcome, speed=speed) for speed, outcome in outcomes.items())
        if is_first():
            write_samples(folder / SAMPLES_FILE, (sample for part in samples for sample in part))
        return {speed: (outcome, trainer.appraise(val.problems, outcome)) for speed, outcome in outcomes.items()}

    stage_run = StageRun(
        name=name,
        folder=folder,
        mesh=run.mesh,
        config=stage,
        num_steps=num_steps,
        trainer=trainer,
        validate=validate,
        identity=identity_of(run, name) | {VALIDATED_ON: asked, NUM_STEPS: num_steps, SOURCE: started_from} | reference,
        keep_checkpoints=run.config.keep_checkpoints,
        place=place,
        hooks=open_hooks(run.config.report_to, folder, plain(run.config)) if is_first() else (),
    )
    run_stage(stage_run, state, frozen, replicate(jax.random.key(seed), run.mesh))


def _start_of(run: Run, name: str) -> str:
    """What a stage without a checkpoint starts from, for its first line."""
    return f", from {source_of(run, name) or 'the initial weights'}"


def _place_of(run: Run, name: str, trainer: Trainer, num_steps: int) -> Callable[[int], dict[str, float]]:
    """Where in its stage a step is: the learning rate of its (first) update, and the epochs that are done after it."""
    stage = run.config.stages[name]
    updates = _updates_in_a_step(stage)
    if stage.trainer == "grpo":
        per_epoch = stage.rl.questions_per_epoch or len(run.train)  # as `stage.epochs` counts
        steps_per_epoch = per_epoch / stage.rl.num_questions
    else:
        steps_per_epoch = trainer.loader.steps_per_epoch
    schedule = learning_rate_schedule(stage.optimizer, num_steps * updates)
    return lambda step: {"learning_rate": float(schedule((step - 1) * updates)), "epoch": step / steps_per_epoch}


def _updates_in_a_step(stage: StageConfig) -> int:
    """How many updates of the weights a step has at most; the learning rate follows their count."""
    return most_updates(stage.rl) if stage.trainer == "grpo" else 1


def _warn_of_a_warm_up_that_is_all(name: str, stage: StageConfig, num_steps: int) -> None:
    """A small data set under a config for a large one ends before its learning rate has risen."""
    updates, warmup = num_steps * _updates_in_a_step(stage), stage.optimizer.warmup_steps
    if updates <= warmup:
        logger.warning(
            "stage %s ends after %d updates, while its learning rate still rises (stages.%s.optimizer.warmup_steps=%d):"
            " train longer, with fewer rows, or with a shorter warm-up",
            name, updates, name, warmup,
        )  # fmt: skip


def _learn_from_data(run: Run, name: str) -> tuple[Trainer, TrainState, Tree, int]:
    """A stage's trainer, its first state, what it leaves alone, and its number of steps."""
    stage, method = run.config.stages[name], run.method(name)
    check_stage(run, name)
    check_schedule(run, name)
    loader = loader_of(run, name)
    if loader.num_left_out:
        logger.warning(
            "stage %s: %d of %d examples exceed a row of %d positions at the slowest of their speeds, and are left "
            "out at all of them: raise stages.%s.row_positions to train on them",
            name, loader.num_left_out, len(loader.encoded), stage.row_positions, name,
        )  # fmt: skip
    if not stage.steps and loader.share_left_over > _MUCH_LEFT_OVER:
        logger.warning(
            "stage %s: an epoch has %.0f%% of the problems, other ones each time: the rest fill no further step of %d "
            "rows: %g epochs are fewer passes than that. With fewer rows it has more",
            name, 100 * (1 - loader.share_left_over), stage.rows, stage.epochs,
        )  # fmt: skip
    num_steps = num_steps_of(run, name)
    optimizer = make_optimizer(stage.optimizer, num_steps, run.logical_axes)
    step = make_train_step(run.engine, method, stage, optimizer)
    num_rows = rows_that_divide(stage.rows, num_shards(run.mesh), stage.accumulation)
    if num_rows > stage.rows:
        logger.info(
            "stage %s: %d rows are computed as %d, the others empty: they are split over %d devices, %d parts on each",
            name, stage.rows, num_rows, num_shards(run.mesh), stage.accumulation,
        )  # fmt: skip
    return SftTrainer(loader, step, run.mesh, num_rows), *stage_state(run, name, optimizer), num_steps


def _learn_from_rewards(run: Run, name: str) -> tuple[Trainer, TrainState, Tree, int]:
    """As `_learn_from_data`, for a stage that is trained by its rollouts' rewards; a step is an iteration."""
    config, stage, method = run.config, run.config.stages[name], run.method(name)
    check_stage(run, name)
    num_steps = num_steps_of(run, name)
    optimizer = make_optimizer(stage.optimizer, num_steps * _updates_in_a_step(stage), run.logical_axes)
    state, frozen = stage_state(run, name, optimizer)
    reference = None
    if stage.rl.beta:  # read on its own: the state's arrays are donated
        reference, _ = partition(start_parameters(run, name), method.trains)
    trainer = make_grpo_trainer(
        run.engine,
        RewardedStage(name, stage, method, config.decode, run.train, run.judge, run.seed_of(name)),
        optimizer,
        reference,
    )
    return trainer, state, frozen, num_steps
