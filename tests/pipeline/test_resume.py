"""Stopping a run at any moment changes nothing of it."""

import dataclasses
import random
import signal
import subprocess
import time
from pathlib import Path

import jax
import pytest
from pipeline.tiny import (
    CONFIG_FILE,
    NUM_STEPS,
    STAGES,
    TINY,
    checkpoint_steps,
    count_steps,
    start,
    tiny_config,
    untimed_metrics,
    without_times,
)

from colar_jax.report.files import read_report
from colar_jax.runs import pipeline
from colar_jax.runs.run import prepare
from colar_jax.training.checkpoints import Checkpoints
from colar_jax.training.optimizer import make_optimizer
from colar_jax.training.saved_state import saved_tree
from colar_jax.training.state import initial_state, partition


def final_state(run, name: str, workdir: Path):
    """Everything in a stage's last checkpoint."""
    stage = run.config.stages[name]
    trainable, frozen = partition(run.initial_parameters(), run.method(name).trains)
    state = initial_state(trainable, make_optimizer(stage.optimizer, stage.steps, run.logical_axes))
    with Checkpoints(workdir / name / "checkpoints") as checkpoints:
        return jax.device_get(checkpoints.restore(stage.steps, saved_tree(state, frozen, stage)))


def assert_same_run(workdir: Path, expected: Path):
    """All that matters of two finished runs is the same, to the last bit."""
    run = prepare(tiny_config(expected))
    for name in STAGES:
        actual_state, expected_state = (final_state(run, name, folder) for folder in (workdir, expected))
        for (path, a), (_, b) in zip(
            *map(jax.tree_util.tree_leaves_with_path, (actual_state, expected_state)), strict=True
        ):
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), (
                name,
                jax.tree_util.keystr(path),
            )
        for folder in (workdir, expected):
            assert {path.name for path in (folder / name / "checkpoints").iterdir()} == {"3", "6", "7"}
        assert untimed_metrics(workdir / name) == untimed_metrics(expected / name), name
        assert (workdir / name / "samples.jsonl").read_text() == (expected / name / "samples.jsonl").read_text(), name
    assert (workdir / "samples.jsonl").read_text() == (expected / "samples.jsonl").read_text()
    actual_report, expected_report = (without_times(read_report(folder)) for folder in (workdir, expected))
    assert actual_report == expected_report


# python -c DRIVER <moment> <n> <signal> <arguments of colar_jax.train>: the signal comes at the n-th such moment.
DRIVER = """
import os, sys
from colar_jax.runs import pipeline
from colar_jax.command_line import run_main
from colar_jax.evaluation.evaluator import Evaluator
from colar_jax.training.checkpoints import Checkpoints

moment, number, signal_number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
del sys.argv[1:4]
count = 0

def then_signal(function, when):
    def wrapped(*arguments, **options):
        global count
        result = function(*arguments, **options)
        count += when == moment
        if when == moment and count == number:
            print("signal", flush=True)
            os.kill(os.getpid(), signal_number)
        return result
    return wrapped

make = pipeline.make_train_step
pipeline.make_train_step = lambda *arguments: then_signal(make(*arguments), "step")
Evaluator._start = then_signal(Evaluator._start, "decode")  # a batch is given to the device
Evaluator._outcome = then_signal(Evaluator._outcome, "validation")  # decoded, and not yet written
Checkpoints.save = then_signal(Checkpoints.save, "save")  # it goes on in the background
run_main(pipeline.train)
"""


def flags(workdir: Path) -> list[str]:
    overrides = TINY | {"workdir": str(workdir)}
    return [f"--config={CONFIG_FILE}:smoke", *(f"--config.{name}={value}" for name, value in overrides.items())]


def latest_steps(workdir: Path) -> tuple[int, ...]:
    """The steps that the stages have been saved at: 0 for one without a checkpoint."""
    return tuple(max(checkpoint_steps(workdir / name / "checkpoints"), default=0) for name in STAGES)


def stop_run(workdir: Path, stop: "Stop") -> None:
    """Start a run, or go on with one, stop it by a signal, and look at how it ended."""
    process = start("-c", DRIVER, stop.moment, stop.number, int(stop.signal), *flags(workdir))
    output, errors = process.communicate(timeout=300)
    assert "signal" in output, errors
    assert latest_steps(workdir) in stop.latest
    if stop.signal == signal.SIGTERM:
        assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in errors, errors
        assert "signal 15, saved step" in output.splitlines()[-1]
    else:
        assert process.returncode == -stop.signal, errors


def assert_goes_on_to_the_same_end(workdir: Path, finished: Path, monkeypatch):
    latest = latest_steps(workdir)
    taken = count_steps(monkeypatch)
    pipeline.train(tiny_config(workdir))
    assert taken == [step for start in latest for step in range(start, NUM_STEPS)]
    assert_same_run(workdir, finished)


@dataclasses.dataclass(frozen=True)
class Stop:
    """A signal at the `number`-th of such moments of a process, and the steps that the stages may be saved at then.

    More than one where a save may still be under way.
    """

    signal: signal.Signals
    moment: str  # "step", "decode", "validation" or "save"
    number: int
    latest: tuple[tuple[int, ...], ...]


KILL, TERM = signal.SIGKILL, signal.SIGTERM
STOPS = [
    # In the save at step 4 of colar; then told to end in the step after what was saved.
    [Stop(KILL, "save", 8, ((7, 3, 0), (7, 4, 0))), Stop(TERM, "step", 1, ((7, 4, 0), (7, 5, 0)))],
    [Stop(KILL, "step", 1, ((0, 0, 0),)), Stop(KILL, "validation", 1, ((0, 0, 0), (2, 0, 0)))],
    [Stop(KILL, "save", 1, ((0, 0, 0), (2, 0, 0))), Stop(TERM, "step", 4, ((4, 0, 0), (6, 0, 0)))],
    # In the second of a validation's two speeds.
    [Stop(KILL, "validation", 7, ((7, 3, 0), (7, 4, 0))), Stop(TERM, "step", 3, ((7, 6, 0), (7, 7, 0)))],
    # Told to end in the first of a validation's two speeds: it is saved without, and made up for, whatever comes
    # between. So is the last one of a stage.
    [
        Stop(TERM, "decode", 4, ((7, 3, 0),)),
        Stop(KILL, "decode", 1, ((7, 3, 0),)),
        Stop(TERM, "decode", 1, ((7, 3, 0),)),
        Stop(TERM, "decode", 5, ((7, 7, 0),)),
    ],
    # Told to end in a stage's last step.
    [Stop(TERM, "step", 14, ((7, 7, 0),)), Stop(KILL, "step", 3, ((7, 7, 0), (7, 7, 2)))],
]


@pytest.mark.slow
@pytest.mark.parametrize("stops", STOPS)
def test_a_run_that_is_stopped_goes_on_to_the_same_end(tmp_path, monkeypatch, finished, stops):
    for stop in stops:
        stop_run(tmp_path / "run", stop)
    assert_goes_on_to_the_same_end(tmp_path / "run", finished, monkeypatch)


MUON = {"run": "colar", "stages.colar.optimizer.name": "muon"}


@pytest.mark.slow
def test_muon_goes_on_bit_for_bit(tmp_path):
    """Killed after its save at step 4 of 7: parameters, averages and metrics of a run that was never stopped."""
    pipeline.train(tiny_config(tmp_path / "whole", **MUON))
    overrides = [f"--config.{name}={value}" for name, value in MUON.items()]
    arguments = [*flags(tmp_path / "run"), *overrides]
    process = start("-c", DRIVER, "step", 6, int(KILL), *arguments)
    process.communicate(timeout=300)
    assert process.returncode == -KILL and latest_steps(tmp_path / "run")[1] in (3, 4)
    pipeline.train(tiny_config(tmp_path / "run", **MUON))
    run = prepare(tiny_config(tmp_path / "whole", **MUON))
    states = (final_state(run, "colar", tmp_path / name) for name in ("run", "whole"))
    actual, expected = map(jax.tree_util.tree_leaves_with_path, states)
    assert any("ns_coeffs" in jax.tree_util.keystr(path) for path, _ in expected)
    assert [(path, leaf.tobytes()) for path, leaf in actual] == [(path, leaf.tobytes()) for path, leaf in expected]
    assert untimed_metrics(tmp_path / "run" / "colar") == untimed_metrics(tmp_path / "whole" / "colar")


@pytest.mark.slow
def test_a_run_killed_at_random_moments_goes_on_to_the_same_end(tmp_path, monkeypatch, finished):
    workdir, rng = tmp_path / "run", random.Random(time.time_ns())
    begin = time.monotonic()
    start("-m", "colar_jax.train", *flags(tmp_path / "measured")).communicate(timeout=600)
    seconds, delays = time.monotonic() - begin, []
    for _ in range(5):
        delays.append(rng.uniform(0.3, 0.7) * seconds)
        process = start("-m", "colar_jax.train", *flags(workdir))
        try:
            process.communicate(timeout=delays[-1])
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    print("killed after", delays, latest_steps(workdir))
    assert_goes_on_to_the_same_end(workdir, finished, monkeypatch)
