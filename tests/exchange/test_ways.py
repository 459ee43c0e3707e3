"""Which stage is exported, and whether a folder can make its latents."""

import dataclasses

import pytest
from exchange.tiny_run import tiny_config

from colar_jax.errors import UserError
from colar_jax.exchange import ways
from colar_jax.methods.method import Thinking
from colar_jax.runs.run import prepare
from colar_jax.runs.starts import default_stage, stage_named


@pytest.mark.parametrize(
    ("stages", "default"),
    [
        (("cot", "colar", "no_cot"), "colar"),
        (("colar", "coconut", "cot"), "coconut"),
        (("cot", "no_cot"), "no_cot"),
        (("cot", "icot"), "icot"),
    ],
)
def test_the_default_is_the_last_stage_that_thinks_in_latents(stages, default, tmp_path):
    run = prepare(tiny_config(tmp_path, stages=stages), sets="none")
    assert default_stage(run) == stage_named(run, "") == default
    assert stage_named(run, stages[0]) == stages[0]


def test_latents_that_no_folder_can_make_are_refused():
    own = Thinking(think=None, max_thoughts=3)
    with pytest.raises(UserError, match="--stage=toy: its method makes its latents in a way of its own"):
        ways.way_of(own, "toy", has_modules=False)
    with pytest.raises(UserError, match="--stage=toy"):
        ways.way_of(dataclasses.replace(own, way="telepathy"), "toy", has_modules=False)
    assert ways.way_of(dataclasses.replace(own, max_thoughts=0), "toy", has_modules=False) == "nothing"
