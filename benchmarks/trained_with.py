"""What a stage was trained with, as the `config.json` of its run says: runs that differ in it are no repetitions."""

import dataclasses
from pathlib import Path
from typing import Any

from colar_jax.command_line.config_file import load_config_file
from colar_jax.command_line.flags import flag, override, parse_own
from colar_jax.config import Config, OnResume, plain, resolve, resolve_plain, walk
from colar_jax.runs.places import bare_name, change_places, whole_path
from colar_jax.runs.run_folder import saved_config
from colar_jax.train import Flags

# When a run says how far it is, and saves. When it validates is something else: that chooses the best checkpoint.
WHILE_TRAINING = ("log_every", "save_every", "save_minutes")
# Of an evaluation, what changes none of its accuracies: how many questions at a time, and what is said of samples.
OF_LOOKS = ("eval.batch_size", "eval.latent_words", "eval.stages")


@dataclasses.dataclass(frozen=True)
class OfTrain(Flags):
    """All flags of `colar_jax.train` that are no settings."""

    config: str = flag("", "a config file")


def config_in(folder: str) -> Config:
    """The config of the run in a folder. UserError where there is none, or it cannot be read."""
    return resolve(saved_config(folder))


def settings_of(config: Config, stage: str) -> dict[str, Any]:
    """By their names the settings that say what a stage has learned, but for the seed and what it started from.

    Not those that only say how a step is computed, such as in how many parts.
    """
    config = resolve_plain(change_places(plain(config), bare_name))  # two machines have one thing in two places
    groups = {f"stages.{stage}": config.stages[stage], "model": config.model, "data": config.data}
    return {
        name: value
        for prefix, group in groups.items()
        for name, value, on_resume in walk(group, f"{prefix}.")
        if on_resume is not OnResume.EXECUTION and name.rpartition(".")[2] not in (*WHILE_TRAINING, "init_from")
    }


def asked_by(arguments: list[str]) -> Config:
    """The config that `colar_jax.train` runs with. UserError where it would say that the arguments are wrong."""
    own, settings = parse_own(arguments, list(dataclasses.fields(OfTrain)))
    config = load_config_file(own["config"])
    override(config, settings, list(own))
    return resolve_plain(change_places(plain(resolve(config)), whole_path))  # as a run's folder has it


def other_than_asked(folder: str, arguments: list[str], stages: list[str]) -> str:
    """In which settings a run's stages, and its evaluation, are not as a command of `colar_jax.train` asks.

    Returns:
        The first setting with both its values, and how many there are besides; "" where nothing differs.
    """
    ours, theirs = (_of_run(config, stages) for config in (config_in(folder), asked_by(arguments)))
    if not (found := [name for name in dict.fromkeys([*ours, *theirs]) if ours.get(name) != theirs.get(name)]):
        return ""
    more = f", and {len(found) - 1} more" if found[1:] else ""
    return f"{found[0]}={ours.get(found[0])!r} where {theirs.get(found[0])!r} is asked{more}"


def _of_run(config: Config, stages: list[str]) -> dict[str, Any]:
    """What a run's accuracies depend on. Of what a stage starts from two names are compared: folders may be moved."""
    settings = {"seed": config.seed}
    for stage in (name for name in stages if name in config.stages):
        start = "/".join(Path(config.stages[stage].init_from).parts[-2:])
        settings |= settings_of(config, stage) | {f"stages.{stage}.init_from": start}
    groups = {"decode.": config.decode, "eval.": config.eval}
    looks = {name: value for prefix, group in groups.items() for name, value, _ in walk(group, prefix)}
    return settings | {name: value for name, value in looks.items() if name not in OF_LOOKS}
