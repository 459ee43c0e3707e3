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
from cases import fast

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
HOLDS_TO_CORES = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system holds no process to some")


@pytest.fixture
def benchmark_module(monkeypatch):
    """A module of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@HOLDS_TO_CORES
def test_both_sides_have_the_same_cores():
    """What is started is held to them, too."""
    program = (
        "import cores, subprocess, sys\n"
        "print(cores.hold_to(1), flush=True)\n"
        "subprocess.run([sys.executable, '-c', 'import cores; print(len(cores.usable()))'], check=True)"
    )
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS)}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["1", "1"]


@HOLDS_TO_CORES
def test_cores_that_there_are_not_are_refused():
    most = len(os.sched_getaffinity(0))
    command = [sys.executable, BENCHMARKS / "speed.py", f"--cores={most + 1}"]
    ran = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert ran.returncode == 2 and f"--cores: {most + 1} cores: this process may use {most}" in ran.stderr


def test_pytorch_has_a_thread_for_each_core(benchmark_module, monkeypatch):
    class Built(Exception):
        """Where the test ends."""

    def build_model(**_):
        raise Built

    threads = []
    fakes = {
        "torch": types.SimpleNamespace(set_num_threads=threads.append, manual_seed=lambda seed: None),
        "torch_side": types.SimpleNamespace(build_model=build_model),
    }
    for name, fake in fakes.items():
        monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setattr(benchmark_module("cores"), "usable", lambda: list(range(16)))
    with pytest.raises(Built):
        benchmark_module("speed").torch_task("sft_fixed", "cpu")
    assert threads == [16]


def test_the_page_says_how_many_cores(benchmark_module, monkeypatch, capsys):
    speed, cores = benchmark_module("speed"), benchmark_module("cores")
    monkeypatch.setattr(cores, "hold_to", lambda count: 16)
    measured = [{"examples_per_second": 2.0, "peak_gib": 1.0, "facts": {}}]
    monkeypatch.setattr(speed, "compare", lambda *_: {"torch": measured, "jax": measured})
    monkeypatch.setattr(sys, "argv", ["speed.py", "--tasks", "sft_fixed"])
    speed.main()
    assert "each side on the same 16 cores, PyTorch with 16 threads" in capsys.readouterr().out


def test_a_task_that_there_is_not_is_said(benchmark_module, monkeypatch, capsys):
    """Any other name was taken for `sft_ragged`."""
    monkeypatch.setattr(sys, "argv", ["speed.py", "--tasks", "sft_fixed,sft_raged"])
    with pytest.raises(SystemExit):
        benchmark_module("speed").main()
    assert "--tasks: there is none called sft_raged" in capsys.readouterr().err


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
@pytest.mark.parametrize(
    "task", fast(["sft_fixed", "generation", "rl_iteration", "coconut", "codi"], "sft_fixed", "coconut")
)
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


@pytest.mark.slow
def test_precisions_are_compared():
    command = [sys.executable, BENCHMARKS / "matmul_precision.py", "--preset=pico", "--rounds=1"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stderr
    *products, step = [line.split(" | ") for line in ran.stdout.splitlines()[2:]]
    assert len(products) == 4 and all("GFLOP/s" in cell for row in products for cell in row[1:3])
    assert step[0] == "| a training step" and all(cell.endswith(" s") for cell in step[1:3])
