"""Where a command's config comes from: a config file, the folder of a run or of several, or whatever can be asked."""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_collections

from colar_jax.command_line.config_file import load_config_file
from colar_jax.errors import UserError
from colar_jax.runs.run_folder import CONFIG_FILE, saved_config
from colar_jax.weights.thinking_file import THINKING_FILE


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a command's config comes from."""

    name: str  # of the flag
    help: str
    load: Callable[[str], list[ml_collections.ConfigDict]]
    is_many: bool = False
    also: tuple[str, ...] = ()  # what other commands call the flag


def source_value(source: Source, given: dict[str, Any]) -> str:
    """What the source's flag says, under whichever of its names; taken out of what was given."""
    values = {name: given.pop(name) for name in (source.name, *source.also)}
    said = [name for name, value in values.items() if value]
    if len(said) > 1:
        raise UserError(f"--{said[0]} and --{said[1]} are two names of one flag: give one of them")
    return values[said[0]] if said else ""


def _run(workdir: str) -> list[ml_collections.ConfigDict]:
    folder = Path(os.path.expanduser(workdir))
    if not workdir:
        raise UserError("--workdir is missing: name the folder of a run")
    if os.path.isfile(folder / THINKING_FILE):
        raise UserError(
            f"--workdir={workdir} is an exported folder, and no run: in Python colar_jax.load({workdir!r}).evaluate("
            "problems) measures it (docs/python_api.md); here name the run that it was exported from"
        )
    if not os.path.isfile(folder / CONFIG_FILE):
        seen_from = "" if folder.is_absolute() else f" in {os.getcwd()}"
        raise UserError(
            f"--workdir={workdir}: name the folder of a run; {folder / CONFIG_FILE} does not exist{seen_from}"
            f"{_run_around(folder)}"
        )
    return [saved_config(workdir)]


def _run_around(folder: Path) -> str:
    """What to say of a folder in a run, such as a stage's."""
    around = folder.resolve().parent
    if not (os.path.isdir(folder) and os.path.isfile(around / CONFIG_FILE)):
        return ""
    return f". {around} is one, and its stages are chosen with --config.eval.stages"


def _asked(flag_name: str, name: str) -> list[ml_collections.ConfigDict]:
    """Of whatever `colar_jax.load` takes."""
    from colar_jax.thinker.opening import config_of, folder_named  # here, because few commands ask a model

    if not name:
        raise UserError(f"--{flag_name} is missing: name the folder of a run, or one that colar_jax.export wrote")
    return [config_of(folder_named(name))]


def _runs(workdirs: str) -> list[ml_collections.ConfigDict]:
    return [config for workdir in _split_workdirs(workdirs) or [""] for config in _run(workdir)]


def _split_workdirs(text: str) -> list[str]:
    """The folders that a text lists. A comma in a name is no comma between names: the longest name of a run counts."""
    parts, workdirs = text.split(","), []
    while parts:
        names = [",".join(parts[:count]).strip() for count in range(len(parts), 0, -1)]
        is_run = [bool(name) and os.path.isfile(Path(os.path.expanduser(name)) / CONFIG_FILE) for name in names]
        place = is_run.index(True) if any(is_run) else len(names) - 1
        if names[place]:
            workdirs.append(names[place])
        parts = parts[len(parts) - place :]
    return workdirs


CONFIG = Source("config", "a config file, or file.py:argument", lambda value: [load_config_file(value)])
RUN = Source("workdir", "the folder of a run", _run, also=("model",))
_ASKED = "the folder of a run, a folder that colar_jax.export wrote, or the hub id of one"
ASKED = Source("workdir", f"{_ASKED}; also --model", functools.partial(_asked, "workdir"), also=("model",))
MODEL = Source("model", f"{_ASKED}; also --workdir", functools.partial(_asked, "model"), also=("workdir",))
RUNS = Source("workdir", "folders of runs, with commas between them", _runs, is_many=True, also=("model",))
