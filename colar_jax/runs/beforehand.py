"""What a later stage, or the evaluation at the end, would stop at: said before the first stage is trained."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from colar_jax.config import StageConfig, plain
from colar_jax.errors import UserError
from colar_jax.methods.segment_judge import SegmentJudge
from colar_jax.methods.shorter_chains import Concise
from colar_jax.report.results import AS_CONFIGURED
from colar_jax.runs.asked_speeds import stages_of
from colar_jax.runs.identity import refuse_another_tokenizer, settings_that_bind
from colar_jax.runs.idle_settings import idle_settings, refuse_idle_in_training
from colar_jax.runs.learned import is_in_the_data
from colar_jax.runs.resuming import latest_step
from colar_jax.runs.run import Run
from colar_jax.runs.stage_batches import check_schedule
from colar_jax.runs.start_rules import refuse_unfit_source
from colar_jax.runs.starts import finished_identity, source_of, unfinished
from colar_jax.runs.sweep.cells import cells_of
from colar_jax.runs.sweep.idle import refuse_idle_settings
from colar_jax.runs.trained_questions import refuse_inherited_questions
from colar_jax.runs.trim_verifier import refuse_other_segments, trim_source

logger = logging.getLogger(__name__)


def check_run(run: Run) -> None:
    """Make sure that every stage can begin, and that what they leave can be evaluated; UserError where it cannot."""
    to_begin = [name for name in run.config.stage_names if latest_step(run.workdir / name) is None]
    for name in to_begin:
        check_stage(run, name)
        _check_source(run, name)
    _check_steps(run, to_begin)
    _check_evaluation(run)
    refuse_idle_in_training(run, to_begin)
    for name in to_begin:  # last, because batches are planned for it
        if run.config.stages[name].trainer == "sft" and is_in_the_data(run, name):
            check_schedule(run, name)


def check_stage(run: Run, name: str) -> None:
    """UserError where a stage's trainer cannot train its method."""
    stage, method = run.config.stages[name], run.method(name)
    if stage.trainer == "grpo":
        _check_rewards(run, name)
        return
    if method.chooses_speed and "llama" in method.trains:
        raise UserError(f"stages.{name}.own_speed.learns='all' needs trainer='grpo': labels teach the head alone")
    if method.chooses_speed and method.labels == "each" and not run.config.decode.speed_certainty:
        logger.warning(
            "stage %s: at decode.speed_certainty=0 it takes the speed at which it is likeliest to be right, most often "
            "a slow one; decode.speed_certainty=0.95 would be the fastest at which it is that sure", name,
        )  # fmt: skip


def _check_rewards(run: Run, name: str) -> None:
    stage, method = run.config.stages[name], run.method(name)
    if not method.takes_rewards:
        raise UserError(
            f"stages.{name}: trainer='grpo' improves chains of drawn latents or of words, and method={stage.method!r} "
            "has neither: use colar, latent_sft, adaptive, own_speed or cot"
        )
    if stage.rl.num_questions > (count := len(run.train_problems)):
        raise UserError(
            f"stages.{name}.rl.num_questions={stage.rl.num_questions}, but there are only {count} training questions"
        )
    begins = latest_step(run.workdir / name) is None
    if begins and (objection := idle_settings(stage, run.config.model)):
        raise UserError(f"stages.{name}.rl.{objection}")
    if method.chooses_speed and stage.rl.speeds_per_group == 1:
        raise UserError(
            f"stages.{name}.rl.speeds_per_group=1: a group in which one speed is chosen compares no speeds; take at "
            "least 2"
        )


def _check_steps(run: Run, names: list[str]) -> None:
    """UserError where one of these stages learns from steps and no training problem has any; else a count of those."""
    learning = [name for name in names if _learns_steps(run.config.stages[name])]
    without = [number for number, one in enumerate(run.train_problems) if not any(map(str.strip, one.steps))]
    if not learning or not without:
        return
    source, all_of_them = run.config.data.train, len(run.train_problems)
    if len(without) == all_of_them:
        raise UserError(
            f"no problem of data.train={source!r} has steps, which stages.{learning[0]} learns from (method="
            f"{run.config.stages[learning[0]].method}): method=no_cot and reinforcement learning do without"
        )
    place = run.train_problems[without[0]].place or f"problem {without[0] + 1}"
    logger.warning(
        "data.train=%r: %d of %d problems have no steps, the first: %s. From these %s to answer at once",
        source, len(without), all_of_them, place,
        f"stage {learning[0]} learns" if len(learning) == 1 else f"stages {', '.join(learning)} learn",
    )  # fmt: skip


def _learns_steps(stage: StageConfig) -> bool:
    """Whether a stage learns from the chains of the data, and not from chains of its own."""
    method = stage.bound_method
    return stage.trainer == "sft" and method.recipe.keeps_steps and not isinstance(method, Concise)


def _check_source(run: Run, name: str) -> None:
    """UserError where a stage starts from one that is not trained before it, now or earlier, or that is unfit."""
    config, source = run.config, source_of(run, name)
    if source is None:
        refuse_unfit_source(run, name, None, {})
        _say_what_is_passed_over(run, name)
        return
    before = config.stage_names[: config.stage_names.index(name)]
    stage_in = {(run.workdir / earlier).resolve(): earlier for earlier in before}.get(source.resolve())
    if stage_in is None:
        settings = _settings_of_source(run, name, source)
        refuse_another_tokenizer(run, source)
        refuse_inherited_questions(run, source)
        if short := unfinished(source):
            logger.warning("stage %s starts from %s, which has not ended: %s", name, source, short)
    else:
        settings = settings_that_bind(run, stage_in)
    refuse_unfit_source(run, name, source, settings)


def _settings_of_source(run: Run, name: str, source: Path) -> dict:
    """What the stage that another starts from, and that is not trained before it in this run, was trained with."""
    named = run.config.source_of(name)
    if named not in run.config.stages:
        with _as_asked_for(f"stages.{name}.init_from", named):
            return finished_identity(source)["settings"]
    if latest_step(source) is None:
        fix = f"put it first, or train it first with --config.run={named}"
        raise UserError(
            f"stages.{name} starts from {named}, which --config.run={run.config.run} has after it: {fix}"
            if named in run.config.stage_names
            else f"stages.{name} starts from {named}, which has no checkpoint in {run.workdir} and is not in "
            f"--config.run={run.config.run}: {fix}"
        )
    return finished_identity(source)["settings"]


def _say_what_is_passed_over(run: Run, name: str) -> None:
    """A first stage without `init_from` starts anew, although the folder may have what was meant to be built on."""
    trained = [stage for stage in run.config.stages if stage != name and _is_trained(run.workdir / stage)]
    if trained:
        logger.warning(
            "stage %s starts from the initial weights, not from %s, which is trained in this folder: "
            "stages.%s.init_from=%s would",
            name, " or ".join(trained), name, trained[-1],
        )  # fmt: skip


def _is_trained(folder: Path) -> bool:
    try:
        return latest_step(folder) is not None
    except UserError:  # damaged: nothing that this run reads
        return False


def _check_evaluation(run: Run) -> None:
    """UserError where a stage to evaluate is never trained, a limit is below the least or read by none, or nothing can
    trim chains."""
    config, cells = run.config, []
    refuse_idle_settings([config])
    for stage in stages_of(config):
        if stage not in config.stage_names:
            with _as_asked_for("eval.stages", config.eval.stages):
                finished_identity(run.workdir / stage)
        cells += cells_of(config, stage, list(run.tests))
    verifier = config.eval.trim.verifier
    if verifier in config.stage_names:
        judge = run.method(verifier)
        if not isinstance(judge, SegmentJudge):
            raise UserError(
                f"eval.trim.verifier={verifier!r} is a stage of method={config.stages[verifier].method!r}: name one of "
                "method segment_judge, or a base model"
            )
        refuse_other_segments(config.eval.trim, plain(judge), verifier)
    elif any(cell.trim != AS_CONFIGURED for cell in cells):
        with _as_asked_for("eval.trim.verifier", verifier):
            trim_source(run)


@contextlib.contextmanager
def _as_asked_for(setting: str, value: str) -> Iterator[None]:
    """An error that says which setting asks for what is not there."""
    try:
        yield
    except UserError as error:
        raise error if setting in str(error) else UserError(f"{setting}={value!r}: {error}") from None
