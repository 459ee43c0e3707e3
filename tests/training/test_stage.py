"""The loop of a stage, around steps that only count: how far it runs ahead, and a signal during a validation."""

import os
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colar_jax.config import resolve
from colar_jax.config.resolve import defaults, stage_defaults
from colar_jax.metric_writer import read_metrics
from colar_jax.metrics import Metric
from colar_jax.parallel.mesh import make_mesh
from colar_jax.runs.resuming import has_ended
from colar_jax.training import stage as stage_module
from colar_jax.training.checkpoints import Checkpoints
from colar_jax.training.interruption import Interrupted
from colar_jax.training.stage import (
    CHECKPOINTS_FOLDER,
    MOST_UNDER_WAY,
    VALIDATION_OWED,
    LastIteration,
    StageRun,
    run_stage,
)
from colar_jax.training.state import TrainState


class CountingTrainer:
    """Its steps count, in the only weight that there is."""

    advice, num_tokens = "", 0

    def __init__(self):
        self.taken = []

    def steps(self, state, frozen, key, start, stop):
        for number in range(start + 1, stop + 1):
            self.taken.append(number)
            weights = {"llama": {"weight": state.trainable["llama"]["weight"] + 1}}
            state = TrainState(state.step + 1, weights, state.optimizer)
            yield state, {"loss": Metric(np.float32(number), np.float32(1))}, 1

    def memory(self):
        return {"taken": len(self.taken)}

    def recall(self, memory):
        pass


def outcome(accuracy: float):
    return SimpleNamespace(accuracy=accuracy, lengths_N=np.zeros(1), forced_stop_N=np.zeros(1))


def start_state() -> TrainState:
    return TrainState(jnp.int32(0), {"llama": {"weight": jnp.zeros(2)}}, ())


def stage_in(folder, trainer, validate=lambda parameters, before_each: {"2": (outcome(0.5), {})}, **settings):
    config = defaults()
    config.update(run="cot", stages={"cot": stage_defaults(method="cot", **settings)})
    config = resolve(config).stages["cot"]
    return StageRun(
        name="cot",
        folder=folder,
        mesh=make_mesh(),
        config=config,
        num_steps=config.steps,
        trainer=trainer,
        validate=validate,
        identity={},
        place=lambda step: {},
        hooks=(),
        keep_checkpoints=1,
    )


def test_the_host_is_few_steps_ahead_of_the_device(tmp_path, monkeypatch):
    """However far apart log lines are: a request to stop waits for the steps that are under way."""
    trainer, waited_for, ahead = CountingTrainer(), [], []

    def wait(metrics):
        if "loss" in metrics:
            waited_for.append(int(metrics["loss"].sum))
            ahead.append(trainer.taken[-1] - waited_for[-1])
        return metrics

    monkeypatch.setattr(jax, "block_until_ready", wait)
    run_stage(stage_in(tmp_path, trainer, steps=40, log_every=40), start_state(), {}, None)
    in_the_loop = [number for number in waited_for if number <= 40 - MOST_UNDER_WAY]
    assert set(in_the_loop) == set(range(1, 40 - MOST_UNDER_WAY + 1)) and max(ahead) == MOST_UNDER_WAY - 1


@pytest.mark.parametrize(
    ("settings", "expected"), [({}, [3, 6, 8]), ({"save_minutes": 0}, [8]), ({"save_every": 2}, [2, 4, 6, 8])]
)
def test_there_is_a_checkpoint_every_ten_minutes(tmp_path, monkeypatch, settings, expected):
    """Whatever the intervals in steps are: of small data sets all steps may come before the first of them."""
    now, save, saved = [0.0], Checkpoints.save, []

    class FourMinutesAStep(CountingTrainer):
        def steps(self, *arguments):
            for step in super().steps(*arguments):
                now[0] += 240.0
                yield step

    def save_and_note(checkpoints, step, *arguments, **options):
        saved.append(step)
        save(checkpoints, step, *arguments, **options)

    monkeypatch.setattr(stage_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Checkpoints, "save", save_and_note)
    run_stage(stage_in(tmp_path, FourMinutesAStep(), steps=8, **settings), start_state(), {}, None)
    assert saved == expected


@pytest.mark.parametrize("resumed_at", [0, 2])
def test_the_last_line_of_training_that_ends_by_itself_is_its_own_step(tmp_path, resumed_at):
    class EndsAtThree(CountingTrainer):
        def steps(self, state, frozen, key, start, stop):
            yield from super().steps(state, frozen, key, start, min(stop, 2))
            if stop > 2:
                ended = LastIteration("over")
                ended.metrics = {"loss": Metric(np.float32(3), np.float32(1))}
                raise ended

    if resumed_at:
        run_stage(stage_in(tmp_path, EndsAtThree(), steps=resumed_at, log_every=1), start_state(), {}, None)
    with pytest.raises(LastIteration):
        run_stage(stage_in(tmp_path, EndsAtThree(), steps=8, log_every=1), start_state(), {}, None)
    losses = {line["step"]: line["loss"] for line in read_metrics(tmp_path) if "loss" in line}
    assert losses == {1: 1.0, 2: 2.0, 3: 3.0}


def test_two_processes_that_agree_on_a_save_save_once(tmp_path, monkeypatch):
    """What is noted is read one step later, when a save is due no more."""
    noted, saved, now = [None], [], [0.0]

    class LateAgreement:
        def __init__(self, mesh):
            pass

        def late(self, number):
            before, noted[0] = noted[0], number
            return before

        def now(self, number):
            return number

        def forget(self):
            noted[0] = None

    class FourMinutesAStep(CountingTrainer):
        def steps(self, *arguments):
            for step in super().steps(*arguments):
                now[0] += 240.0
                yield step

    save = Checkpoints.save

    def save_and_note(checkpoints, step, *arguments, **options):
        saved.append(step)
        save(checkpoints, step, *arguments, **options)

    monkeypatch.setattr(stage_module, "Agreement", LateAgreement)
    monkeypatch.setattr(stage_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Checkpoints, "save", save_and_note)
    run_stage(stage_in(tmp_path, FourMinutesAStep(), steps=9), start_state(), {}, None)
    assert saved == [4, 8, 9]


def test_a_signal_during_the_last_save_waits_for_it(tmp_path, monkeypatch):
    """It may be the only checkpoint that a stage has, and on a bucket a save takes minutes."""
    trainer, wait, sent = CountingTrainer(), Checkpoints.wait, []

    def wait_and_be_told_to_end(checkpoints):
        if trainer.taken == [1, 2] and not sent:
            sent.append(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        wait(checkpoints)

    monkeypatch.setattr(Checkpoints, "wait", wait_and_be_told_to_end)
    with pytest.raises(Interrupted):
        run_stage(stage_in(tmp_path, trainer, steps=2), start_state(), {}, None)
    assert sent and has_ended(tmp_path, 2)


@pytest.mark.parametrize("step", [3, 6])  # in the middle, and the last
def test_a_signal_during_a_validation_is_answered_at_once(tmp_path, step):
    """Its step is saved without; whoever goes on validates it first, with what was saved, and it may be the best."""
    trainer, validated, settings = CountingTrainer(), [], dict(steps=6, eval_every=3, log_every=1)

    def validate(parameters, before_each, *, stopped=False):
        at = int(parameters["llama"]["weight"][0])
        if stopped and at == step:
            os.kill(os.getpid(), signal.SIGTERM)
        before_each()
        validated.append(at)
        return {"2": (outcome(at / 10), {})}

    stopped = stage_in(tmp_path, trainer, lambda *of: validate(*of, stopped=True), **settings)
    with pytest.raises(Interrupted):
        run_stage(stopped, start_state(), {}, None)
    assert trainer.taken == list(range(1, step + 1)) and step not in validated
    assert not has_ended(tmp_path, 6)
    with Checkpoints(tmp_path / CHECKPOINTS_FOLDER) as checkpoints:
        assert checkpoints.latest_step() == step and checkpoints.best_step() == (None if step == 3 else 3)
        assert checkpoints.read(step) == ({}, {"unlogged": [], "trainer": {"taken": step}, VALIDATION_OWED: True})

    going_on = CountingTrainer()
    run_stage(stage_in(tmp_path, going_on, validate, **settings), start_state(), {}, None)
    assert going_on.taken == list(range(step + 1, 7)) and validated == [3, 6]
    assert [line["step"] for line in read_metrics(tmp_path) if "val/accuracy" in line] == [3, 6]
    assert has_ended(tmp_path, 6)
    with Checkpoints(tmp_path / CHECKPOINTS_FOLDER) as checkpoints:
        assert checkpoints.best_step() == 6 and checkpoints.read(6)[0] == {"accuracy": 0.6}
    run_stage(stage_in(tmp_path, going_on, validate, **settings), start_state(), {}, None)
    assert validated == [3, 6]


def validating(*, stopped_at: int | None = None):
    """Step 3 has an accuracy of 0.3, and so on; a signal comes during the validation of a step."""

    def validate(parameters, before_each):
        at = int(parameters["llama"]["weight"][0])
        if at == stopped_at:
            os.kill(os.getpid(), signal.SIGTERM)
        before_each()
        return {"2": (outcome(at / 10), {})}

    return validate


@pytest.mark.parametrize("step", [3, 6])
def test_after_a_signal_during_a_validation_the_same_checkpoints_stay(tmp_path, step):
    """What a late metric puts out of the best ones goes at once: after the last step there is no save to do it."""
    settings, left = dict(steps=6, eval_every=3), {}
    for name, stopped_at in {"whole": None, "stopped": step}.items():
        folder = tmp_path / name
        if stopped_at:
            with pytest.raises(Interrupted):
                run_stage(
                    stage_in(folder, CountingTrainer(), validating(stopped_at=step), **settings),
                    start_state(),
                    {},
                    None,
                )
        run_stage(stage_in(folder, CountingTrainer(), validating(), **settings), start_state(), {}, None)
        left[name] = sorted(path.name for path in (folder / CHECKPOINTS_FOLDER).iterdir())
    assert left["stopped"] == left["whole"] == ["6"]


@pytest.mark.parametrize("step", [3, 6])
def test_a_kill_after_the_line_of_a_made_up_validation_leaves_it_once(tmp_path, monkeypatch, step):
    settings = dict(steps=6, eval_every=3, log_every=1)
    with pytest.raises(Interrupted):
        run_stage(
            stage_in(tmp_path, CountingTrainer(), validating(stopped_at=step), **settings), start_state(), {}, None
        )

    def killed(checkpoints, step, metrics):
        raise KeyboardInterrupt

    add_metrics = Checkpoints.add_metrics
    monkeypatch.setattr(Checkpoints, "add_metrics", killed)
    with pytest.raises(KeyboardInterrupt):
        run_stage(stage_in(tmp_path, CountingTrainer(), validating(), **settings), start_state(), {}, None)
    monkeypatch.setattr(Checkpoints, "add_metrics", add_metrics)
    run_stage(stage_in(tmp_path, CountingTrainer(), validating(), **settings), start_state(), {}, None)
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines if "val/accuracy" in line] == [3, 6]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
