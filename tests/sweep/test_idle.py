"""Settings of an evaluation that nothing would read are one sentence, before anything is decoded."""

import dataclasses
import runpy
from pathlib import Path

import pytest
from every_config import configs_in, of_each_file
from sweep.tiny_runs import config_of

from colar_jax.config import resolve
from colar_jax.errors import UserError
from colar_jax.runs.sweep.idle import refuse_idle_settings
from colar_jax.runs.sweep.sweep import sweep

CONFIGS = Path(__file__).parents[2] / "configs"
ONLY = {"cot": "colar", "colar": "cot"}  # the stage of the run that is not evaluated


@pytest.mark.parametrize(
    ("stage", "setting", "value"), [("colar", "word_budgets", "4,8"), ("cot", "latent_limits", "4,8")]
)
def test_what_no_evaluated_stage_reads_is_refused(tmp_path, stage, setting, value):
    asked = {f"eval.{setting}": value}
    alone, other = (config_of(tmp_path, **asked, **{"eval.stages": name}) for name in (stage, ONLY[stage]))
    with pytest.raises(UserError, match=rf"eval.{setting}=.* does \({stage}\): .* by --config.eval.{setting}=$"):
        refuse_idle_settings([alone])
    refuse_idle_settings([other])
    refuse_idle_settings([config_of(tmp_path, **asked)])
    refuse_idle_settings([alone, other])  # of two runs one reads it
    refuse_idle_settings([config_of(tmp_path, **{"eval.stages": stage})])


@pytest.mark.parametrize(("stage", "setting", "value"), [("colar", "trim.verifier", "judge"), ("cot", "causal", True)])
def test_what_a_file_says_for_all_its_stages_is_refused_where_none_reads_it(tmp_path, stage, setting, value):
    """One stage of a run that is still being trained can be evaluated as its file says."""
    config = config_of(tmp_path, **{f"eval.{setting}": value, "eval.stages": stage})
    refuse_idle_settings([config])
    alone = dataclasses.replace(config, stages={stage: config.stages[stage]}, run=stage)
    off = "False" if value is True else "$"
    with pytest.raises(UserError, match=rf"eval.{setting}=.* does \({stage}\): .* by --config.eval.{setting}={off}"):
        refuse_idle_settings([alone])


def test_speeds_of_stages_that_have_none_are_told_and_stop_nothing(tmp_path, caplog):
    config = config_of(tmp_path, **{"eval.speeds": "2,5", "eval.stages": "cot"})
    refuse_idle_settings([config])  # they are colar's
    alone = dataclasses.replace(config, stages={"cot": config.stages["cot"]}, run="cot")
    refuse_idle_settings([alone, config])
    assert not caplog.text
    refuse_idle_settings([alone])
    assert "eval.speeds='2,5' is for what thinks at the speed that it is told" in caplog.text
    assert "(cot): name other stages in eval.stages, or do without by --config.eval.speeds=" in caplog.text


def test_latents_whose_number_is_the_methods_own_have_no_limit(tmp_path):
    fixed = {"run": "coconut", "stages.coconut.method": "coconut", "eval.latent_limits": "4,8"}
    get_config = runpy.run_path(str(CONFIGS / "gsm8k_coconut.py"))["get_config"]
    config = get_config("smoke")
    config.update_from_flattened_dict(fixed | {"workdir": str(tmp_path)})
    with pytest.raises(UserError, match="eval.latent_limits='4,8' is for what thinks as long as decode.max_latents"):
        refuse_idle_settings([resolve(config)])


def test_a_stage_of_a_file_that_is_trained_alone_keeps_what_the_file_says_for_others(tmp_path):
    """configs/methods.py tests latents, and its stages are runs of their own."""
    get_config = runpy.run_path(str(CONFIGS / "methods.py"))["get_config"]
    config = get_config()
    config.run = "cot"
    refuse_idle_settings([resolve(config)])
    config.eval.word_budgets, config.run = "4,8", "colar"
    with pytest.raises(UserError, match="word_budgets"):
        refuse_idle_settings([resolve(config)])


@of_each_file
def test_no_file_asks_for_what_it_does_not_read(path, caplog):
    for config in configs_in(path):
        refuse_idle_settings([config])
    assert not caplog.text


def test_an_evaluation_is_refused_before_anything_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("colar_jax.runs.sweep.sweep._with_finished_stages", lambda configs: configs)
    with pytest.raises(UserError, match="word_budgets"):
        sweep([config_of(tmp_path / "run", **{"eval.stages": "colar", "eval.word_budgets": "4"})])
    assert not (tmp_path / "run").exists()
