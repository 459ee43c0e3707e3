"""What a later stage or the evaluation would stop at is said before the first stage is trained."""

import json
import logging

import numpy as np
import pytest
from pipeline.tiny import tiny_config, tiny_config_dict

from colar_jax.config import resolve, stage_defaults
from colar_jax.data.arithmetic import generate_problems
from colar_jax.data.fingerprint import question_hashes
from colar_jax.errors import UserError
from colar_jax.runs import beforehand, pipeline
from colar_jax.runs.identity import identity_of
from colar_jax.runs.run import prepare
from colar_jax.runs.starts import adopt
from colar_jax.runs.trained_questions import QUESTIONS_FILE
from colar_jax.training.checkpoints import Checkpoints

LATER = {
    "a source that nobody trains": (
        {"stages.no_cot.init_from": "cott"},
        "stages.no_cot.init_from='cott': cott has no checkpoints",
    ),
    "a source that is trained after it": (
        {"stages.cot.init_from": "no_cot"},
        "stages.cot starts from no_cot, which --config.run=cot,colar,no_cot has after it: put it first",
    ),
    "a source that is not run": (
        {"run": "cot,colar", "stages.colar.init_from": "no_cot", "eval.stages": "cot"},
        "stages.colar starts from no_cot, which has no checkpoint in .*/run and is not in --config.run=cot,colar: "
        "put it first, or train it first with --config.run=no_cot",
    ),
    "rewards of no thoughts": (
        {"stages.no_cot.trainer": "grpo", "stages.no_cot.rows": 16, "stages.no_cot.row_positions": 256},
        "trainer='grpo' improves chains",
    ),
    "a row that no example fits into": (
        {"stages.no_cot.row_positions": 8},
        "stages.no_cot: no example fits into a row: the shortest has .* stage.row_positions is 8",
    ),
    "a limit below the least": (
        {"decode.min_latents": 3, "eval.latent_limits": "4,2"},
        "^eval.latent_limits='4,2': decode.min_latents=3 is not between 0 and max_latents=2",
    ),
    "a limit that no stage reads": (
        {"eval.stages": "colar", "eval.word_budgets": "4"},
        "eval.word_budgets='4' is for what",
    ),
    "a stage that is not run": ({"eval.stages": "cot,rl"}, "eval.stages='cot,rl': .*rl has no checkpoints"),
    "a verifier that is none": ({"eval.trim.verifier": "cot"}, "eval.trim.verifier='cot' is a stage of method='cot'"),
    "a verifier of other segments": (
        {
            "stages.no_cot.method": "segment_judge",
            "eval.stages": "cot",
            "eval.trim.verifier": "no_cot",
            "eval.trim.cue_after": "line",
        },
        "eval.trim.sentences=3, and the judge 'no_cot' is trained with segment_judge.sentences=1",
    ),
    "a verifier that is not there": ({"eval.trim.verifier": "./judge"}, "'./judge': there is no such folder"),
}


@pytest.mark.parametrize("what", LATER)
def test_nothing_is_trained_before_what_would_stop_it(tmp_path, monkeypatch, what):
    settings, message = LATER[what]
    monkeypatch.setattr(pipeline, "train_stage", lambda run, name: pytest.fail(f"{name} is trained"))
    with pytest.raises(UserError, match=message):
        pipeline.train(tiny_config(tmp_path / "run", **settings))
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            stage_defaults(method="icot", steps=7, rows=2, row_positions=256),
            "stages.last: the schedule of icot ends at step .*, the stage at 7: the model would never be trained as",
        ),
        (
            stage_defaults(method="cot", trainer="grpo", init_from="cot", steps=7),
            "stages.last.rl.num_questions=64, but there are only 60 training questions",
        ),
    ],
)
def test_nor_before_a_stage_that_its_data_or_its_length_would_stop(tmp_path, monkeypatch, stage, message):
    monkeypatch.setattr(pipeline, "train_stage", lambda run, name: pytest.fail(f"{name} is trained"))
    config = tiny_config_dict(tmp_path / "run", run="cot,last", **{"eval.stages": "cot"})
    config.stages.last = stage
    if stage.trainer == "grpo":
        config.stages.last.rl.num_questions = 64
    with pytest.raises(UserError, match=message):
        pipeline.train(resolve(config))
    assert not (tmp_path / "run" / "config.json").exists()


def own_data(tmp_path, num_without: int) -> dict[str, str]:
    """Settings of a run on a file of 40 problems, of which the first so many have no steps."""
    problems = generate_problems("train", 40)
    records = [{"question": p.question, "steps": list(p.steps), "answer": p.answer} for p in problems]
    for number in range(num_without):
        records[number]["steps"] = [" "] if number % 2 else []
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return {"data.train": str(path), "data.test": "", "data.train_limit": 0}


@pytest.mark.parametrize("run", ["cot,no_cot", "cot,colar", "colar"])
def test_chains_are_not_learned_from_problems_without_steps(tmp_path, monkeypatch, run):
    monkeypatch.setattr(pipeline, "train_stage", lambda run, name: pytest.fail(f"{name} is trained"))
    name = next(name for name in run.split(",") if name != "no_cot")
    message = (
        rf"^no problem of data.train='.*own.jsonl' has steps, which stages.{name} learns from "
        rf"\(method={name}\): method=no_cot"
    )
    with pytest.raises(UserError, match=message):
        pipeline.train(tiny_config(tmp_path / "run", run=run, **own_data(tmp_path, 40), **{"eval.stages": name}))
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"stages.no_cot.method": "concise"},
        {
            "stages.no_cot.method": "cot",
            "stages.no_cot.trainer": "grpo",
            "stages.no_cot.rows": 16,
            "stages.no_cot.row_positions": 256,
        },
    ],
)
def test_what_learns_nothing_from_steps_does_without(tmp_path, monkeypatch, settings):
    monkeypatch.setattr(beforehand, "_check_source", lambda run, name: None)  # no_cot starts from cot
    settings = settings | own_data(tmp_path, 40) | {"run": "no_cot", "eval.stages": "no_cot"}
    beforehand.check_run(prepare(tiny_config(tmp_path / "run", **settings)))


def test_problems_without_steps_among_others_are_counted_once(tmp_path, caplog):
    run = prepare(tiny_config(tmp_path / "run", **own_data(tmp_path, 3)))
    beforehand.check_run(run)
    (warning,) = [message for message in caplog.messages if "no steps" in message]
    place = f"{tmp_path}/own.jsonl:1"
    assert f"3 of 32 problems have no steps, the first: {place}. From these stages cot, colar learn to" in warning
    caplog.clear()
    beforehand.check_run(prepare(tiny_config(tmp_path / "run", **own_data(tmp_path, 0))))
    assert "no steps" not in caplog.text


def test_a_stage_that_passes_over_a_trained_one_says_so(tmp_path, monkeypatch, caplog):
    run = prepare(tiny_config(tmp_path / "run", run="colar", **{"eval.stages": "colar"}))
    monkeypatch.setattr(beforehand, "latest_step", lambda folder: 7 if folder.name == "cot" else None)
    with caplog.at_level(logging.INFO):
        beforehand.check_run(run)
    assert "stage colar starts from the initial weights, not from cot, which is trained in this folder: " in caplog.text
    assert "stages.colar.init_from=cot would" in caplog.text


def test_a_source_that_has_not_ended_is_named(tmp_path, monkeypatch, caplog):
    run = prepare(tiny_config(tmp_path / "run", run="cot", **{"eval.stages": "cot"}))
    adopt(run, "cot", run.initial_parameters())  # a whole one
    settings = {"run": "no_cot", "stages.no_cot.init_from": str(tmp_path / "run" / "cot"), "eval.stages": "no_cot"}
    later = prepare(tiny_config(tmp_path / "new", **settings))
    beforehand.check_run(later)
    assert "has not ended" not in caplog.text
    saved = identity_of(run, "cot") | {"num_steps": 9}
    monkeypatch.setattr(Checkpoints, "read", lambda self, step: ({}, saved))
    beforehand.check_run(later)
    assert "which has not ended: step 0, trained to 0 of 9" in caplog.text


def test_a_source_that_was_trained_on_test_questions_is_refused_first(tmp_path, monkeypatch):
    run = prepare(tiny_config(tmp_path / "run"))
    adopt(run, "cot", run.initial_parameters())
    np.save(tmp_path / "run" / "cot" / QUESTIONS_FILE, question_hashes(next(iter(run.tests.values())).problems))
    monkeypatch.setattr(pipeline, "train_stage", lambda run, name: pytest.fail(f"{name} is trained"))
    with pytest.raises(UserError, match=r"4 of the 4 questions of test set 'arithmetic' are among those .*run/cot is"):
        pipeline.train(tiny_config(tmp_path / "new", **{"stages.no_cot.init_from": str(tmp_path / "run" / "cot")}))
    assert not (tmp_path / "new" / "config.json").exists()


def test_a_damaged_stage_that_the_run_does_not_read_stops_nothing(tmp_path, monkeypatch):
    run = prepare(tiny_config(tmp_path / "run", run="colar", **{"eval.stages": "colar"}))

    def latest_step(folder):
        if folder.name == "cot":
            raise UserError(f"{folder}/checkpoints/7 is damaged")

    monkeypatch.setattr(beforehand, "latest_step", latest_step)
    beforehand.check_run(run)
