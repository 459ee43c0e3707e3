"""What the outcome of a cell depends on: what is known under one set of settings is not shown for another."""

import dataclasses

import jax.numpy as jnp
import pytest
from pipeline.tiny import tiny_config_dict

from colar_jax.config import resolve, stage_defaults
from colar_jax.errors import UserError
from colar_jax.report.results import NO_SPEED
from colar_jax.runs import pipeline
from colar_jax.runs.identity import identity_of
from colar_jax.runs.run import prepare
from colar_jax.runs.run_folder import open_checkpoints
from colar_jax.runs.starts import adopt
from colar_jax.runs.sweep.cells import cells_of
from colar_jax.runs.sweep.member import causal_rows
from colar_jax.runs.sweep.of_runs import notes_of, repeats_of, unfinished_stages
from colar_jax.runs.sweep.stage_cells import stage_cells
from colar_jax.runs.sweep.store import Store, key_of
from colar_jax.training.checkpoints import Checkpoints


def config_of(workdir, **overrides):
    config = tiny_config_dict(workdir, run="codi", **{"eval.seeds": 0})
    config.stages.codi = stage_defaults(method="codi", steps=1)
    config.update_from_flattened_dict(overrides)
    return resolve(config)


def run_of(workdir, **overrides):
    return prepare(config_of(workdir, **overrides), sets="tests", for_training=False)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("member") / "run"
    run = run_of(workdir)
    adopt(run, "codi", run.initial_parameters())
    return workdir


def dependencies(run) -> list[dict]:
    return list(stage_cells("", run, "codi").dependencies.values())


def test_a_stage_that_is_decoded_as_another_is_decoded_anew(workdir):
    (as_trained,) = dependencies(run_of(workdir))
    assert "settings" not in as_trained, "keys of before the setting was looked at stay as they were"
    keys = {key_of(as_trained)}
    others = {"stages.codi.codi.num_latents": 3, "model.latent_head.max_log_std": 1.0, "stages.codi.method": "pccot"}
    for number, (name, value) in enumerate(others.items(), start=2):
        keys |= {key_of(depends_on) for depends_on in dependencies(run_of(workdir, **{name: value}))}
        assert len(keys) == number, name


def test_temperatures_without_seeds_are_refused(workdir):
    config = run_of(workdir, **{"eval.temperatures": "0.5,1"}).config
    with pytest.raises(UserError, match="eval.temperatures='0.5,1' with eval.seeds=0: nothing is sampled"):
        cells_of(config, "codi", ["own"])


def test_causal_tests_of_a_method_without_a_speed_are_found_by_its_results(workdir, tmp_path):
    part = stage_cells("", run_of(workdir, **{"eval.causal": True}), "codi")
    rows = list(causal_rows(part, Store(tmp_path / "cells.jsonl")))
    assert {row["speed"] for row in rows} == {NO_SPEED}
    assert [row["intervention"] for row in rows] == ["none", "zero", "shuffle", "swap", "zero_half"]


def test_a_report_says_of_programs_and_of_readers_which_stages_have_not_ended(workdir, monkeypatch):
    """Also of one that is not evaluated, from which another starts; and a stage of another run is passed over."""
    run = run_of(workdir, run="cot,codi", **{"eval.stages": "codi"})
    assert unfinished_stages(run) == {} and "unfinished" not in notes_of("", run, {})
    saved = identity_of(run, "codi") | {"num_steps": 9}
    monkeypatch.setattr(Checkpoints, "read", lambda self, step: ({}, saved))
    short = unfinished_stages(run)
    assert short == {"codi": "step 0, trained to 0 of 9"}
    assert notes_of("", run, short).endswith("codi: method codi (unfinished: step 0, trained to 0 of 9).")
    other = run_of(workdir, run="codi,cot", **{"eval.stages": "cot"})
    assert unfinished_stages(other) == short


def test_training_and_report_say_which_checkpoint_counts_where_it_is_not_the_last(tmp_path, monkeypatch, caplog):
    """More training that validates worse changes no number, which would look as if nothing had come of it."""
    run = prepare(config_of(tmp_path / "run"))
    adopt(run, "codi", run.initial_parameters())
    for step, accuracy in ((1, 0.5), (2, 0.25)):
        assert notes_of("", run, {}).endswith("codi: method codi.")
        with open_checkpoints(tmp_path / "run" / "codi") as checkpoints:
            tree = {"weights": jnp.zeros(2)}
            checkpoints.save(step, tree, metrics={"accuracy": accuracy}, identity=identity_of(run, "codi"))
    assert notes_of("", run, {}).endswith("codi: method codi (step 1 of 2, the best in validation).")
    for part in ("train_stage", "sweep_run"):
        monkeypatch.setattr(pipeline, part, lambda *given: None)
    caplog.set_level("INFO")
    pipeline.train(config_of(tmp_path / "run"))
    said = "stage codi: its checkpoint of step 1 of 2, the best in validation, is what counts"
    assert said in caplog.messages


def test_what_decoding_does_not_read_changes_nothing(workdir):
    (as_trained,) = dependencies(run_of(workdir))
    same = {"stages.codi.optimizer.learning_rate": 0.5, "stages.codi.rows": 4, "model.remat": "full", "seed": 0}
    same |= {"data.train_limit": 50, "stages.codi.steps": 9}
    for name, value in same.items():
        assert dependencies(run_of(workdir, **{name: value})) == [as_trained], name


def test_questions_that_a_set_repeats_are_said(tmp_path):
    """For its intervals each is one of its own."""
    run = prepare(resolve(tiny_config_dict(tmp_path / "run")))
    assert repeats_of(run) == []
    (name, encoded), *_ = run.tests.items()
    first, second, *others = encoded.problems
    repeated = dataclasses.replace(first, question=f" {first.question.upper()}")
    again = dataclasses.replace(encoded, problems=(first, second, repeated, *others[1:]))
    (remark,) = repeats_of(dataclasses.replace(run, tests={name: again}))
    assert remark.startswith(f"1 of 4 questions of {name} repeat another one there")
