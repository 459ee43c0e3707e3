"""The benchmarks' own side still runs: it is bound to the package's inner parts, and nothing else calls it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sft_fixed", "generation", "rl_iteration", "coconut", "codi"])
def test_our_side_does_a_round(task):
    command = [sys.executable, ROOT / "benchmarks" / "speed.py", "--side", "jax", "--task", task]
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
    command = [sys.executable, ROOT / "benchmarks" / "serve.py", "--side", "one"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        port = server.stdout.readline()
        server.terminate()
    assert int(port) > 0


@pytest.mark.slow
def test_what_a_step_computes_is_counted():
    command = [sys.executable, ROOT / "benchmarks" / "step_flops.py"]
    command += ["--config", ROOT / "configs" / "methods.py:smoke", "--stages", "codi,pccot"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    counted = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert counted.returncode == 0, counted.stderr
    rows = [line.split(" | ") for line in counted.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["| no_cot", "| codi", "| pccot"]  # the cheapest first
    assert [row[1] for row in rows] == ["1", "6", "6"]
