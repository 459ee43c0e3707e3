"""A run of an older version of the package goes on, and is evaluated, as that version would have.

`runs_of_before/arithmetic` was stopped at step 2 of 4 in each of its stages but the first; `metrics_of_before.jsonl`
and `samples_of_before.jsonl` are what the version that wrote it (commit a4ae574) came to when it was not stopped.
"""

import json
import math
import shutil
from pathlib import Path

import pytest

from colar_jax.config import resolve
from colar_jax.metric_writer import read_metrics
from colar_jax.runs import pipeline
from colar_jax.runs.run import prepare
from colar_jax.runs.run_folder import saved_config

pytestmark = pytest.mark.slow

BEFORE = Path(__file__).parents[1] / "runs_of_before" / "arithmetic"
STAGES = ("cot", "colar", "codi", "rl")
STOPPED_AT = 2


@pytest.fixture(scope="module")
def gone_on(tmp_path_factory) -> tuple[Path, list]:
    workdir = tmp_path_factory.mktemp("before") / "run"
    shutil.copytree(BEFORE, workdir)
    return workdir, pipeline.train(resolve(saved_config(workdir)))


@pytest.mark.variant
@pytest.mark.parametrize("stage", STAGES[1:])
def test_it_goes_on_from_its_checkpoints(gone_on, stage):
    assert_went_on(gone_on[0], stage)


def test_two_stages_go_on_without_an_evaluation(tmp_path):
    """What CI runs of it: learning from data and from rewards, gone on with where they were stopped."""
    shutil.copytree(BEFORE, tmp_path / "run")
    run = prepare(resolve(saved_config(tmp_path / "run")))
    for stage in ("colar", "rl"):
        pipeline.train_stage(run, stage)
        assert_went_on(tmp_path / "run", stage)


def assert_went_on(workdir: Path, stage: str) -> None:
    """The steps after the stop, and what was validated there, are those of the version that wrote the run."""
    expected = [
        line
        for line in map(json.loads, (BEFORE / stage / "metrics_of_before.jsonl").read_text().splitlines())
        if line["step"] > STOPPED_AT
    ]
    lines = [line for line in read_metrics(workdir / stage) if line["step"] > STOPPED_AT]
    assert expected
    for of_before in expected:
        values = {name: value for name, value in of_before.items() if not name.startswith("time/")}
        if "loss" in values:  # that version wrote one line for the two steps, each of which counts as one
            steps = [line for line in lines if "loss" in line]
            values = {name: values[name] for name in ("loss", "gradient_norm")}
            means = {name: sum(line[name] for line in steps) / len(steps) for name in values}
            assert _holds(means, values), (of_before, lines)
            continue
        assert any(_holds(line, values) for line in lines), (of_before, lines)


def _holds(line: dict, values: dict) -> bool:
    return all(name in line and math.isclose(line[name], value, rel_tol=1e-5) for name, value in values.items())


@pytest.mark.variant
def test_it_answers_as_before(gone_on):
    workdir, results = gone_on
    assert [result.stage for result in results] == ["cot", "colar", "codi", "rl"]
    answers, of_before = (_answers(path) for path in (workdir / "samples.jsonl", BEFORE / "samples_of_before.jsonl"))
    assert of_before and answers == of_before


def _answers(path: Path) -> list[dict]:
    names = ("stage", "dataset", "speed", "question", "text", "prediction", "length")
    return [{name: sample[name] for name in names} for sample in map(json.loads, path.read_text().splitlines())]


def test_settings_that_came_later_are_what_was_done_before_them():
    rl = saved_config(BEFORE)["stages"]["rl"]["rl"]
    assert (rl["minibatches"], rl["centre"], rl["latent_ratio"]) == ("filled", "group", "reduced")


@pytest.mark.variant
def test_a_finished_stage_is_not_trained_again(gone_on):
    assert not (gone_on[0] / "cot" / "metrics.jsonl").exists()
