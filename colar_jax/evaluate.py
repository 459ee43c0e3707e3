"""Evaluate a run again: `python -m colar_jax.evaluate --workdir=runs/arithmetic --config.eval.speeds=1,2,3.5`."""

import json
from pathlib import Path

import ml_collections

from colar_jax import pipeline
from colar_jax.command_line import flag_value, run_main
from colar_jax.config import Config
from colar_jax.run import CONFIG_FILE, prepare


def load_run_config(workdir: str) -> ml_collections.ConfigDict:
    """The config that a run was trained with. ValueError where `workdir` is no run's folder."""
    path = Path(workdir).expanduser() / CONFIG_FILE
    if not workdir or not path.is_file():
        raise ValueError(f"--workdir={workdir}: name the folder of a run; {path} does not exist")
    config = ml_collections.ConfigDict(json.loads(path.read_text()))
    config.workdir = workdir  # the folder may have been moved
    return config


def evaluate(config: Config) -> None:
    """Decode the run's test sets as `config.eval` says, and write the report anew."""
    pipeline.evaluate(prepare(config))


if __name__ == "__main__":
    run_main(evaluate, lambda: load_run_config(flag_value("workdir")), own_flags=("workdir",))
