"""iCoT, Coconut and CODI as stages of a run: from one CoT checkpoint, stopped in mid-schedule, refused too short."""

import json

import jax
import pytest
from cases import fast
from pipeline.tiny import NUM_STEPS, STAGES, TINY, checkpoint_steps, copy_of, smoke_config_dict, untimed_metrics

from colar_jax.config import resolve
from colar_jax.metric_writer import read_metrics
from colar_jax.runs import pipeline
from colar_jax.runs.run import prepare
from colar_jax.runs.starts import finished_parameters
from colar_jax.training.checkpoints import Checkpoints

# Six stages are trained for these: CI runs them after the README's command.
pytestmark = pytest.mark.slow
BASELINES = ("icot", "coconut", "codi")
SETTINGS = TINY | {
    f"stages.{stage}.{name}": value
    for stage in BASELINES
    for name, value in dict(steps=NUM_STEPS, rows=2, log_every=2, eval_every=3, save_every=2).items()
}
# 60 problems in steps of 2 rows with 2 each: 15 steps an epoch. Phases begin at steps 3 and 6, in Coconut 2, 4 and 6.
SCHEDULES = {
    "stages.icot.icot.removed_per_epoch": 5.0,
    "stages.icot.icot.all_beyond": 2,
    "stages.coconut.coconut.epochs_per_stage": 0.13,
    "stages.codi.codi.projection_size": 16,
    "eval.seeds": 0,
}


def config_of(workdir, **overrides):
    return resolve(smoke_config_dict(SETTINGS | SCHEDULES, workdir, **overrides))


class Stopped(Exception):
    """In the middle of a stage."""


def stop_after(monkeypatch, step: int) -> None:
    """Let training end at its `step`-th step, after the save that is due there."""
    make = pipeline.make_train_step

    def make_stopping(*arguments):
        take = make(*arguments)

        def stopping(state, *others):
            if int(state.step) == step:
                raise Stopped
            return take(state, *others)

        return stopping

    monkeypatch.setattr(pipeline, "make_train_step", make_stopping)


def last_checkpoint(workdir, name: str) -> dict:
    folder = workdir / name / "checkpoints"
    run = prepare(config_of(workdir, run=name))
    with Checkpoints(folder) as checkpoints:
        identity = checkpoints.read(checkpoints.latest_step())[1]
    return {"parameters": jax.device_get(finished_parameters(run, workdir / name)), "identity": identity}


@pytest.fixture(scope="module")
def baselines(tmp_path_factory, finished):
    """A run of the three from the CoT checkpoint of a run that knew nothing of them, never stopped."""
    workdir = copy_of(finished, tmp_path_factory.mktemp("baselines"))
    results = pipeline.train(config_of(workdir, run=",".join(BASELINES)))
    return workdir, results


def test_all_start_from_one_chain_of_thought(baselines, finished):
    workdir, results = baselines
    assert [(result.stage, result.sampling) for result in results] == [(name, "greedy") for name in BASELINES]
    lengths = {result.stage: result.lengths_SN for result in results}
    assert (lengths["icot"] == 0).all()
    assert (lengths["coconut"] == 6).all() and (lengths["codi"] == 6).all()
    assert not any(result.forced_stops_SN.any() for result in results)
    assert checkpoint_steps(workdir / "cot" / "checkpoints") == checkpoint_steps(finished / "cot" / "checkpoints")
    assert set(STAGES) <= {path.name for path in workdir.iterdir()}  # beside what was there
    report = json.loads((workdir / "report.json").read_text())
    assert [row["stage"] for row in report["results"]] == list(BASELINES)


def test_what_is_logged(baselines):
    workdir, _ = baselines
    lines = [line for line in read_metrics(workdir / "coconut") if "loss" in line]
    assert lines[0]["latents"] == 2 and lines[-1]["latents"] == 6
    (first, *_) = [line for line in read_metrics(workdir / "codi") if "loss" in line]
    expected = first["teacher_cross_entropy"] + first["cross_entropy"] + 20 * first["distill_loss"]
    assert first["loss"] == pytest.approx(expected, rel=0.05)  # a mean of means over two steps


@pytest.mark.parametrize("name", fast(BASELINES, "coconut"))
def test_stopped_between_two_phases_it_goes_on_to_the_same_end(name, baselines, finished, tmp_path, monkeypatch):
    whole, _ = baselines
    workdir = copy_of(finished, tmp_path)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(Stopped):
            pipeline.train(config_of(workdir, run=name))
    assert checkpoint_steps(workdir / name / "checkpoints")[-1] == 4  # after some phases, before others
    pipeline.train(config_of(workdir, run=name))
    actual, expected = last_checkpoint(workdir, name), last_checkpoint(whole, name)
    assert actual["identity"] == expected["identity"]
    for a, b in zip(*(jax.tree.leaves(saved["parameters"]) for saved in (actual, expected)), strict=True):
        assert a.tobytes() == b.tobytes()
    assert untimed_metrics(workdir / name) == untimed_metrics(whole / name)


def test_only_what_codi_trains_is_saved_with_a_projection(baselines):
    workdir, _ = baselines
    for name in BASELINES:
        saved = last_checkpoint(workdir, name)["identity"]
        assert ("stage.codi.projection_size" in saved) == (name == "codi")
        own = {key.split(".")[1] for key in saved if key.startswith("stage.")}
        assert own & set(BASELINES) == {name}  # a change of another method's settings is none of its business


def test_a_schedule_that_outlasts_its_stage(tmp_path, finished):
    workdir = copy_of(finished, tmp_path)
    long = {"stages.coconut.coconut.epochs_per_stage": 1.0}
    with pytest.raises(ValueError, match=r"stages.coconut: the schedule of coconut ends at step \d+, the stage at 7"):
        pipeline.train(config_of(workdir, run="coconut", **long))
