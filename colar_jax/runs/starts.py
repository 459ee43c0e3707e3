"""Which stage a command means, what a stage starts from, and the parameters of a finished one."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import optax

from colar_jax.config import nearest
from colar_jax.errors import UserError
from colar_jax.methods import find_method
from colar_jax.model.lora import split_base
from colar_jax.model.reasoner import PARTS, calibrate, with_copies
from colar_jax.runs.folder_lock import TRAINING, locked
from colar_jax.runs.identity import (
    FIRST_POLICY,
    NUM_STEPS,
    identity_of,
    refuse_another_tokenizer,
    refuse_changed_tokenizer,
    refuse_other_adapters,
)
from colar_jax.runs.resuming import latest_step
from colar_jax.runs.run import Run
from colar_jax.runs.run_folder import open_checkpoints, write_config
from colar_jax.runs.run_model import own_modules
from colar_jax.runs.start_rules import begins_latents, refuse_another_reading, refuse_unfit_source, source_method
from colar_jax.training.checkpoints import Checkpoints
from colar_jax.training.optimizer import make_optimizer
from colar_jax.training.saved_state import saved_tree
from colar_jax.training.stage import CHECKPOINTS_FOLDER, UNLOGGED, is_owed
from colar_jax.training.state import (
    TrainState,
    Tree,
    initial_state,
    join,
    model_specs,
    partition,
    place_state,
    state_shapes,
)

logger = logging.getLogger(__name__)


def default_stage(run: Run) -> str:
    """What to ask and what to export where nobody says: the last stage that thinks in latents, else the last.

    Of the stages that have a checkpoint, where any has one. One that chooses its own speed has to be named: it adds a
    choice to another, which can be asked for any speed.
    """
    stages = [name for name in run.config.stage_names if latest_step(run.workdir / name) is not None]
    stages = stages or list(run.config.stage_names)
    stages = [name for name in stages if run.method(name).answers_problems] or stages
    in_latents = [name for name in stages if run.thinking(name).in_latents]
    return [*stages, *in_latents, *(name for name in in_latents if not run.method(name).learns_from_answers)][-1]


def stage_named(run: Run, name: str) -> str:
    """The stage that `--stage` names, or the default one where it is empty. UserError where there is none."""
    if name and name not in run.config.stages:
        stages = run.config.stage_names
        raise UserError(f"--stage={name} is no stage of this run: {', '.join(stages)}.{nearest(name, stages)}")
    return asked_stage(run, name)


def asked_stage(run: Run, name: str | None) -> str:
    """A stage of the run, or the default one. UserError where it cannot be asked as `decode` says."""
    name = name or default_stage(run)
    if objection := run.config.objection_to_certainty(name):
        raise UserError(objection)
    return name


def adopt(run: Run, name: str, parameters: Tree) -> None:
    """Make `parameters` step 0 of a stage that has no checkpoint: what is evaluated, and what training goes on from."""
    stage, folder = run.config.stages[name], run.workdir / name / CHECKPOINTS_FOLDER
    trainable, frozen = partition(parameters, run.method(name).trains)
    optimizer = make_optimizer(stage.optimizer, 1, run.logical_axes)
    specs = model_specs(run.graph, trainable, frozen, run.mesh)
    state = place_state(initial_state(trainable, optimizer), optimizer, specs, run.mesh)
    with locked(run.workdir, TRAINING, "import"), Checkpoints(folder) as checkpoints:
        if checkpoints.steps():
            raise UserError(f"{folder} has checkpoints already: choose another workdir or stage")
        write_config(run)
        saved = saved_tree(state, frozen, run.config.stages[name])
        whole = {UNLOGGED: [], NUM_STEPS: 0}  # as it is, and no beginning of something
        checkpoints.save(0, saved, metrics=None, identity=identity_of(run, name) | whole)


def start_parameters(run: Run, name: str) -> Tree:
    """What a stage starts from when it has no checkpoint of its own.

    The ladder: `init_from` if it is given, else the stage before it in the run, else the model's initial weights.
    """
    folder = source_of(run, name)
    if folder is None:
        refuse_unfit_source(run, name, None, {})
        return run.initial_parameters()
    refuse_another_tokenizer(run, folder)
    settings = finished_identity(folder)["settings"]
    refuse_unfit_source(run, name, folder, settings)
    parameters = finished_parameters(run, folder)
    if begins_latents(run.method(name), source_method(settings)):
        return calibrate(parameters, run.model.llama)
    return parameters


def stage_state(run: Run, name: str, optimizer: optax.GradientTransformation) -> tuple[TrainState, Tree]:
    """A stage's state before its first step, and what is frozen.

    Where the stage has a checkpoint, what the checkpoint holds are shapes, for `training.stage.run_stage` to restore.
    """
    has_checkpoint = latest_step(run.workdir / name) is not None
    parameters = run.shapes if has_checkpoint else start_parameters(run, name)
    trainable, frozen = partition(parameters, run.method(name).trains)
    specs = model_specs(run.graph, trainable, frozen, run.mesh)
    if not has_checkpoint:
        return place_state(initial_state(trainable, optimizer), optimizer, specs, run.mesh), frozen
    state = state_shapes(trainable, optimizer, specs, run.mesh)
    # Other methods' modules.
    unsaved = [part for part in frozen if part not in PARTS and part not in run.method(name).modules]
    if unsaved:
        start = start_parameters(run, name)
        frozen = frozen | {part: start[part] for part in unsaved}
    return state, join(frozen, run.model.frozen_base)


def source_of(run: Run, name: str) -> Path | None:
    """The folder of the stage that a stage starts from, in this run or another; None: from the initial weights."""
    source = run.config.source_of(name)
    if not source:
        return None
    return run.workdir / source if source in run.config.stages else Path(source).expanduser()


def finished_parameters(run: Run, folder: Path, step: int | None = None) -> Tree:
    """The parameters of a stage folder's best checkpoint (its latest, where none was validated), or that of a step.

    They go straight to their places: nothing else is loaded. With adapters a checkpoint has only them and the latent
    head; the base is loaded once in a run, and is not copied.
    """
    with _finished(folder, step) as (checkpoints, step):
        identity = checkpoints.read(step)[1]
        refuse_other_adapters(run, folder, identity)
        refuse_another_reading(run, folder, identity)
        refuse_changed_tokenizer(run, folder, identity)
        saved = {*PARTS, *checkpoints.parts(step, "parameters")}
        own, _ = split_base(run.shapes)
        not_trained_yet = run.model.initial_modules([name for name in own if name not in saved])
        own = {name: part for name, part in own.items() if name in saved}
        modules = (
            own_modules(run.config) | find_method(identity["stage.method"])().modules
        )  # of this run, of the source
        unread = [f"parameters/{name}" for name, module in modules.items() if module.save is None and name not in own]
        restored = checkpoints.restore_part(step, {"parameters": own}, without=unread)["parameters"]
        parameters = join(restored | not_trained_yet, run.model.frozen_base)
        return with_copies(parameters, run.model.modules, not_trained_yet)


def finished_identity(folder: Path) -> dict:
    """Which checkpoint `finished_parameters` reads, and the settings that it was trained with."""
    with _finished(folder) as (checkpoints, step):
        return {"step": step, "saved_at": checkpoints.saved_at(step), "settings": checkpoints.read(step)[1]}


def reference_of(run: Run, name: str) -> dict:
    """Which checkpoint the first policy of a stage with `rl.beta` is, as its own checkpoints remember it.

    Raises:
        UserError: it is another than the one that the stage has been held near until now.
    """
    source, folder = source_of(run, name), run.workdir / name
    identity = finished_identity(source)
    now, step = {fact: identity[fact] for fact in ("step", "saved_at")}, latest_step(folder)
    before = now
    if step is not None:
        with open_checkpoints(folder) as checkpoints:
            before = checkpoints.read(step)[1].get(FIRST_POLICY, now)  # earlier versions did not say
    if before != now:
        raise UserError(
            f"stages.{name}.rl.beta={run.config.stages[name].rl.beta} holds the policy near the one that it started "
            f"from, step {before['step']} of {source}; that has been trained on, and has step {now['step']} now. Put "
            "its folder back as it was, or start a stage of another name from it"
        )
    return now


def tell_what_counts(folder: Path) -> None:
    """A word where a stage that is about to be used has not taken all its steps, or is read as of an earlier one."""
    if place := unfinished(folder):
        logger.warning("stage %s is not trained to its end: %s", folder.name, place)
    elif place := best_before_the_end(folder):
        logger.info("stage %s: its checkpoint of %s, is what counts", folder.name, place)


def unfinished(folder: Path) -> str:
    """Where training has got to, of a stage that has not taken all its steps; empty for others, or without a number."""
    with _finished(folder) as (checkpoints, step):
        latest = checkpoints.latest_step()
        metrics, saved = checkpoints.read(latest)
        wanted = saved.get(NUM_STEPS, saved.get("stage.steps", 0))
    if latest == wanted and is_owed(metrics, saved):
        return f"step {step:,}, trained to {latest:,}, which was not validated"
    return f"step {step:,}, trained to {latest:,} of {wanted:,}" if latest < wanted else ""


def best_before_the_end(folder: Path) -> str:
    """Which checkpoint counts, of a stage whose last one does not: an earlier one was the best; empty for others."""
    with _finished(folder) as (checkpoints, step):
        latest = checkpoints.latest_step()
    return f"step {step:,} of {latest:,}, the best in validation" if step < latest else ""


@contextlib.contextmanager
def _finished(folder: Path, wanted: int | None = None) -> Iterator[tuple[Checkpoints, int]]:
    """A stage folder's checkpoints, and the step of the one that counts, or is wanted."""
    if not (folder / CHECKPOINTS_FOLDER).is_dir():
        seen_from = "" if folder.is_absolute() else f" (looked for in {Path.cwd()})"
        raise UserError(f"{folder} has no {CHECKPOINTS_FOLDER}: it is no folder of a stage that was run{seen_from}")
    with open_checkpoints(folder) as checkpoints:
        best = checkpoints.best_step()
        step = checkpoints.latest_step() if best is None else best
        if step is None:
            raise UserError(f"{folder} has no finished checkpoint")
        if wanted is not None and wanted not in checkpoints.steps():
            raise UserError(f"{folder}: its checkpoint of step {wanted} is gone, for training has gone on: start again")
        yield checkpoints, step if wanted is None else wanted
