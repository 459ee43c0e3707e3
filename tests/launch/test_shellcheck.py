"""The scripts are clean, by a tool that reads shell better than people do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from launch.fakes import LAUNCH


def test_shellcheck_has_nothing_to_say():
    # The extra `test` installs it beside the interpreter, which need not be on the PATH.
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck is not None, "pip install -e '.[test]'"
    scripts = [*sorted(LAUNCH.glob("*.sh")), LAUNCH / "slurm.sbatch"]
    found = subprocess.run([shellcheck, "--external-sources", *scripts], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
