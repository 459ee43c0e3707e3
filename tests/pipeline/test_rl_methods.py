"""Reinforcement learning of k-hot latents and of chosen lengths: whole runs, tiny, killed and gone on with."""

import json
import os
import runpy
import signal
import subprocess
import sys

import pytest
from pipeline.test_rl import DRIVER
from pipeline.tiny import ROOT, saved_by, untimed_metrics, without_times

from colar_jax.config import resolve
from colar_jax.errors import UserError
from colar_jax.metric_writer import read_metrics
from colar_jax.report.files import read_report
from colar_jax.rl import grpo
from colar_jax.runs import pipeline
from colar_jax.runs.run import prepare

pytestmark = pytest.mark.slow  # two runs of two stages, and as many again

ITERATIONS = 3
TINY = {
    "data.train_limit": 60,
    "data.num_val": 4,
    "data.num_test": 4,
    "decode.max_latents": 4,
    "decode.max_answer_tokens": 3,
    "stages.rl.steps": ITERATIONS,
    "stages.rl.save_every": 1,
    "stages.rl.eval_every": 3,
    "stages.rl.log_every": 1,
    "stages.rl.rl.reward": "pico_rewards:fewer_latents_and_longer_answers",
    "stages.rl.rl.num_questions": 3,
    "stages.rl.rl.minibatch_size": 4,
    "stages.rl.rl.num_iterations": 2,
    "stages.rl.rl.beta": 0.1,
    "stages.rl.rl.overlong": "count",  # a model that was hardly trained never stops by itself
    "stages.rl.optimizer.learning_rate": 1e-3,
}
CONFIGS = {"latent_sft": "gsm8k_latent_grpo", "adaptive": "gsm8k_adaptive"}


def config_file(method: str):
    return ROOT / "configs" / f"{CONFIGS[method]}.py"


def tiny_config(method: str, workdir, **overrides):
    config = runpy.run_path(str(config_file(method)))["get_config"]("smoke")
    config.update_from_flattened_dict(TINY | {"workdir": str(workdir)} | overrides)
    return resolve(config)


@pytest.fixture(scope="module", params=list(CONFIGS))
def finished(request, tmp_path_factory):
    """A method, and the folder of its run, which was never stopped. Not to be changed."""
    workdir = tmp_path_factory.mktemp(request.param) / "run"
    pipeline.train(tiny_config(request.param, workdir))
    return request.param, workdir


def test_what_the_stage_leaves_behind(finished):
    method, workdir = finished
    lines = read_metrics(workdir / "rl")
    updated = [line for line in lines if line.get("updates")]
    assert updated and all(line["gap/answer"] < 1e-4 for line in updated)
    for line in updated:
        assert ("gap/latent" in line, "ratio/decision" in line) == (True, method == "adaptive")
        assert line["gap/latent"] < 1e-4 and line.get("gap/decision", 0.0) < 1e-4
        assert ("ratio/latent" in line) == (method == "latent_sft") and "latent_std" not in line
    rows = read_report(workdir)["results"]
    stages = {row["stage"] for row in rows}
    assert stages == {method, "rl"}
    assert json.loads((workdir / "config.json").read_text())["stages"]["rl"]["trainer"] == "grpo"


def assert_the_same_end(workdir, expected):
    both = (saved_by(folder / "rl", ITERATIONS) for folder in (workdir, expected))
    for actual, of_finished in zip(*both, strict=True):
        assert actual == of_finished
    assert untimed_metrics(workdir / "rl") == untimed_metrics(expected / "rl")
    assert without_times(read_report(workdir)) == without_times(read_report(expected))


class Stopped(Exception):
    """Stands for a kill."""


def test_stopped_in_an_update_it_goes_on_to_the_same_end(finished, tmp_path, monkeypatch):
    method, expected = finished
    workdir, num_updates = tmp_path / "run", 0
    make = grpo.make_policy_step

    def make_stopping(*arguments):
        step = make(*arguments)

        def stopping(*given):
            nonlocal num_updates
            num_updates += 1
            if num_updates == 3:
                raise Stopped
            return step(*given)

        return stopping

    with monkeypatch.context() as patch:
        patch.setattr(grpo, "make_policy_step", make_stopping)
        with pytest.raises(Stopped):
            pipeline.train(tiny_config(method, workdir))
    pipeline.train(tiny_config(method, workdir))
    assert_the_same_end(workdir, expected)


def test_latents_of_another_kind_are_no_policy(finished, tmp_path):
    """Those of the other method, which this one never learned to think in."""
    method, folder = finished
    other = next(name for name in CONFIGS if name != method)
    config = tiny_config(other, tmp_path / "run", **{"stages.rl.init_from": str(folder / method), "run": "rl"})
    with pytest.raises(UserError, match=f"needs latents that were trained, and .*{method} has none yet"):
        pipeline.train_stage(prepare(config), "rl")


def test_killed_in_a_rollout_an_update_and_a_save_it_goes_on_to_the_same_end(finished, tmp_path):
    method, expected = finished
    workdir = tmp_path / "run"
    flags = [f"--config.{name}={value}" for name, value in (TINY | {"workdir": str(workdir)}).items()]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    # The first save of all is that of the stage before, at its end.
    for moment, number in (("save", 2), ("rollout", 2), ("update", 3)):
        process = subprocess.run(
            [sys.executable, "-c", DRIVER, moment, str(number), f"--config={config_file(method)}:smoke", *flags],
            env=environment, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert process.returncode == -signal.SIGKILL and "killed" in process.stdout, process.stderr
    pipeline.train(tiny_config(method, workdir))
    assert_the_same_end(workdir, expected)
