"""What a stage cannot go on from is said before anything is trained, and in which words."""

import logging

import numpy as np
import pytest
from pipeline.tiny import capture_stage, tiny_config_dict

from colar_jax.config import resolve, stage_defaults
from colar_jax.errors import UserError
from colar_jax.runs import starts, trained_speeds
from colar_jax.runs.beforehand import check_run
from colar_jax.runs.run import prepare
from colar_jax.runs.starts import adopt, finished_parameters, start_parameters
from colar_jax.runs.trained_speeds import SOURCE


def own_config(workdir, *, run="cot,colar,auto", **latent):
    """A run whose `auto` chooses among the speeds of its `colar`."""
    config = tiny_config_dict(workdir, run=run)
    for name in ("colar", "rl"):
        config.stages[name].latent.update({"speeds": "1..6", "conditioning": "number"} | latent)
    config.stages.auto = stage_defaults(method="own_speed", init_from="colar", steps=3, rows=2)
    config.stages.auto.own_speed.grid = "1,2,4"
    config.decode.speed_certainty = 0.9
    return config


def refused(config) -> str:
    with pytest.raises(UserError) as raised:
        check_run(prepare(resolve(config)))
    return str(raised.value)


@pytest.mark.parametrize("conditioning", ["text", "both"])
def test_a_choice_is_of_speeds_that_are_told_as_numbers(tmp_path, conditioning):
    message = refused(own_config(tmp_path, conditioning=conditioning))
    assert (
        f"is told it as a number, and what {tmp_path}/colar learns is of latent.conditioning={conditioning!r}"
        in message
    )


def test_what_a_choice_starts_from(tmp_path):
    config = own_config(tmp_path)
    check_run(prepare(resolve(config)))
    config.run, config.stages.auto.init_from = "auto", ""
    assert "name a stage of colar with init_from=" in refused(config)
    config = own_config(tmp_path, run="cot,colar,auto,again")
    config.stages.again = stage_defaults(method="own_speed", init_from="auto", steps=3, rows=2)
    config.stages.again.own_speed.grid = "1,2,4"
    assert "auto chooses its own: start from the stage of colar that it started from" in refused(config)
    config = own_config(tmp_path, pooling="mean", timeline="tokens")
    config.stages.auto.own_speed.update(mid_chain=True, timeline="tokens")
    assert "pooled by 'sqrt', and" in refused(config)


def test_rewards_are_for_what_was_trained(tmp_path):
    config = own_config(tmp_path, run="cot,rl")
    config.stages.rl.init_from = "cot"
    assert "needs latents that were trained" in refused(config)
    config.run, config.stages.rl.init_from = "rl", ""
    assert "improves a trained model" in refused(config)


@pytest.mark.parametrize("trainer", ["sft", "grpo"])
def test_latents_go_on_after_a_choice_of_speeds(tmp_path, trainer):
    """A stage that has learned to choose has the latents of the stage before it, in the size that they have there."""
    config = own_config(tmp_path)
    run = prepare(resolve(config))
    given = run.initial_parameters()
    given["latent_head"] = given["latent_head"] | {"embed_std": 3 * given["latent_head"]["embed_std"]}
    adopt(run, "auto", given)
    config.run, config.stages.more = (
        "more",
        config.stages["rl" if trainer == "grpo" else "colar"].copy_and_resolve_references(),
    )
    config.stages.more.init_from = "auto"
    found = start_parameters(prepare(resolve(config)), "more")
    np.testing.assert_array_equal(found["latent_head"]["embed_std"], given["latent_head"]["embed_std"])


def test_latents_begin_in_the_size_of_the_embeddings(tmp_path):
    config = own_config(tmp_path)
    run = prepare(resolve(config))
    given = run.initial_parameters()
    llama = given["llama"] | {"embedding": 3 * given["llama"]["embedding"]}
    adopt(run, "cot", given | {"llama": llama})
    found = start_parameters(run, "colar")["latent_head"]["embed_std"]
    np.testing.assert_allclose(found, 3 * given["latent_head"]["embed_std"], rtol=1e-5)


@pytest.mark.parametrize(("setting", "value"), [("grid", "1,3,6"), ("labels", "fastest")])
def test_a_choice_is_read_as_it_was_learned(tmp_path, setting, value):
    config = own_config(tmp_path)
    run = prepare(resolve(config))
    adopt(run, "auto", run.initial_parameters())
    finished_parameters(run, tmp_path / "auto")
    config.stages.auto.own_speed[setting] = value
    with pytest.raises(UserError, match=f"learned its choice of a speed with own_speed.{setting}=.* read with another"):
        finished_parameters(prepare(resolve(config)), tmp_path / "auto")


def test_a_choice_without_certainty_is_a_safe_one_and_that_is_said(tmp_path, caplog):
    config = own_config(tmp_path)
    for certainty, labels, is_said in ((0.9, "each", False), (0.0, "fastest", False), (0.0, "each", True)):
        config.decode.speed_certainty, config.stages.auto.own_speed.labels = certainty, labels
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            check_run(prepare(resolve(config)))
        assert ("likeliest to be right, most often a slow one" in caplog.text) == is_said


def test_a_budget_is_not_evaluated_by_what_ignores_it(tmp_path):
    config = own_config(tmp_path)
    config.decode.speed_certainty = 0.0
    stage = config.stages.auto = stage_defaults(method="own_speed", trainer="grpo", init_from="colar", steps=4)
    stage.own_speed.grid = "1,2,4"
    stage.rl.update(speeds_per_group=2, length_credit="cost", length_weight=0.5, budget=9.0, advantage="dr_grpo")
    check_run(prepare(resolve(config)))
    stage.eval_every = 2
    assert "stages.auto.rl.budget=9.0 with eval_every=2: the checkpoint of most right answers is kept" in refused(
        config
    )
    stage.rl.length_price = 0.1
    check_run(prepare(resolve(config)))


def test_rewards_keep_the_speeds_of_the_stage_before_them(tmp_path):
    config = own_config(tmp_path, run="cot,colar,rl", speeds="1,2,5", conditioning="text")
    config.stages.rl.latent.speeds, config.stages.rl.init_from = "3", "colar"
    run = prepare(resolve(config))
    assert [run.was_trained("rl", speed) for speed in (2.0, 3.0, 4.0)] == [True, True, False]
    assert [run.was_trained("colar", speed) for speed in (2.0, 3.0)] == [True, False]


def test_they_keep_them_where_the_run_goes_on_with_other_stages(tmp_path, monkeypatch):
    """`config.run` is that of the last start: what a stage started from is what its checkpoints say."""
    config = own_config(tmp_path, run="cot,colar,rl", speeds="1,2,5", conditioning="text")
    config.stages.rl.latent.speeds, config.stages.rl.init_from = "3", ""
    run = prepare(resolve(config))
    adopt(run, "colar", run.initial_parameters())
    identity = capture_stage(monkeypatch, run, "rl").identity
    with monkeypatch.context() as patch:
        patch.setattr(starts, "identity_of", lambda run, name: identity)
        adopt(run, "rl", run.initial_parameters())
    opened, noted_source = [], trained_speeds.noted_source
    monkeypatch.setattr(trained_speeds, "noted_source", lambda folder: opened.append(folder) or noted_source(folder))
    for others in ("cot", "rl", "no_cot,rl"):
        config.run = others
        later = prepare(resolve(config), sets="none")
        assert [later.was_trained("rl", speed) for speed in (2.0, 3.0, 4.0)] == [True, True, False], others
        assert [later.was_trained("colar", speed) for speed in (2.0, 3.0)] == [True, False]
    assert len(opened) == 3, "once for each run, whatever speeds it is asked for"
    config.run = "cot,colar,rl"
    assert capture_stage(monkeypatch, prepare(resolve(config)), "rl").identity[SOURCE] == "colar"


def test_what_an_earlier_version_started_from_is_what_the_config_says(tmp_path, monkeypatch):
    """Its checkpoints do not say, nor do those that follow."""
    config = own_config(tmp_path, run="cot,colar,rl", speeds="1,2,5", conditioning="text")
    config.stages.rl.latent.speeds, config.stages.rl.init_from = "3", ""
    run = prepare(resolve(config))
    for name in ("colar", "rl"):
        adopt(run, name, run.initial_parameters())
    assert run.was_trained("rl", 2.0)
    assert capture_stage(monkeypatch, run, "rl").identity[SOURCE] == ""
    config.stages.rl.init_from, config.run = "colar", "cot"
    assert prepare(resolve(config), sets="none").was_trained("rl", 2.0)
