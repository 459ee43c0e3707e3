"""A run of the `pico` model with a stage of each method, and its stages loaded once for all tests."""

import functools

import jax
import pytest
from exchange.tiny_run import given_run

import colar_jax

STAGES = ("cot", "colar", "no_cot", "icot", "coconut", "codi")


@pytest.fixture(scope="session")
def asked_run(tmp_path_factory):
    """The run, whose stages have weights that make a difference."""
    with jax.numpy_rank_promotion("raise"):
        # Random weights are never as sure of ### as one half.
        options = {"stages": STAGES, "projection": 20, "greedy_stop": "argmax"}
        return given_run(tmp_path_factory.mktemp("asked") / "run", **options)[0]


@pytest.fixture(scope="session")
def loaded(asked_run):
    """`loaded(stage)`: a thinker, whose programs are compiled once."""
    return functools.cache(lambda stage: colar_jax.load(asked_run.workdir, stage))
