"""A tiny run of all stages, and ways to start one, to count its steps and to look at a stage before it runs."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from colar_jax.config import Config, resolve
from colar_jax.metric_writer import read_metrics
from colar_jax.runs import pipeline
from colar_jax.training.checkpoints import Checkpoints

ROOT = Path(__file__).parents[2]
CONFIG_FILE = ROOT / "configs" / "arithmetic.py"
STAGES = ("cot", "colar", "no_cot")
NUM_STEPS = 7
# Validations at 3, 6 and 7; saves without one at 2 and 4; nothing happens at 1 and 5.
TINY = {
    "run": ",".join(STAGES),
    "data.train_limit": 60,
    "data.num_val": 4,
    "data.num_test": 4,  # as many, so that the programs that decode are the same ones
    "decode.max_step_tokens": 5,
    "decode.max_latents": 4,
    "decode.max_answer_tokens": 3,
    "eval.seeds": 2,
    "eval.speeds": "2,5",
    **{
        f"stages.{stage}.{name}": value
        for stage in STAGES
        for name, value in dict(steps=NUM_STEPS, rows=2, log_every=2, eval_every=3, save_every=2).items()
    },
}


def smoke_config_dict(settings, workdir, **overrides):
    """The smoke run of configs/arithmetic.py with `settings`, and `overrides` on top."""
    config = runpy.run_path(str(CONFIG_FILE))["get_config"]("smoke")
    config.update_from_flattened_dict(settings | {"workdir": str(workdir)} | overrides)
    return config


def config_flags(settings) -> list[str]:
    """The same smoke run on a command line."""
    return [f"--config={CONFIG_FILE}:smoke", *(f"--config.{name}={value}" for name, value in settings.items())]


def tiny_config_dict(workdir, **overrides):
    return smoke_config_dict(TINY, workdir, **overrides)


def tiny_config(workdir, **overrides) -> Config:
    return resolve(tiny_config_dict(workdir, **overrides))


def copy_of(workdir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(workdir, tmp_path / "copy"))


def count_steps(monkeypatch) -> list[int]:
    """Note the steps that are taken from now on, whatever their stage: `state.step` before each."""
    taken = []
    make = pipeline.make_train_step

    def make_counting(*arguments):
        step = make(*arguments)

        def counting(state, *others):
            taken.append(int(state.step))
            return step(state, *others)

        return counting

    monkeypatch.setattr(pipeline, "make_train_step", make_counting)
    return taken


def start(*arguments, environment: dict[str, str] | None = None) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | (environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def checkpoint_steps(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    with Checkpoints(folder) as checkpoints:
        return checkpoints.steps()


class Captured(Exception):
    """Ends a stage where a test has seen enough."""


def captured_by(run, name: str):
    with pytest.raises(Captured) as captured:
        pipeline.train_stage(run, name)
    return captured.value.args[0]


def capture_stage(monkeypatch, run, name: str):
    """The `StageRun` that a stage would be run with."""

    def capture(stage, *others):
        raise Captured(stage)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "run_stage", capture)
        return captured_by(run, name)


def untimed_metrics(stage_folder: Path) -> list[dict]:
    """The lines of metrics.jsonl without what differs from one run to the next."""
    lines = read_metrics(stage_folder)
    return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in lines]


def saved_by(stage_folder: Path, step: int) -> tuple[dict[str, bytes], dict]:
    """Every leaf of the checkpoint of a stage's end, and what its trainer saved beside it."""
    with Checkpoints(stage_folder / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() == step
        metadata = checkpoints._metadata(step).metadata
        abstract = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in metadata.items()}
        leaves = {path: np.asarray(leaf).tobytes() for path, leaf in checkpoints.restore(step, abstract).items()}
        return leaves, checkpoints.read(step)[1]["trainer"]


def without_times(report: dict) -> dict:
    """All of a report that says nothing of the machine."""
    costs = [{n: v for n, v in result["cost"].items() if n != "seconds_per_question"} for result in report["results"]]
    results = [result | {"cost": cost} for result, cost in zip(report["results"], costs, strict=True)]
    return {name: value for name, value in report.items() if name not in ("timing", "made")} | {"results": results}
