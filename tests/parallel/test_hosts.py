"""Two processes on the loopback are one run: stopped, lost, and gone on with on other meshes, it is the same run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from parallel.processes import ended, free_address
from pipeline.tiny import CONFIG_FILE, ROOT, TINY, checkpoint_steps

from colar_jax.config import ParallelConfig
from colar_jax.errors import TrainingEnded, UserError
from colar_jax.metric_writer import read_metrics
from colar_jax.parallel import hosts
from colar_jax.training.checkpoints import Checkpoints
from colar_jax.training.stage import CHECKPOINTS_FOLDER

STAGE, NUM_STEPS = "colar", 10
SETTINGS = TINY | {
    "run": STAGE,
    "data.num_val": 8,
    "data.num_test": 8,
    "eval.seeds": 1,
    "eval.speeds": "2",
    "parallel.heartbeat_seconds": 10,
    f"stages.{STAGE}.steps": NUM_STEPS,
    f"stages.{STAGE}.rows": 8,
    f"stages.{STAGE}.log_every": 1,
    f"stages.{STAGE}.eval_every": NUM_STEPS,
    f"stages.{STAGE}.save_every": 2,
}
# python -c DRIVER <process> <n> <signal> <arguments of colar_jax.train>: after the n-th step that process is sent it.
DRIVER = """
import os, sys
import jax
from colar_jax.runs import pipeline
from colar_jax.command_line import run_main

process, number, signal_number = map(int, sys.argv[1:4])
del sys.argv[1:4]
count, make = 0, pipeline.make_train_step

def make_with_signal(*arguments):
    step = make(*arguments)
    def stepping(*of_step):
        global count
        state, metrics = step(*of_step)
        count += 1
        if count == number and jax.process_index() == process:
            jax.block_until_ready(metrics)
            os.kill(os.getpid(), signal_number)
        return state, metrics
    return stepping

pipeline.make_train_step = make_with_signal
run_main(pipeline.train)
"""
NEVER = (0, 0, 0)


def start(workdir: Path, processes: int, devices: int, mesh: str, stop: tuple, cache: Path) -> list[subprocess.Popen]:
    """The processes of one run; `stop` is (process, step, signal)."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {os.environ.get('XLA_FLAGS', '')}",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    settings = SETTINGS | {"workdir": str(workdir), "parallel.mesh": mesh}
    address, started = free_address(), []
    for number in range(processes):
        own = {"parallel.coordinator": address, "parallel.num_processes": processes, "parallel.process_id": number}
        flags = [f"--config.{name}={value}" for name, value in (settings | own).items()]
        arguments = [*map(str, map(int, stop)), f"--config={CONFIG_FILE}:smoke", *flags]
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", DRIVER, *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return started


def run(workdir, processes, devices, mesh, cache, stop=NEVER, timeout=400) -> list[tuple[int, str]]:
    """The exit status and the output of each process."""
    return ended(start(workdir, processes, devices, mesh, stop, cache), timeout)


def saved_steps(workdir: Path) -> list[int]:
    return checkpoint_steps(workdir / STAGE / CHECKPOINTS_FOLDER)


def assert_same_curve(workdir: Path, expected: Path) -> None:
    """The loss of every step, to what adding up in another order makes of it; and how the latest checkpoint fared."""
    curve, expected_curve = (
        {line["step"]: line["loss"] for line in read_metrics(folder / STAGE) if "loss" in line}
        for folder in (workdir, expected)
    )
    assert sorted(curve) == sorted(expected_curve) == list(range(1, NUM_STEPS + 1))
    assert curve == pytest.approx(expected_curve, rel=2e-5)
    for folder in (workdir, expected):
        with Checkpoints(folder / STAGE / CHECKPOINTS_FOLDER) as checkpoints:
            assert checkpoints.latest_step() == NUM_STEPS


@pytest.mark.slow
def test_a_run_moves_between_processes_and_meshes(tmp_path):
    cache, moved, whole = tmp_path / "cache", tmp_path / "moved", tmp_path / "whole"
    # Two processes of four devices; the second is killed after step 5, when the save of step 4 may be under way.
    begin = time.monotonic()
    (status, output), (killed_status, _) = run(moved, 2, 4, "fsdp=2", cache, stop=(1, 5, signal.SIGKILL))
    assert killed_status == -signal.SIGKILL and status not in (0, None)
    assert "another" in output, output
    print("the other stopped", time.monotonic() - begin, "s after the start:", status, output[-500:])
    (saved,) = saved_steps(moved)
    assert saved in (2, 4)
    # One process of eight devices, stopped after two more steps.
    ((status, output),) = run(moved, 1, 8, "fsdp=2,tensor=2", cache, stop=(0, 2, signal.SIGTERM))
    assert status == 128 + signal.SIGTERM, output
    assert saved_steps(moved) == [saved + 2]
    # Two processes of two devices; the second is told to stop, and both do, at the same step: the one after.
    results = run(moved, 2, 2, "fsdp=4", cache, stop=(1, 1, signal.SIGTERM))
    assert [status for status, _ in results] == [128 + signal.SIGTERM] * 2, results
    assert saved_steps(moved) == [saved + 4]
    results = run(moved, 2, 2, "fsdp=4", cache)
    assert [status for status, _ in results] == [0, 0], results
    assert "stage colar | step" in results[0][1] and "step" not in results[1][1], "only the first process prints"
    ((status, output),) = run(whole, 1, 8, "auto", cache)
    assert status == 0, output
    assert_same_curve(moved, whole)
    for file in ("report.json", "samples.jsonl", "config.json"):
        assert (moved / file).is_file()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(coordinator="localhost", num_processes=2), "host:port"),
        (dict(num_processes=2), "parallel.coordinator"),
        (dict(coordinator="localhost:1234", num_processes=2, process_id=2), "parallel.process_id=2"),
        (dict(mesh="fsdp"), "fsdp=4,tensor=2"),
        (dict(mesh="fdsp=2"), "Did you mean 'fsdp'"),
        (dict(mesh="fsdp=2,fsdp=2"), "twice"),
        (dict(attention="flash"), "parallel.attention"),
    ],
)
def test_wrong_settings_are_one_error(settings, message):
    with pytest.raises(ValueError, match=message):
        ParallelConfig(**settings)


def be_one_of_two(monkeypatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr(hosts, "_FAREWELL_SECONDS", 0)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("no such data"), "error: no such data\n"),
        (OSError(28, "No space left on device"), "error: [Errno 28] No space left on device\n"),
        (KeyError("a fault of the program"), "Traceback"),
    ],
)
def test_a_fault_of_one_process_ends_it_at_once(monkeypatch, capsys, error, said):
    """At the end of a process jax waits for all others, who wait for it in their next step."""
    be_one_of_two(monkeypatch)
    with pytest.raises(SystemExit) as ended, hosts.ends_with_its_peers():
        raise error
    assert ended.value.code == hosts.OWN_FAULT and capsys.readouterr().err.startswith(said)


def test_what_all_processes_see_ends_them_as_usual(monkeypatch):
    be_one_of_two(monkeypatch)
    for error in (TrainingEnded("not finite"), SystemExit(143)):
        with pytest.raises(type(error)), hosts.ends_with_its_peers():
            raise error


def test_one_process_alone_fails_as_usual():
    for error in (UserError("a mistake"), jax.errors.JaxRuntimeError("INTERNAL: it broke")):
        with pytest.raises(type(error)), hosts.ends_with_its_peers():
            raise error


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (
            "RESOURCE_EXHAUSTED: Out of memory allocating 17 bytes",
            hosts.OWN_FAULT,
            "the device has too little memory",
        ),
        ("INVALID_ARGUMENT: Executable expected parameter 0", hosts.OWN_FAULT, "cannot go on: INVALID_ARGUMENT"),
        ("UNKNOWN: Gloo all-reduce failed: Connection closed by peer", hosts.LOST_PEER, "because another one ended"),
        ("INTERNAL: peer 3: RESOURCE_EXHAUSTED: Out of memory", hosts.LOST_PEER, "because another one ended"),
    ],
)
def test_a_fault_of_its_own_is_not_tried_again(monkeypatch, capsys, error, status, said):
    be_one_of_two(monkeypatch)
    with pytest.raises(SystemExit) as ended, hosts.ends_with_its_peers():
        raise jax.errors.JaxRuntimeError(error)
    assert ended.value.code == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: process 0 of 2 cannot go on: ") and said in line


def test_a_process_that_gloo_misses_was_lost(monkeypatch, capsys):
    """Where a computation is handed on, the error has another type; that of a value that is wrong is one's own."""
    be_one_of_two(monkeypatch)
    lost = "UNKNOWN: Gloo AllGather failed: Connection closed by peer [127.0.0.1]:18829"
    for message, status in {lost: hosts.LOST_PEER, "rows=3 is wrong": hosts.OWN_FAULT}.items():
        with pytest.raises(SystemExit) as ended, hosts.ends_with_its_peers():
            raise ValueError(message)
        assert ended.value.code == status
    assert capsys.readouterr().err.startswith(
        "error: process 0 of 2 cannot go on: most likely because another one ended"
    )


def test_arrays_of_the_first_process_are_taken_bit_for_bit(monkeypatch):
    own = {"rewards": np.array([0.1, 1 + 1e-12, 3.0]), "right": np.array([[True], [False]])}
    first = jax.tree.map(lambda array: array[::-1].copy(), own)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    sent = []

    def broadcast(tree):
        sent.append(tree)
        return jax.tree.map(lambda array: np.frombuffer(array.tobytes(), np.uint8), first)

    monkeypatch.setattr(hosts.multihost_utils, "broadcast_one_to_all", broadcast)
    taken = hosts.as_the_first_has(own)
    assert all(leaf.dtype == np.uint8 for leaf in jax.tree.leaves(sent))
    for name, array in first.items():
        assert taken[name].dtype == array.dtype
        np.testing.assert_array_equal(taken[name], array)


@pytest.mark.parametrize(
    ("platforms", "looks"),
    [(None, True), ("", True), ("tpu", True), ("tpu,cpu", True), ("cpu", False), ("cuda,cpu", False)],
)
def test_tpus_that_jax_would_use_are_joined(monkeypatch, tmp_path, platforms, looks):
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    if platforms is None:
        monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    else:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
    (tmp_path / "accel0").touch()
    monkeypatch.setattr(hosts.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(hosts, "Path", lambda _: tmp_path)
    assert hosts._is_cluster() == looks
