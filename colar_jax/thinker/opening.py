"""What a name stands for (a run, a stage of one, an exported folder, a hub id of one), opened as a `Thinker`."""

import os
from pathlib import Path
from typing import Any

import ml_collections

from colar_jax.config import Config, nearest, resolve
from colar_jax.errors import UserError
from colar_jax.json_object import read_json_object
from colar_jax.runs.resuming import latest_step
from colar_jax.runs.run import Run, prepare
from colar_jax.runs.run_folder import CONFIG_FILE, saved_config
from colar_jax.runs.starts import asked_stage, finished_parameters, tell_what_counts
from colar_jax.thinker.exported_run import exported_config, exported_parameters, is_exported
from colar_jax.thinker.thinker import Thinker
from colar_jax.training.stage import CHECKPOINTS_FOLDER
from colar_jax.weights.base_model import base_folder


def load(
    source: str | os.PathLike | Config, stage: str | None = None, *, settings: dict[str, Any] | None = None
) -> Thinker:
    """A trained stage, ready to be asked. Its weights are loaded once, straight to the devices.

    Args:
        source: the folder of a run, or of a stage that was trained; a folder that `colar_jax.export` wrote, or the hub
            id (owner/name, or owner/name@revision) of one; or the resolved config of any of these (`config_of`).
        stage: of a run; None: the last one with a checkpoint that thinks in latents, else the last with a checkpoint.
        settings: that are to be others than the run's, by their paths, such as `{"decode.max_latents": 32,
            "eval.batch_size": 64, "model.dtype": "bfloat16"}`.

    Raises:
        UserError: one line that says what is wrong with the folder, the stage or a setting.
    """
    if isinstance(source, Config):
        return _opened(source, stage)
    folder = folder_named(source)
    if stage is None and _is_stage(folder):
        folder, stage = folder.resolve().parent, folder.resolve().name
    config = config_of(folder)
    try:
        config.update_from_flattened_dict(dict(settings or {}))
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        raise UserError(f"settings={settings!r}: {error}") from None
    return _opened(resolve(config), stage)


def folder_named(source: str | os.PathLike) -> Path:
    """The local folder of a source; of a hub id that of its files, which are fetched. UserError where there is none."""
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else source
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise UserError(f"{name!r} names nothing: name a run, a stage, an exported folder, or a hub id of one")
    if os.path.isfile(os.path.expanduser(name)):
        raise UserError(f"{name} is a file: name the folder of a run, of a stage, or of an exported model")
    return base_folder(name, "")


def config_of(folder: Path) -> ml_collections.ConfigDict:
    """The config of what is in a folder: a run's own, or one made of what an exported folder says.

    Raises:
        UserError: the folder is of neither kind.
    """
    if is_exported(folder):
        return exported_config(folder)
    if _is_language_model(folder):
        raise UserError(
            f"{folder} holds a language model, and no thinking.json that says how it thinks: name a run, or a folder "
            "that colar_jax.export wrote"
        )
    if (folder / CONFIG_FILE).is_file():
        return saved_config(folder)
    if _is_run(folder.resolve().parent):
        name, parent = folder.resolve().name, folder.resolve().parent
        if name in saved_config(parent).stages:
            if _is_stage(folder):
                raise UserError(f"{folder} is the folder of a stage: name the run, {parent}, and --stage={name}")
            raise UserError(f"{folder} is the folder of a stage that has no checkpoint yet: train it first")
        raise UserError(f"{folder} is a folder in a run, and none of a stage: name the run, {parent}")
    raise UserError(f"{folder} is neither a run, nor a stage of one, nor a folder that colar_jax.export wrote")


def _opened(config: Config, stage: str | None) -> Thinker:
    folder = Path(config.workdir).expanduser()
    _check_stage(stage, config)
    run = prepare(config, sets="none", for_training=False)
    if is_exported(folder):
        (name,) = run.config.stage_names
        return Thinker(run, name, exported_parameters(run, folder))
    name = asked_stage(run, stage)
    if latest_step(folder / name) is None:
        raise UserError(f"stage {name!r} of {folder} has no checkpoint yet: {_what_to_do(run)}")
    tell_what_counts(folder / name)
    return Thinker(run, name, finished_parameters(run, folder / name))


def _check_stage(stage: str | None, config: Config) -> None:
    """UserError for a stage that is none of the run's, before anything is loaded."""
    if not stage or (isinstance(stage, str) and stage in config.stages):
        return
    names, stage = _stages_of(config), str(stage)
    raise UserError(
        f"stage={stage!r} is no stage of {config.workdir}, which has {', '.join(names)}.{nearest(stage, names)}"
    )


def _stages_of(config: Config) -> list[str]:
    """The stages of a run in their order, then those that are only defined."""
    return list(dict.fromkeys([*config.stage_names, *config.stages]))


def _what_to_do(run: Run) -> str:
    has = [name for name in _stages_of(run.config) if latest_step(run.workdir / name) is not None]
    return f"train it first, or name one that has: {', '.join(has)}" if has else "train it first"


def _is_stage(folder: Path) -> bool:
    return (folder / CHECKPOINTS_FOLDER).is_dir() and _is_run(folder.resolve().parent)


def _is_run(folder: Path) -> bool:
    return "stages" in _config_json(folder)


def _is_language_model(folder: Path) -> bool:
    """Whether a folder's config.json is one of Hugging Face's: a run has a file of that name, too."""
    return "model_type" in _config_json(folder) or "architectures" in _config_json(folder)


def _config_json(folder: Path) -> dict[str, Any]:
    try:
        return read_json_object(folder / CONFIG_FILE)
    except (OSError, UserError):
        return {}
