"""What the tests of whole runs share: a finished run."""

from pathlib import Path

import pytest
from pipeline.tiny import NUM_STEPS, STAGES, count_steps, tiny_config

from colar_jax.runs.pipeline import train


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The folder of a run that was never stopped. Not to be changed."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        taken = count_steps(patch)
        train(tiny_config(workdir))
    assert taken == [*range(NUM_STEPS)] * len(STAGES)
    return workdir
