import subprocess
import sys

import pytest


def devices_of(program: str, **environment: str) -> str:
    """What a fresh Python prints: jax counts its devices once in a process."""
    before = "import jax, logging; logging.basicConfig(); from colar_jax.parallel.mesh import split_cpu; "
    ran = subprocess.run(
        [sys.executable, "-c", before + program],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": ":".join(sys.path)} | environment,
    )
    return ran.stdout + ran.stderr


@pytest.mark.parametrize(("asked", "found"), [(0, 1), (3, 3)])
def test_cpu_devices(asked, found):
    assert devices_of(f"split_cpu({asked}); print(jax.device_count())") == f"{found}\n"


def test_what_the_environment_says_comes_first():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    assert devices_of("split_cpu(3); print(jax.device_count())", **flags) == "2\n"


def test_too_late():
    out = devices_of("jax.devices(); split_cpu(3); print(jax.device_count())")
    assert out.startswith("1\n") and "cpu_devices=3 comes too late: jax runs on 1 already" in out
