"""What the tests of whole runs share: a finished run, made once for all processes of a run of tests."""

import os
import shutil
from pathlib import Path

import filelock
import pytest
from pipeline.tiny import NUM_STEPS, STAGES, count_steps, tiny_config

from colar_jax.runs.pipeline import train


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The folder of a run that was never stopped. Not to be changed: tests in other processes read it, too."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all processes
    workdir, made = folder / "finished" / "run", folder / "finished.made"
    with filelock.FileLock(folder / "finished.lock"):
        if not made.exists():
            shutil.rmtree(workdir, ignore_errors=True)  # of a process that failed: the next says why, too
            _train(workdir)
            made.touch()
    return workdir


def _train(workdir: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        taken = count_steps(patch)
        train(tiny_config(workdir))
    assert taken == [*range(NUM_STEPS)] * len(STAGES)
