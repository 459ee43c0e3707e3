"""One job at a time writes into a folder."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from colar_jax.errors import UserError
from colar_jax.parallel import hosts
from colar_jax.runs.folder_lock import JOB_VARIABLES, REPORT, TRAINING, locked

HOLD = """
import pathlib, sys, time
from colar_jax.runs.folder_lock import TRAINING, locked
with locked(pathlib.Path(sys.argv[1]), TRAINING, "train"):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder):
    with locked(folder, TRAINING, "train"):
        pass


@pytest.fixture
def holder(tmp_path):
    """Another process, which holds the lock."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_another_process_is_refused_until_it_ends(tmp_path, holder, caplog):
    with pytest.raises(UserError, match=rf"in use: process {holder.pid} on {socket.gethostname()} is at work"):
        hold(tmp_path)
    with locked(tmp_path, REPORT, "evaluate"):  # what only reads checkpoints has a lock of its own
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with caplog.at_level("INFO"), locked(tmp_path, TRAINING, "train"):
        assert json.loads((tmp_path / TRAINING).read_text())["process"] == os.getpid()
    assert f"process {holder.pid} ended before its time; this one takes over" in caplog.text
    assert (tmp_path / TRAINING).read_text() == ""


def test_what_another_host_left_is_refused_with_the_way_out(tmp_path):
    path = tmp_path / TRAINING
    path.write_text(json.dumps({"host": "elsewhere", "process": 7}))
    with pytest.raises(UserError, match=rf"process 7 on elsewhere was killed: .* remove {path}"):
        hold(tmp_path)
    path.unlink()
    with locked(tmp_path, TRAINING, "train"):
        pass


def test_the_same_job_takes_over_on_another_host(tmp_path, monkeypatch):
    path = tmp_path / TRAINING
    for names, is_same in (({"SLURM_JOB_ID": "7"}, True), ({"SLURM_JOB_ID": "8"}, False), ({}, False)):
        for name in JOB_VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in names.items():
            monkeypatch.setenv(name, value)
        path.write_text(json.dumps({"host": "elsewhere", "process": 7, "job": "SLURM_JOB_ID=7"}))
        with contextlib.nullcontext() if is_same else pytest.raises(UserError, match="process 7 on elsewhere"):
            hold(tmp_path)
    # Without a job's name two machines are two jobs.
    path.write_text(json.dumps({"host": "elsewhere", "process": 7, "job": ""}))
    with pytest.raises(UserError, match="process 7 on elsewhere"):
        hold(tmp_path)


def test_two_machines_of_one_job_that_train_apart_do_not_take_over_from_each_other(tmp_path, monkeypatch):
    path = tmp_path / TRAINING
    for name in JOB_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SKYPILOT_TASK_ID", "sky-1")
    monkeypatch.setenv("SKYPILOT_NODE_RANK", "0")
    monkeypatch.setattr(socket, "gethostname", lambda: "first")
    with locked(tmp_path, TRAINING, "train"):
        left = path.read_text()
    path.write_text(left)  # on a bucket the kernel knows nothing of other machines' locks
    monkeypatch.setattr(socket, "gethostname", lambda: "second")
    monkeypatch.setenv("SKYPILOT_NODE_RANK", "1")
    with pytest.raises(UserError, match="on first was killed"):
        hold(tmp_path)
    monkeypatch.setenv("SKYPILOT_NODE_RANK", "0")  # started again, on another machine
    hold(tmp_path)
    # A number alone names no job.
    monkeypatch.delenv("SKYPILOT_TASK_ID")
    path.write_text(json.dumps({"host": "first", "process": 7, "job": "SKYPILOT_NODE_RANK=0"}))
    with pytest.raises(UserError, match="on first was killed"):
        hold(tmp_path)


def test_a_process_that_ends_with_its_peers_lets_go(tmp_path, monkeypatch):
    """It ends at once, without the usual clean-up: the job may go on elsewhere."""

    def end(status):
        assert status == hosts.LOST_PEER and (tmp_path / TRAINING).read_text() == ""
        raise SystemExit(status)

    monkeypatch.setattr(os, "_exit", end)

    def lose_a_peer():
        with locked(tmp_path, TRAINING, "train"):
            monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
            monkeypatch.setattr(jax, "process_count", lambda: 2)
            assert (tmp_path / TRAINING).read_text()
            with hosts.ends_with_its_peers():
                raise jax.errors.JaxRuntimeError("a peer was lost")

    with pytest.raises(SystemExit):
        lose_a_peer()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '{"host": "x"'])
def test_a_line_that_a_kill_cut_short_holds_nothing(tmp_path, content):
    (tmp_path / TRAINING).write_text(content)
    with locked(tmp_path, TRAINING, "train"):
        pass


def test_a_lock_is_let_go_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "new" / "folder", TRAINING, "train"):
        raise ZeroDivisionError
    with locked(tmp_path / "new" / "folder", TRAINING, "train"):
        pass
