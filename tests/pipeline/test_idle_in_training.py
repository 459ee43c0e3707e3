"""Settings of training that would do nothing are refused before a stage begins, and stop nothing that has begun."""

import pytest
from every_config import configs_in, of_each_file
from pipeline.tiny import tiny_config_dict

from colar_jax.config import resolve, stage_defaults
from colar_jax.errors import UserError
from colar_jax.methods import METHODS
from colar_jax.runs import beforehand
from colar_jax.runs.idle_settings import refuse_idle_in_training
from colar_jax.runs.run import prepare
from colar_jax.runs.starts import adopt


def run_of(folder, method="no_cot", of_method=(), **settings):
    """A run of one stage, `stage`, of that method."""
    config = tiny_config_dict(folder, **settings)
    stage = config.stages.stage = stage_defaults(method=method, steps=2, rows=2)
    if of_method:
        stage[METHODS[method].group].update(of_method)
    config.run = "stage"
    config.eval.speeds = ""
    return prepare(resolve(config))


IDLE = {
    "pauses": (
        "pccot",
        {"num_sweeps": 0, "projection_size": 16},
        {},
        "stages.stage.pccot.projection_size=16 does nothing with pccot.num_sweeps=0",
    ),
    "codi": (
        "codi",
        {"normalise": False, "spread": "all"},
        {},
        "stages.stage.codi.spread='all' does nothing with codi.normalise=False.* at 'batch'",
    ),
    "caches": (
        "kava",
        {"normalise": False, "cache_normalise": False, "spread": "example"},
        {},
        "stages.stage.kava.spread='example' does nothing",
    ),
    "one std": ("kava", {"normalise": False, "spread": "all"}, {}, "stages.stage.kava.spread='all' does nothing"),
}


@pytest.mark.parametrize("what", IDLE)
def test_what_does_nothing_is_refused_before_training_and_stops_nothing_that_has_begun(tmp_path, what):
    method, of_method, settings, message = IDLE[what]
    run = run_of(tmp_path / "run", method, of_method, **settings)
    with pytest.raises(UserError, match=message):
        beforehand.check_run(run)
    adopt(run, "stage", run.initial_parameters())
    beforehand.check_run(run)


def test_rewards_that_have_begun_go_on_with_what_does_nothing(tmp_path):
    config = tiny_config_dict(tmp_path / "run", run="cot,rl", **{"eval.stages": "cot"})
    config.stages.rl = stage_defaults(method="colar", trainer="grpo", init_from="cot", steps=2)
    config.stages.rl.rl.update(decision_weight=4.0, stop_credit="answer")
    run = prepare(resolve(config))
    with pytest.raises(UserError, match="stages.rl.rl.decision_weight=4.0 does nothing under rl.stop_credit='answer'"):
        beforehand.check_stage(run, "rl")
    adopt(run, "rl", run.initial_parameters())
    beforehand.check_stage(run, "rl")


@pytest.mark.parametrize(
    ("method", "of_method", "settings"),
    [
        ("no_cot", {}, {"model.lora.alpha": 64.0, "model.lora.dropout": 0.1, "model.lora.targets": "query"}),  # rank 0
        ("codi", {"projection_layer_norm": False}, {}),  # nor a projection
        ("pccot", {"num_sweeps": 1, "projection_size": 16}, {}),
        ("codi", {"spread": "all"}, {}),
        ("codi", {"normalise": False}, {}),
        ("kava", {"normalise": False, "spread": "example"}, {}),  # of the distance of caches
        ("colar", {"entropy_weight": -1e-6}, {}),
    ],
)
def test_what_is_read_is_not(tmp_path, caplog, method, of_method, settings):
    refuse_idle_in_training(run_of(tmp_path / "run", method, of_method, **settings), ["stage"])
    assert "does nothing" not in caplog.text


@pytest.mark.parametrize("method", ["colar", "sim_colar"])
def test_latents_without_a_standard_deviation_have_no_entropy(tmp_path, caplog, method):
    """A warning: a config may say it for the head with one, and leave that out by a flag, as configs/math_colar.py."""
    settings = {"model.latent_head.deterministic": True}
    refuse_idle_in_training(run_of(tmp_path / "run", method, {"entropy_weight": -1e-6}, **settings), ["stage"])
    group = METHODS[method].group
    assert f"stages.stage.{group}.entropy_weight=-1e-06 does nothing with model.latent_head.det" in caplog.text


@of_each_file
def test_no_file_has_any(path):
    for config in configs_in(path):
        refuse_idle_in_training(_Planned(config), config.stage_names)


class _Planned:
    """What is asked of a run, without its data and its base."""

    def __init__(self, config):
        self.config = config

    def method(self, name):
        return self.config.stages[name].bound_method
