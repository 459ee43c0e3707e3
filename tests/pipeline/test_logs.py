"""What a stage says while it runs, and where its numbers go."""

import sys

import pytest
from pipeline.tiny import NUM_STEPS, tiny_config

from colar_jax.errors import UserError
from colar_jax.metric_hooks import check_hooks
from colar_jax.metric_writer import MetricWriter, read_metrics
from colar_jax.runs import pipeline
from colar_jax.runs.run import prepare
from colar_jax.runs.stage_batches import num_steps_of
from colar_jax.training.optimizer import learning_rate_schedule

REPORTED: list[tuple[int, dict[str, float]]] = []


def report(step, values):
    REPORTED.append((step, values))


def takes_one(step):
    pass


NOT_CALLABLE = 3


@pytest.fixture(scope="module")
def every_step(tmp_path_factory):
    """A stage that logs at every step, and reports to a function; its folder and its settings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "my_reports", sys.modules[__name__])
        patch.setattr(pipeline, "sweep_run", lambda run: [])
        settings = {"run": "cot", "stages.cot.log_every": 1, "stages.cot.save_every": 0, "stages.cot.eval_every": 0}
        config = tiny_config(tmp_path_factory.mktemp("logs") / "run", report_to="my_reports:report", **settings)
        REPORTED.clear()
        pipeline.train(config)
    return read_metrics(config_folder(config)), config


def config_folder(config):
    from pathlib import Path

    return Path(config.workdir) / "cot"


def test_every_step_has_its_line(every_step):
    lines, config = every_step
    trained = [line for line in lines if "loss" in line]
    assert [line["step"] for line in trained] == [*range(1, NUM_STEPS + 1)]
    schedule = learning_rate_schedule(config.stages["cot"].optimizer, NUM_STEPS)
    for line in trained:
        assert line["learning_rate"] == pytest.approx(float(schedule(line["step"] - 1)))
        assert line["epoch"] == pytest.approx(line["step"] * trained[0]["epoch"]) and line["epoch"] > 0
        assert line["time/examples_per_second"] > 0 and line["time/tokens_per_second"] > 0
        assert line["time/peak_memory_gib"] > 0
    assert "time/seconds_per_step" not in trained[0] and trained[1]["time/seconds_per_step"] > 0


def test_a_hook_gets_what_is_written(every_step):
    lines, _ = every_step
    assert [{"step": step, **values} for step, values in REPORTED] == lines


def test_what_is_to_be_done_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(pipeline, "sweep_run", lambda run: [])
    settings = {"run": "cot", "stages.cot.steps": 12, "stages.cot.eval_every": 0, "stages.cot.save_every": 0}
    settings["stages.cot.optimizer.warmup_steps"] = 12
    with caplog.at_level("INFO"):
        pipeline.train(tiny_config(tmp_path / "run", **settings))
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert "stages: cot 12 steps; then the evaluation" in said
    assert "stage cot: 12 steps, " in said and " epochs" in said
    assert "s a step, 2 to go: about" in said
    assert "stage cot: validating on 4 problems, speed 1" in said
    assert "stage cot ends after 12 updates, while its learning rate still rises" in said


def test_an_epoch_of_rewards_is_the_one_that_a_stages_length_is_given_in(tmp_path):
    settings = {"stages.rl.steps": 0, "stages.rl.epochs": 3.0}
    for per_epoch, num_steps in ((16, 12), (0, 45)):  # 0: all 60 training problems
        rl = {"stages.rl.rl.questions_per_epoch": per_epoch, "stages.rl.rl.num_questions": 4}
        run = prepare(tiny_config(tmp_path / "run", **settings | rl))
        assert num_steps_of(run, "rl") == num_steps
        assert pipeline._place_of(run, "rl", None, num_steps)(num_steps)["epoch"] == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wanb", "'wanb' is none of wandb"),
        ("nowhere:report", "cannot be imported"),
        ("my_reports:NOT_CALLABLE", "is no function"),
        ("my_reports:takes_one", "cannot be called with a step"),
        ("my_reports:", "names nothing"),
    ],
)
def test_what_cannot_be_reported_to_is_one_line(monkeypatch, name, message):
    monkeypatch.setitem(sys.modules, "my_reports", sys.modules[__name__])
    with pytest.raises(UserError, match=message):
        check_hooks(name)


def test_wandb_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"report_to='wandb': wandb is not installed; pip install -e '\.\[wandb\]'"):
        check_hooks("wandb")


def test_hooks_see_numbers_that_are_not_finite(tmp_path):
    seen = []
    with MetricWriter(tmp_path, hooks=[lambda step, values: seen.append((step, values))]) as writer:
        writer.write(3, {"loss": float("inf")})
    assert seen == [(3, {"loss": float("inf")})]
