"""What the tests of whole runs share: compiled programs, and a finished run."""

import contextlib
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from pipeline.tiny import NUM_STEPS, STAGES, count_steps, tiny_config

from colar_jax.runs.pipeline import train

CACHE_SETTINGS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@contextlib.contextmanager
def compiling_into(folder: Path):
    """Programs are compiled once for all runs, those of other processes included (with the environment yielded)."""
    before = {name: getattr(jax.config, name) for name in CACHE_SETTINGS}
    if before[CACHE_SETTINGS[0]] is None:
        for name, value in zip(CACHE_SETTINGS, (str(folder), 0), strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    try:
        yield {name.upper(): str(getattr(jax.config, name)) for name in CACHE_SETTINGS}
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def compiled(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module", autouse=True)
def compiled_once(compiled):
    with compiling_into(compiled) as environment:
        yield environment


@pytest.fixture(scope="session")
def finished(tmp_path_factory, compiled) -> Path:
    """The folder of a run that was never stopped. Not to be changed."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch, compiling_into(compiled):
        taken = count_steps(patch)
        train(tiny_config(workdir))
    assert taken == [*range(NUM_STEPS)] * len(STAGES)
    return workdir
