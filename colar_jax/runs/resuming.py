"""Going on with a stage after its settings have changed: what is taken silently, what when accepted, what never."""

import hashlib
import json
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from colar_jax.config import OnResume
from colar_jax.data.fingerprint import problems_hash
from colar_jax.data.problems import Problem
from colar_jax.data.prompts import Speed, speed_text
from colar_jax.errors import UserError
from colar_jax.parallel.hosts import is_first
from colar_jax.runs.identity import CHAINS, PROBLEMS, READING, VALIDATED_ON, Change, changes_since
from colar_jax.runs.run import Run
from colar_jax.runs.run_folder import CHAINS_FILE, TOKENIZER_FOLDER, open_checkpoints
from colar_jax.training.stage import CHECKPOINTS_FOLDER, is_owed
from colar_jax.whole_lines import whole_lines

logger = logging.getLogger(__name__)

CHANGES_FILE = "changes.jsonl"  # in a stage's folder
_OPTIMIZER_NAME = "stage.optimizer.name"


def latest_step(folder: Path) -> int | None:
    """The step of a stage folder's latest checkpoint; None where it has none."""
    if not (folder / CHECKPOINTS_FOLDER).is_dir():
        return None
    with open_checkpoints(folder) as checkpoints:
        return checkpoints.latest_step()


def has_ended(folder: Path, num_steps: int) -> bool:
    """Whether a stage folder's latest checkpoint is the last of so many steps, and owes no validation."""
    step = latest_step(folder)
    if step is None or step < num_steps:
        return False
    with open_checkpoints(folder) as checkpoints:
        return not is_owed(*checkpoints.read(step))


def is_validated(folder: Path, step: int) -> bool:
    """Whether a stage folder's checkpoint of a step may be its best one."""
    with open_checkpoints(folder) as checkpoints:
        return bool(checkpoints.read(step)[0])


def refuse_another_run(run: Run, name: str, *, accept_changes: bool) -> list[Change]:
    """What has changed since the latest checkpoint of a stage was saved, where the stage may go on all the same.

    Args:
        accept_changes: whether the learning rate, the batch and the length may be others.

    Raises:
        UserError: it may not; with all that changed, and the ways out.
    """
    folder = run.workdir / name
    step = latest_step(folder)
    if step is None:
        return []
    with open_checkpoints(folder) as checkpoints:
        changes = changes_since(checkpoints.read(step)[1], run, name)
    before = accepted_before(folder, step)

    def is_allowed(change: Change) -> bool:
        if change.on_resume is OnResume.ADJUSTABLE:
            return accept_changes or before.get(_setting(change, name)) == _as_json(change.value)
        return change.on_resume is OnResume.EXECUTION

    if not all(map(is_allowed, changes)):
        raise UserError(_refusal(run, name, [c for c in changes if c.on_resume is not OnResume.EXECUTION]))
    return changes


def accepted_before(folder: Path, step: int) -> dict[str, object]:
    """Settings whose change was accepted since a stage's checkpoint of `step`, and their values since then.

    What was accepted at an earlier one is in that checkpoint, or was taken back before anything was learned with it. A
    stage that has ended keeps the checkpoint of before for ever, and is not asked for again.
    """
    lines = map(json.loads, whole_lines(folder / CHANGES_FILE, mends=is_first()))
    since = (line for line in lines if line["step"] == step or line.get("has_ended"))
    return {setting: value for line in since for setting, (_, value) in line["changes"].items()}


# Of `decode`, what greedy answers depend on where the speed is told.
READ_GREEDILY = (
    *("max_latents", "min_latents", "greedy_stop", "max_step_tokens", "max_answer_tokens", "latents_see_question"),
)


def validated_on(run: Run, name: str, problems: Sequence[Problem], speeds: Sequence[Speed]) -> str:
    """A hash of all that the accuracy of a validation depends on besides the model: only equal ones can be compared."""
    decode = {name: getattr(run.config.decode, name) for name in READ_GREEDILY}
    # Without it hashes are those of before there was one.
    if run.method(name).chooses_speed and run.config.decode.speed_certainty:
        decode["speed_certainty"] = run.config.decode.speed_certainty
    what = [problems_hash(problems), list(map(speed_text, speeds)), decode, run.config.data.verifier]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def warn_of_other_validations(run: Run, name: str, step: int, now: str) -> None:
    """Say where a stage goes on with other validations than it had until `step`: both choose the best checkpoint."""
    with open_checkpoints(run.workdir / name) as checkpoints:
        before = checkpoints.read(step)[1].get(VALIDATED_ON, now)  # earlier versions did not say
    if before != now:
        logger.warning(
            "stage %s: until step %d it was validated on other problems, or decoded otherwise; which checkpoint is "
            "best is decided among both, as if their accuracies could be compared",
            name, step,
        )  # fmt: skip


def note_changes(run: Run, name: str, changes: Sequence[Change], *, has_ended: bool) -> None:
    """Say what a stage goes on with, and keep in its `changes.jsonl` what was accepted, unless it was the last time.

    Args:
        has_ended: whether it has taken all its steps already: what is kept says so, for it learned nothing with them.
    """
    if not changes:
        return
    folder = run.workdir / name
    step = latest_step(folder)
    what = ", ".join(f"{_setting(change, name)} {change.was!r} -> {change.value!r}" for change in changes)
    if has_ended:
        logger.info("stage %s has ended at step %s; the run goes on with %s", name, step, what)
    else:
        logger.info("stage %s goes on from step %s with %s", name, step, what)
    accepted = {_setting(c, name): [c.was, c.value] for c in changes if c.on_resume is OnResume.ADJUSTABLE}
    if not (accepted and is_first()):
        return
    before = accepted_before(folder, step)
    if any(before.get(setting) != _as_json(value) for setting, (_, value) in accepted.items()):
        line = {"step": step, "changes": accepted} | ({"has_ended": True} if has_ended else {})
        with (folder / CHANGES_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _as_json(value: Any) -> Any:
    """A value as it is read from `changes.jsonl`."""
    return json.loads(json.dumps(value))


def _refusal(run: Run, name: str, changes: Sequence[Change]) -> str:
    folder = run.workdir / name
    what = "; ".join(f"{_setting(change, name)} was {change.was!r}, is {change.value!r}" for change in changes)
    if any(change.name == _OPTIMIZER_NAME for change in changes):
        what += ". One optimizer cannot go on with what another has kept of the gradients"
    ways = [f"  as it was:      {_old_settings(run, name, changes)}"]
    if all(change.on_resume is OnResume.ADJUSTABLE for change in changes):
        ways.insert(0, "  go on with it:  the same command with --accept_changes")
    if not any(_changes_the_model(change) for change in changes):
        after = run.config.stage_names[run.config.stage_names.index(name) :]
        flags = {"workdir": "NEW_FOLDER", "run": ",".join(after), f"stages.{name}.init_from": str(folder)}
        ways.append("  another run, which starts from it:  the same command with " + _as_flags(flags))
    return f"{folder} was trained with other settings: {what}.\n" + "\n".join(ways)


def _setting(change: Change, name: str) -> str:
    """A changed setting as users know it."""
    if change.name == PROBLEMS:
        return "the training problems (their hash)"
    if change.name == READING:
        return "how the tokenizer reads (a hash)"
    if change.name == CHAINS:
        return f"the chains of stages.{name}.dropped_steps.like (their hash)"
    if change.name.startswith("base."):
        return f"the base model's {change.name.removeprefix('base.')} (its hash)"
    return f"stages.{name}.{change.name.removeprefix('stage.')}" if change.name.startswith("stage.") else change.name


def _old_settings(run: Run, name: str, changes: Sequence[Change]) -> str:
    told, flags = [], {}
    for change in changes:
        if change.name == PROBLEMS:
            told.append(
                "bring back the training data (its file was changed, or data.train or data.train_limit; or, of "
                "`renumbered:`, data.val or data.test, whose questions are left out)"
            )
        elif change.name == READING:
            told.append(
                f"bring back the tokenizer (its files were changed): {run.workdir / TOKENIZER_FOLDER} has a copy"
            )
        elif change.name == CHAINS:
            told.append(f"bring back the {CHAINS_FILE} of the stage that stages.{name}.dropped_steps.like names")
        elif change.name.startswith("base."):
            told.append("bring back the base model (model.base)")
        else:
            flags[_setting(change, name)] = change.was
    if flags:
        told.append("the same command with " + _as_flags(flags))
    return "; ".join(dict.fromkeys(told))


def _as_flags(settings: dict[str, object]) -> str:
    return " ".join(shlex.quote(f"--config.{setting}={value}") for setting, value in settings.items())


def _changes_the_model(change: Change) -> bool:
    """Whether parameters of one run cannot be those of the other."""
    is_of_model = change.name.startswith(("model.", "base.")) or change.name in ("data.tokenizer", READING)
    return is_of_model and change.on_resume is OnResume.BINDS
