"""The benchmarks' own side still runs: it is bound to the package's inner parts, and nothing else calls it.

And what they compare is equal: cores and threads, and what memory is counted in.
"""

import importlib
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def benchmark_module(monkeypatch):
    """A module of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.mark.parametrize(("platform", "peak"), [("darwin", 3 * 2**30), ("freebsd14", 3 * 2**20)])
def test_peak_memory_is_in_the_units_of_the_system(benchmark_module, monkeypatch, platform, peak):
    """macOS counts bytes, others KiB."""
    peak_memory, speed = benchmark_module("peak_memory"), benchmark_module("speed")
    monkeypatch.setattr(peak_memory, "STATUS", Path("/no/such/file"))
    monkeypatch.setattr(sys, "platform", platform)
    usage = types.SimpleNamespace(ru_maxrss=peak)
    monkeypatch.setattr("resource.getrusage", lambda who: usage)
    assert speed.peak_gib("jax", "cpu") == 3.0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no VmHWM")
def test_peak_memory_is_not_that_of_who_started_the_process():
    program = (
        "import subprocess, sys\n"
        "held = b'1' * 2**28\n"
        'own = \'import speed; print(speed.peak_gib("torch", "cpu"))\'\n'
        "subprocess.run([sys.executable, '-c', own], check=True)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(BENCHMARKS), str(ROOT)])}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert float(ran.stdout) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sft_fixed", "generation", "rl_iteration", "coconut", "codi"])
def test_our_side_does_a_round(task):
    command = [sys.executable, BENCHMARKS / "speed.py", "--side", "jax", "--task", task]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    worker = subprocess.run(
        command, env=environment, input="go\n", capture_output=True, text=True, timeout=600, check=False
    )
    assert worker.returncode == 0, worker.stderr
    ready, measured = worker.stdout.splitlines()
    assert ready == "ready"
    assert json.loads(measured)["examples_per_second"] > 0


@pytest.mark.slow
def test_a_server_to_put_under_load_starts():
    command = [sys.executable, BENCHMARKS / "serve.py", "--side", "one"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        port = server.stdout.readline()
        server.terminate()
    assert int(port) > 0


@pytest.mark.slow
def test_what_a_step_computes_is_counted():
    command = [sys.executable, BENCHMARKS / "step_flops.py"]
    command += ["--config", ROOT / "configs" / "methods.py:smoke", "--stages", "codi,pccot"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    counted = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert counted.returncode == 0, counted.stderr
    rows = [line.split(" | ") for line in counted.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["| no_cot", "| codi", "| pccot"]  # the cheapest first
    assert [row[1] for row in rows] == ["1", "6", "6"]
