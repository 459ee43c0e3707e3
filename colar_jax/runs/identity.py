"""What a checkpoint belongs to: the settings that it depends on, its training problems, and the base of its adapters.

Each setting says beside itself whether a checkpoint depends on it (`settings.on_resume`).
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from colar_jax.config import (
    Config,
    DataConfig,
    DecodeConfig,
    ModelConfig,
    OnResume,
    StageConfig,
    as_before,
    parse_targets,
    shown,
    walk,
)
from colar_jax.config.stage_settings import unread_by
from colar_jax.data.fingerprint import problems_hash
from colar_jax.data.json_lines import read_problems
from colar_jax.data.tokenizers import load_tokenizer
from colar_jax.errors import UserError
from colar_jax.methods.shorter_chains import DroppedSteps
from colar_jax.runs.places import is_same
from colar_jax.runs.run import Run
from colar_jax.runs.run_folder import CHAINS_FILE, TOKENIZER_FOLDER
from colar_jax.runs.trained_speeds import SOURCE
from colar_jax.training.stage import REMEMBERED

VALIDATED_ON = "validated_on"  # a hash of what validations ask, and how
# What a checkpoint also stores, for the steps after it.
FIRST_POLICY = "first_policy"  # the checkpoint of its source that a stage with `rl.beta` is held near
NUM_STEPS = "num_steps"  # that the stage takes in all
MEMORY = (*REMEMBERED, VALIDATED_ON, FIRST_POLICY, NUM_STEPS, SOURCE)
PROBLEMS = "data.problems"  # a hash of the run's training problems, in their order
READING = "data.tokenizer.reading"  # a hash of how the run's tokenizer reads, whatever it is called
CHAINS = "data.chains"  # a hash of another stage's chains, where this one's are made like them
# Settings under the names that they have in checkpoints of earlier versions.
_OLD_NAMES = {"verifier": "data.verifier"}
# How those checkpoints identify their training problems.
_OLD_DATA = ("data.train", "data.train_limit", "data.held_out")


@dataclasses.dataclass(frozen=True)
class Change:
    """A setting that is not what it was when a checkpoint was saved."""

    name: str  # as in the checkpoint: `stage.rows`
    was: Any
    value: Any
    on_resume: OnResume


def identity_of(run: Run, name: str) -> dict:
    """What a stage's checkpoints depend on, flat, so that a message can name what changed."""
    identity = settings_that_bind(run, name) | {PROBLEMS: run.train_problems_hash, READING: run.tokenizer.reading}
    chains = chains_that_say_lengths(run, name)
    return identity | {CHAINS: problems_hash(read_problems(chains))} if chains and chains.is_file() else identity


def chains_that_say_lengths(run: Run, name: str) -> Path | None:
    """The file of the chains that a stage of `dropped_steps` takes its lengths from; None: it takes them from none."""
    method = run.method(name)
    if not isinstance(method, DroppedSteps) or not method.like:
        return None
    folder = run.workdir / method.like if method.like in run.config.stages else Path(method.like).expanduser()
    return folder / CHAINS_FILE


def changes_since(saved: dict, run: Run, name: str) -> list[Change]:
    """How a stage of a run differs from what the identity of one of its checkpoints says.

    What only one of the two knows counts as its default in the other: a setting may be younger than the checkpoint.
    Where its default is not what that version did, it counts as what that version did (`before` in its declaration).
    """
    stage = run.config.stages[name]
    saved = _as_named_now(saved, stage)
    ours, known, settings = identity_of(run, name), _defaults(stage), _settings_of(run.config, name)
    before = _defaults(stage, as_before)
    # A checkpoint of before did not say; and a stage that has ended may be looked at when the chains are gone.
    for name_of_hash in (CHAINS, READING):
        if name_of_hash not in saved or name_of_hash not in ours:
            saved, ours = ({key: value for key, value in of.items() if key != name_of_hash} for of in (saved, ours))
    if PROBLEMS not in saved:
        del ours[PROBLEMS]
        is_file = Path(run.config.data.train).expanduser().is_file()
        ours |= {setting: settings[setting][0] for setting in (_OLD_DATA if is_file else _OLD_DATA[:2])}
    changes = []
    for setting in dict.fromkeys([*ours, *saved]):
        default, on_resume = known.get(setting, (None, OnResume.BINDS))
        if on_resume is OnResume.OBSERVING:
            if setting not in ours:
                continue
            on_resume = OnResume.BINDS
        default_before, _ = before.get(setting, (default, on_resume))
        was, value = saved.get(setting, default_before), ours.get(setting, default)
        if not is_same(setting, was, value, run.config.stages):
            changes.append(Change(setting, was, value, on_resume))
    return changes


def other_settings(saved: dict, run: Run, name: str) -> dict[str, Any]:
    """What of method, model and tokenizer is not as a stage was trained, by name: it is decoded as another then.

    But for the dtype of activations, in which any stage may be decoded.
    """
    group = run.config.stages[name].bound_method.group
    of_decoding = ("stage.method", f"stage.{group}.", "model.", "base.", "data.tokenizer")
    changes = (change for change in changes_since(saved, run, name) if change.name.startswith(of_decoding))
    changed = {change.name: change.value for change in changes if change.on_resume is not OnResume.EXECUTION}
    return {setting: value for setting, value in changed.items() if setting != "model.dtype"}


def _as_named_now(saved: dict, stage: StageConfig) -> dict:
    """A saved identity under today's names, without settings that every stage used to have, and this one does not read.

    They are those of other methods, and of another trainer.
    """
    method = stage.bound_method
    old_names = _OLD_NAMES | {old: f"stage.{method.group}.{field}" for old, field in method.old_names.items()}
    groups = {group for group, value, _ in shown(stage) if dataclasses.is_dataclass(value)}

    def is_read(setting: str) -> bool:
        of, *path = setting.split(".")
        if setting in MEMORY:
            return False
        return of != "stage" or (path[0] not in unread_by(stage.trainer) if len(path) == 1 else path[0] in groups)

    return {old_names.get(setting, setting): value for setting, value in saved.items() if is_read(setting)}


def settings_that_bind(run: Run, name: str) -> dict:
    """`identity_of`, but for the problems: the settings that checkpoints depend on, and the base."""
    identity = {
        setting: value
        for setting, (value, on_resume) in _settings_of(run.config, name).items()
        if on_resume is not OnResume.OBSERVING and not is_unread(run, name, setting)
    }
    if run.config.model.lora.rank:
        identity["model.lora.targets"] = ",".join(parse_targets(run.config.model.lora.targets))
    return identity | {f"base.{fact}": value for fact, value in run.base_identity.items() if fact != "name"}


def _settings_of(config: Config, name: str) -> dict[str, tuple[Any, OnResume]]:
    """Every setting that a stage's checkpoints may depend on, and whether it may change."""
    return _settings(config.seed, config.stages[name], config.model, config.data, config.decode)


def _defaults(stage: StageConfig, made: Callable[[Any], Any] = lambda group: group) -> dict[str, tuple[Any, OnResume]]:
    """The defaults of a stage of this kind and of its run; `made` gives those of another time."""
    groups = StageConfig(method=stage.method, trainer=stage.trainer), ModelConfig(), DataConfig(), DecodeConfig()
    # Checkpoints of before did not say that they were trained on data, whatever they are to be trained on now.
    return _settings(Config.seed, *map(made, groups)) | {"stage.trainer": (StageConfig.trainer, OnResume.BINDS)}


def _settings(
    seed: int, stage: StageConfig, model: ModelConfig, data: DataConfig, decode: DecodeConfig
) -> dict[str, tuple[Any, OnResume]]:
    settings = {"seed": (seed, OnResume.BINDS)}
    for prefix, group in {"stage.": stage, "model.": model, "data.": data, "decode.": decode}.items():
        settings |= {setting: (value, on_resume) for setting, value, on_resume in walk(group, prefix)}
    return settings


def is_unread(run: Run, name: str, setting: str) -> bool:
    """Whether a stage does not read a setting: another value of it changes nothing."""
    config, stage = run.config, run.config.stages[name]
    unread = ["model.base"]  # a base model is known by its content: it may move
    if run.base_identity:
        unread.append("model.preset")
    if stage.trainer == "sft":  # rollouts are sampled, and judged, in reinforcement learning only
        unread += ["decode", "data.verifier"]
    if not config.model.lora.rank:  # settings of adapters that are not there
        unread += ["model.lora", "model.base_dtype"]
    return f"{setting}.".startswith(tuple(f"{group}." for group in unread))


def _adapter_identity(identity: dict) -> dict:
    """Of an identity, what says which frozen weights its adapters stand beside, and how; empty without adapters."""
    if "model.lora.rank" not in identity:
        return {}
    # Random weights follow from the seed and the shape; those of a base model are known by what is under `base`.
    base = [name for name in identity if name.startswith("base.")] or ["seed", "model.preset"]
    lora = [f"model.lora.{field}" for field in ("rank", "alpha", "targets")]
    return {name: identity.get(name) for name in (*base, "data.tokenizer", *lora)}


def refuse_another_tokenizer(run: Run, folder: Path) -> None:
    """UserError where a stage folder is of a run whose ids are other words; shapes alone do not show that.

    A few ids may differ, as those of special tokens. Nothing is known of a stage whose run's folder is not there. In
    this run's own folder is the tokenizer of the last start, until `write_config` replaces it.
    """
    theirs = folder.parent / TOKENIZER_FOLDER
    if not theirs.is_dir():
        return
    try:
        saved = load_tokenizer(str(theirs), needs_separator=False).hf.get_vocab()
    except UserError:  # the run was killed while it wrote it
        return
    ours = run.tokenizer.hf.get_vocab()
    num_same = sum(saved.get(token) == token_id for token, token_id in ours.items())
    if 2 * num_same < len(ours):
        raise UserError(
            f"{folder} was trained with another tokenizer ({theirs}): of the {len(ours)} tokens here {num_same} have "
            "the same id there. Set data.tokenizer to that one, or start from another stage"
        )


def refuse_changed_tokenizer(run: Run, folder: Path, saved_identity: dict) -> None:
    """UserError where a stage of this run was trained with a tokenizer that read otherwise than the run's does now.

    Its name may be the same: its files were changed, or a hub's. Stages of before did not say how theirs read.
    """
    is_own = folder.resolve() in [(run.workdir / name).resolve() for name in run.config.stages]
    if is_own and saved_identity.get(READING, run.tokenizer.reading) != run.tokenizer.reading:
        raise UserError(
            f"{folder} was trained with a tokenizer that read otherwise than that of this run does now: its files were "
            f"changed, or data.tokenizer is another. Its copy is {run.workdir / TOKENIZER_FOLDER}: bring that one back"
        )


def refuse_other_adapters(run: Run, folder: Path, saved_identity: dict) -> None:
    """UserError where the adapters of a stage folder are not for this run's base, or only one of the two has any."""
    saved = _adapter_identity(saved_identity)
    ours = _adapter_identity(settings_that_bind(run, run.config.stage_names[0]))
    if bool(saved) != bool(ours):
        was, fix = (
            ("with adapters", "set model.lora as it was there, and the same base")
            if saved
            else ("without adapters", "set model.lora.rank=0, or make a base model of it and name that in model.base")
        )
        raise UserError(f"{folder} was trained {was}, and model.lora.rank={run.config.model.lora.rank} here: {fix}")
    names = dict.fromkeys([*ours, *saved])
    changed = [name for name in names if not is_same(name, saved.get(name), ours.get(name), run.config.stages)]
    if changed:
        raise UserError(
            f"the adapters of {folder} belong to another base, or are others: "
            + "; ".join(f"{name} was {saved.get(name)!r}, is {ours.get(name)!r}" for name in changed)
        )
