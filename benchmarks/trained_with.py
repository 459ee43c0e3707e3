"""What a stage was trained with, as the `config.json` of its run says: runs that differ in it are no repetitions."""

from typing import Any

from colar_jax.config import Config, OnResume, resolve, walk
from colar_jax.runs.run_folder import saved_config

# When a run says how far it is, and saves. When it validates is something else: that chooses the best checkpoint.
WHILE_TRAINING = ("log_every", "save_every")


def config_in(folder: str) -> Config:
    """The config of the run in a folder. UserError where there is none, or it cannot be read."""
    return resolve(saved_config(folder))


def settings_of(config: Config, stage: str) -> dict[str, Any]:
    """By their names the settings that say what a stage has learned, but for the seed and what it started from.

    Not those that only say how a step is computed, such as in how many parts.
    """
    groups = {f"stages.{stage}": config.stages[stage], "model": config.model, "data": config.data}
    return {
        name: value
        for prefix, group in groups.items()
        for name, value, on_resume in walk(group, f"{prefix}.")
        if on_resume is not OnResume.EXECUTION and name.rpartition(".")[2] not in (*WHILE_TRAINING, "init_from")
    }


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """By name the two values of settings that both know and that are not the same."""
    return {name: (ours[name], theirs[name]) for name in ours if name in theirs and ours[name] != theirs[name]}
