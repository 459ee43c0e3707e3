"""launch/with_peers.sh: a process that jax aborts for the loss of another ends as one that hears of it by an error."""

import os
import signal
import subprocess
import sys
import time

import pytest
from launch.fakes import LAUNCH
from parallel.processes import ended, free_address

from colar_jax.parallel.hosts import LOST_PEER

SCRIPT = LAUNCH / "with_peers.sh"
FATAL = "print('F1130 JAX distributed service detected fatal errors. absl::Status', file=sys.stderr, flush=True);"


def run(code: str) -> subprocess.CompletedProcess:
    command = [SCRIPT, sys.executable, "-c", f"import os, sys; {code}", "a b", "$c"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("sys.exit(0)", 0),
        ("sys.exit(2)", 2),
        ("sys.exit(75)", LOST_PEER),
        (f"{FATAL} sys.exit(78)", 78),
        (f"{FATAL} os.abort()", LOST_PEER),
        ("print('Check failed: of its own', file=sys.stderr); os.abort()", 128 + signal.SIGABRT),
        ("os.kill(os.getpid(), 9)", 128 + signal.SIGKILL),
    ],
)
def test_the_status_is_the_command_s_but_for_an_abort_of_jax(code, status):
    assert run(code).returncode == status


def test_what_the_command_says_and_is_told_is_left_alone():
    done = run("print(sys.argv[1:]); print('wrong', file=sys.stderr); sys.exit(1)")
    assert (done.stdout, done.stderr) == ("['a b', '$c']\n", "wrong\n")


def test_a_signal_to_all_is_answered_by_the_command():
    """As `scancel --signal=TERM` sends it: what training says while it saves still arrives."""
    code = (
        "import signal, sys, time\n"
        "def save(*_):\n"
        "    time.sleep(0.3)\n"
        "    print('saved', file=sys.stderr, flush=True)\n"
        "    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    command, pipe = [SCRIPT, sys.executable, "-c", code], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (143, "", "saved\n")


# python -c PEER <address> <process> <process that is killed>: the other one computes alone.
PEER = """
import os, sys, time
import jax
from jax.experimental import multihost_utils

address, process, killed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
jax.distributed.initialize(address, 2, process, cluster_detection_method="deactivate", heartbeat_timeout_seconds=10)
multihost_utils.sync_global_devices("here")
if process == killed:
    os.kill(os.getpid(), 9)
time.sleep(120)
"""


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])  # the first is also the coordinator
def test_jax_aborts_a_process_that_does_not_hear_of_the_loss(killed):
    """And says what the script looks for: with each version of jax."""
    address, begin = free_address(), time.monotonic()
    started = [
        subprocess.Popen(
            [SCRIPT, sys.executable, "-c", PEER, address, str(process), str(killed)],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    of_processes = ended(started, 100)
    statuses = [LOST_PEER, LOST_PEER]
    statuses[killed] = 128 + signal.SIGKILL
    assert [status for status, _ in of_processes] == statuses, of_processes
    assert of_processes[1 - killed][1].endswith("another process was lost: status 75\n")
    assert time.monotonic() - begin < 100
