"""The speeds that an evaluation asks for are those of the stages that it evaluates."""

import pytest
from pipeline.tiny import tiny_config_dict

from colar_jax.config import resolve, stage_defaults
from colar_jax.errors import UserError
from colar_jax.runs.run import prepare


def config_of(workdir, **settings):
    """`colar` says its speed in the prompt, any; `placed` has latents on the chain's timeline, of two decimals."""
    config = tiny_config_dict(workdir)
    for name in set(config.stages) - {"cot", "colar"}:
        del config.stages[name]
    config.stages.colar.latent.update(conditioning="text", timeline="latents")
    config.stages.placed = stage_defaults(method="colar", init_from="cot", steps=3, rows=2)
    config.stages.placed.latent.update(speeds="1..6", conditioning="number", timeline="tokens")
    config.update_from_flattened_dict({"run": "cot,colar", "eval.speeds": "1.234,auto"} | settings)
    return resolve(config)


@pytest.mark.parametrize("sets", ["all", "tests", "none"])
@pytest.mark.parametrize(
    "settings",
    [
        {},  # a stage that is defined alone
        {"run": "cot,colar,placed", "eval.stages": "cot,colar"},  # one that is trained, and validated at its own speeds
        {"run": "placed,cot", "eval.stages": "colar"},
    ],
)
def test_a_stage_that_is_not_evaluated_is_not_asked(tmp_path, sets, settings):
    run = prepare(config_of(tmp_path, **settings), sets=sets)
    assert {1.234, "auto"} <= set(run.speeds)
    for encoded in run.tests.values():
        assert len(encoded.prompt(0, 1.234)) > 0


@pytest.mark.parametrize(
    "settings", [{"run": "cot,colar,placed"}, {"run": "cot,placed"}, {"eval.stages": "colar,placed"}]
)
@pytest.mark.parametrize("sets", ["all", "tests"])
def test_one_that_is_evaluated_refuses_what_it_cannot_be_told(tmp_path, settings, sets):
    with pytest.raises(UserError, match="speed=1.234: where latents stand on the chain's timeline"):
        prepare(config_of(tmp_path, **settings), sets=sets)


def test_prompts_of_training_are_there_whatever_is_evaluated(tmp_path):
    run = prepare(config_of(tmp_path, **{"stages.colar.latent.speeds": "2,3", "eval.stages": "cot"}), sets="none")
    assert {2.0, 3.0} <= set(run.speeds)
