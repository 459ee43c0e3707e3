"""The folder of a run: its config and tokenizer, written before anything is trained, read by whoever looks at it."""

import dataclasses
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_collections

from colar_jax.config import Config, plain, resolve_plain
from colar_jax.config.of_before import of_this_version
from colar_jax.errors import UserError
from colar_jax.json_object import read_json_object
from colar_jax.parallel.hosts import is_first
from colar_jax.runs.places import change_places, moved_path, whole_path
from colar_jax.settings import AUTOMATIC
from colar_jax.training.checkpoints import Checkpoints
from colar_jax.training.stage import CHECKPOINTS_FOLDER

if TYPE_CHECKING:
    from colar_jax.runs.run import Run

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
TOKENIZER_FOLDER = "tokenizer"
CHAINS_FILE = "own_chains.jsonl"  # in a stage's folder: problems with the chains that it learns, as training data is


def saved_config(workdir: str | Path) -> ml_collections.ConfigDict:
    """The config of the run in a folder, which may have been moved. UserError where there is none."""
    path = Path(workdir).expanduser() / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{workdir} is no folder of a run: {path} does not exist")
    # Resolved, so that settings that did not exist when the run was trained are there, at their defaults.
    try:
        settings = read_json_object(path)
        if "stages" not in settings and ("model_type" in settings or "architectures" in settings):
            raise UserError(f"{path} is of a language model, and of no run: name the folder of a run")
        resolved = resolve_plain(of_this_version(settings))
    except UserError as error:
        raise error if str(error).startswith(str(path)) else UserError(f"{path}: {error}") from None
    config = ml_collections.ConfigDict(_moved_along(plain(resolved), path.parent))
    config.workdir = str(workdir)
    return config


def _moved_along(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of a run that has been moved to a folder, with what was moved together with it where it is now.

    Not its tokenizer: the run has a copy of that (`run_tokenizer`).
    """
    was_in, is_in = settings["workdir"], os.path.abspath(folder)
    if not os.path.isabs(was_in) or was_in == is_in:  # earlier versions wrote no whole path
        return settings
    changed = change_places(settings, lambda name: moved_path(name, was_in, is_in))
    changed["data"]["tokenizer"] = settings["data"]["tokenizer"]
    return changed


def open_checkpoints(stage_folder: Path) -> Checkpoints:
    """Those of a stage, to be read: as many are kept for their metric as its run keeps (`keep_checkpoints`).

    One that the run is about to remove may be there in part; a reader that counted it would call it damaged.
    """
    try:
        config = json.loads((stage_folder.parent / CONFIG_FILE).read_text(encoding="utf-8"))
        keep_best = int(config["keep_checkpoints"])
    except (OSError, ValueError, KeyError, TypeError):  # of a folder that is not a run's
        keep_best = Config.keep_checkpoints
    return Checkpoints(stage_folder / CHECKPOINTS_FOLDER, keep_best=keep_best)


def write_config(run: "Run") -> None:
    """Save the resolved config and the tokenizer with the run, so that its folder says all there is to know.

    Wherever it is read from: places on this disk are there with their whole paths.
    """
    if not is_first():
        return
    run.workdir.mkdir(parents=True, exist_ok=True)
    others = {path.parent.name for path in run.workdir.glob(f"*/{CHECKPOINTS_FOLDER}")} - set(run.config.stages)
    if others:
        logger.warning(
            "%s has been trained in by another config: %s, which this one does not define, cannot be opened from there "
            "any more; another workdir keeps what is there",
            run.workdir, ", ".join(sorted(others)),
        )  # fmt: skip
    path = run.workdir / CONFIG_FILE
    unfinished = path.with_name(f".{path.name}.unfinished")
    # The devices belong to a start of the run, not to the run.
    config = dataclasses.replace(run.config, parallel=AUTOMATIC, workdir=os.path.abspath(run.workdir))
    settings = change_places(plain(config), whole_path)
    unfinished.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
    run.tokenizer.save(run.workdir / TOKENIZER_FOLDER)
