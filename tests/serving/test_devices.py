"""Slots over several devices: each has its own, and what they say is what one device says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cases import fast

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("mesh", fast(["8-1-1", "2-2-1"], "8-1-1"))
def test_a_mesh_is_one_device(mesh):
    environment = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
        "--xla_llvm_disable_expensive_passes=true",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}",
    }
    command = [sys.executable, TESTS / "serving" / "on_devices.py", mesh]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0 and done.stdout.endswith("equal\n"), done.stderr
