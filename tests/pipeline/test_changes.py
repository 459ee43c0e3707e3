"""What may change between a stop and a resume, and what is said where it may not."""

import dataclasses
import json
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from pipeline.tiny import NUM_STEPS, copy_of, count_steps, tiny_config, tiny_config_dict

from colar_jax.config import Config, ModelConfig, OnResume, StageConfig, resolve, stage_defaults, walk
from colar_jax.errors import UserError
from colar_jax.methods.colar import Colar
from colar_jax.metric_writer import read_metrics
from colar_jax.runs import pipeline, resuming
from colar_jax.runs.identity import FIRST_POLICY, PROBLEMS, VALIDATED_ON, Change, changes_since, identity_of
from colar_jax.runs.resuming import (
    CHANGES_FILE,
    accepted_before,
    note_changes,
    refuse_another_run,
    validated_on,
    warn_of_other_validations,
)
from colar_jax.runs.run import prepare
from colar_jax.runs.starts import adopt, reference_of
from colar_jax.settings.on_resume import values_of_before
from colar_jax.training.checkpoints import Checkpoints


def run_with(workdir, **settings):
    return prepare(tiny_config(workdir, **settings))


def refusal(workdir, accept_changes=False, stage="cot", **settings) -> str:
    with pytest.raises(UserError) as error:
        refuse_another_run(run_with(workdir, **settings), stage, accept_changes=accept_changes)
    return str(error.value)


EXECUTION = {
    "model.remat": "full",
    "model.logits_chunk": 7,
    "model.scan_layers": True,
    "stages.cot.accumulation": 2,
}
ADJUSTABLE = {
    "model.dtype": "bfloat16",
    "stages.cot.optimizer.learning_rate": 0.5,
    "stages.cot.optimizer.warmup_steps": 1,
    "stages.cot.optimizer.schedule": "constant",
    "stages.cot.rows": 4,
    "stages.cot.row_positions": 200,
    "stages.cot.steps": NUM_STEPS + 2,
}
BINDING = {"seed": 1, "model.preset": "micro", "model.latent_head.min_log_std": -5.0, "stages.cot.method": "no_cot"}


def test_what_only_changes_execution_may_change(finished):
    changes = refuse_another_run(run_with(finished, **EXECUTION), "cot", accept_changes=False)
    assert {change.on_resume for change in changes} == {OnResume.EXECUTION} and len(changes) == len(EXECUTION)


def test_learning_rate_batch_and_length_may_change_when_accepted(finished):
    for setting, value in ADJUSTABLE.items():
        message = refusal(finished, **{setting: value})
        assert re.search(rf"{setting} was .*, is {value!r}\.\n", message), message
        assert "the same command with --accept_changes" in message
        old = dict(walk_values(tiny_config(finished)))[setting]
        assert f"the same command with --config.{setting}={old}" in message
        assert f"--config.stages.cot.init_from={finished}/cot" in message and "--config.workdir=NEW_FOLDER" in message
    changes = refuse_another_run(run_with(finished, **ADJUSTABLE, **EXECUTION), "cot", accept_changes=True)
    assert len(changes) == len(ADJUSTABLE) + len(EXECUTION)


def test_what_binds_is_refused_with_the_ways_out(finished):
    for setting, value in BINDING.items():
        message = refusal(finished, accept_changes=True, **{setting: value})
        assert f"{setting} was" in message and "--accept_changes" not in message, message
        assert ("init_from" in message) == (not setting.startswith("model.")), message


def test_another_optimizer_is_refused_with_the_reason(finished):
    message = refusal(finished, accept_changes=True, **{"stages.cot.optimizer.name": "muon"})
    assert "optimizer.name was 'adamw', is 'muon'. One optimizer cannot go on with what another has kept" in message
    assert "init_from" in message and "--accept_changes" not in message


def walk_values(config: Config):
    """Every setting of a run by its dotted name."""
    yield from ((name, value) for name, value, _ in walk(config) if name != "stages")
    for stage, settings in config.stages.items():
        yield from ((name, value) for name, value, _ in walk(settings, f"stages.{stage}."))


def test_a_setting_that_is_younger_than_a_checkpoint_counts_as_its_default(finished):
    run = run_with(finished)
    saved = identity_of(run, "colar")
    assert changes_since(saved, run, "colar") == []
    young = [name for name in saved if name.startswith(("stage.latent.", "model.latent_head.", "stage.accumulation"))]
    groups = {"stage.": StageConfig(method="colar"), "model.": ModelConfig()}
    defaults = {name: value for prefix, group in groups.items() for name, value, _ in walk(group, prefix)}
    defaults |= {f"stage.latent.{name}": value for name, value in values_of_before(Colar).items()}
    for name in young:
        older = {setting: value for setting, value in saved.items() if setting != name}
        expected = [] if saved[name] == defaults[name] else [name]
        assert [change.name for change in changes_since(older, run, "colar")] == expected, name
    # And a setting that this run does not read, which the checkpoint has at its default.
    assert changes_since(saved | {"stage.codi.num_latents": 6, "model.lora.rank": 0}, run, "colar") == []
    (change,) = changes_since(saved | {"model.lora.rank": 4}, run, "colar")
    assert (change.name, change.was, change.value, change.on_resume) == ("model.lora.rank", 4, 0, OnResume.BINDS)


def test_a_checkpoint_of_before_knows_its_problems_by_name(finished, tmp_path):
    run = run_with(finished)
    older = {name: value for name, value in identity_of(run, "cot").items() if name != PROBLEMS}
    older |= {"data.train": run.config.data.train, "data.train_limit": 60, "data.held_out": 500}
    assert changes_since(older, run, "cot") == []
    (change,) = changes_since(older, run_with(finished, **{"data.train_limit": 50}), "cot")
    assert (change.name, change.was, change.value) == ("data.train_limit", 60, 50)


def test_every_setting_of_a_stage_says_whether_it_may_change():
    """Those that may, by name: whoever adds a setting decides, and shows it here."""
    settings = {name: on_resume for name, _, on_resume in walk(StageConfig(trainer="grpo"))}
    assert {name for name, on_resume in settings.items() if on_resume is OnResume.EXECUTION} == {
        "accumulation",
        "rl.rollout_questions",
    }
    assert {name for name, on_resume in settings.items() if on_resume is OnResume.OBSERVING} == {
        "log_every",
        "eval_every",
        "save_every",
        "save_minutes",
        "rl.stop_on_collapse",
    }


def write_problems(path, numbers):
    lines = [{"question": f"{n} + 1?", "steps": [f"{n}+1={n + 1}"], "answer": str(n + 1)} for n in numbers]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_an_edited_training_file_is_refused_by_content(tmp_path):
    train, val, test = (tmp_path / f"{name}.jsonl" for name in ("train", "val", "test"))
    write_problems(train, range(20))
    write_problems(val, range(30, 34))
    write_problems(test, range(40, 44))
    data = {"data.train": str(train), "data.val": str(val), "data.test": f"t={test}", "data.train_limit": 0}

    def problems_of(**settings):
        return identity_of(run_with(tmp_path / "run", **data | settings), "cot")[PROBLEMS]

    before = problems_of()
    saved = identity_of(run_with(tmp_path / "run", **data), "cot")
    for edit in (range(1, 20), [1, 0, *range(2, 20)], [25, *range(1, 20)], [25, *range(20)]):  # cut, order, ...
        write_problems(train, edit)
        assert problems_of() != before, list(edit)
        (change,) = changes_since(saved, run_with(tmp_path / "run", **data), "cot")
        assert change.name == PROBLEMS and change.on_resume is OnResume.BINDS
    write_problems(train, range(20))
    moved = train.rename(tmp_path / "moved.jsonl")
    assert problems_of(**{"data.train": str(moved)}) == before, "the same problems in another place"
    write_problems(tmp_path / "test2.jsonl", range(50, 54))
    assert problems_of(**{"data.train": str(moved), "data.test": f"t={tmp_path}/test2.jsonl"}) == before


def test_a_finished_stage_is_made_longer(tmp_path, monkeypatch, finished):
    workdir = copy_of(finished, tmp_path)
    longer = {"run": "cot", "stages.cot.steps": NUM_STEPS + 2, "stages.cot.optimizer.learning_rate": 0.001}
    config = dataclasses.replace(tiny_config(workdir, **longer))
    monkeypatch.setattr(pipeline, "sweep_run", lambda run: [])
    with pytest.raises(UserError, match="the same command with --accept_changes"):
        pipeline.train(config)
    taken = count_steps(monkeypatch)
    pipeline.train(config, accept_changes=True)
    assert taken == [NUM_STEPS, NUM_STEPS + 1]
    (line,) = map(json.loads, (workdir / "cot" / CHANGES_FILE).read_text().splitlines())
    assert line == {
        "step": NUM_STEPS,
        "changes": {"stages.cot.steps": [7, 9], "stages.cot.optimizer.learning_rate": [0.002, 0.001]},
    }
    assert read_metrics(workdir / "cot")[-1]["step"] == NUM_STEPS + 2
    pipeline.train(config)  # accepted once and for all: it is what its checkpoints say now
    assert len(taken) == 2


def test_what_was_accepted_is_not_asked_again_of_a_stage_that_has_ended(tmp_path, monkeypatch, finished, caplog):
    """Its checkpoint keeps the settings of before: with several stages the flag would be needed for ever."""
    workdir = copy_of(finished, tmp_path)
    monkeypatch.setattr(pipeline, "sweep_run", lambda run: [])
    config = tiny_config(workdir, **{"run": "cot", "model.dtype": "bfloat16"})
    with pytest.raises(UserError, match="model.dtype was 'float32', is 'bfloat16'"):
        pipeline.train(config)
    with caplog.at_level("INFO"):
        pipeline.train(config, accept_changes=True)
    assert f"stage cot has ended at step {NUM_STEPS}" in caplog.text and "goes on from step" not in caplog.text
    (line,) = map(json.loads, (workdir / "cot" / CHANGES_FILE).read_text().splitlines())
    assert line == {"step": NUM_STEPS, "changes": {"model.dtype": ["float32", "bfloat16"]}, "has_ended": True}
    with (workdir / "cot" / CHANGES_FILE).open("a") as file:
        file.write('{"step": 7, "chan')  # a kill cut the next one short
    pipeline.train(config)
    other = {"stages.cot.optimizer.learning_rate": 0.5}
    with pytest.raises(UserError, match=r"learning_rate was 0.002, is 0.5"):
        pipeline.train(tiny_config(workdir, **{"run": "cot", "model.dtype": "bfloat16"} | other))


def test_a_stage_that_would_have_fewer_steps_than_it_has_taken_is_refused(tmp_path, monkeypatch):
    """It would end at once, as a stage of the new length, which it is not."""
    monkeypatch.setattr(pipeline, "latest_step", lambda folder: NUM_STEPS)
    monkeypatch.setattr(pipeline, "is_validated", lambda folder, step: True)
    accepted = [Change("stage.steps", 9, 5, OnResume.ADJUSTABLE)]
    for steps, is_refused in ((NUM_STEPS - 1, True), (NUM_STEPS, False), (NUM_STEPS + 1, False)):
        run = run_with(tmp_path / "run", **{"stages.cot.steps": steps})
        pipeline._refuse_fewer_steps(run, "cot", [])
        if is_refused:
            with pytest.raises(UserError, match=r"cot has taken 7 steps, and would have 6 .*steps=8 ends it"):
                pipeline._refuse_fewer_steps(run, "cot", accepted)
        else:
            pipeline._refuse_fewer_steps(run, "cot", accepted)
    by_epochs = {"stages.cot.steps": 0, "stages.cot.epochs": 0.1, "stages.cot.rows": 8}
    with pytest.raises(UserError, match="cot has taken 7 steps, and would have 1 in all"):
        pipeline._refuse_fewer_steps(run_with(tmp_path / "run", **by_epochs), "cot", accepted)
    monkeypatch.setattr(pipeline, "is_validated", lambda folder, step: False)  # as a checkpoint on SIGTERM
    monkeypatch.setattr(pipeline, "has_ended", lambda folder, num_steps: True)  # and owes no validation
    with pytest.raises(UserError, match="cot has taken 7 steps, and would have 7 in all"):
        pipeline._refuse_fewer_steps(run_with(tmp_path / "run"), "cot", accepted)


def test_another_validation_is_said(tmp_path, caplog):
    """What is best is decided by accuracies that cannot be compared."""
    run = run_with(tmp_path / "run")
    adopt(run, "cot", run.initial_parameters())

    def asked(run) -> str:
        return validated_on(run, "cot", run.val.problems, run.trained_speeds("cot"))

    warn_of_other_validations(run, "cot", 0, asked(run))
    assert "validated on" not in caplog.text, "a checkpoint of before says nothing of it"
    others = {"data.num_val": 3, "decode.max_step_tokens": 4, "data.verifier": "exact"}
    assert len({asked(run), *(asked(run_with(tmp_path / "run", **{k: v})) for k, v in others.items())}) == 4
    for setting, value in {"decode.top_p": 0.5, "decode.speed_certainty": 0.5, "data.num_test": 3}.items():
        assert asked(run_with(tmp_path / "run", **{setting: value})) == asked(run), setting
    identity = identity_of(run, "cot") | {VALIDATED_ON: asked(run)}
    assert changes_since(identity, run, "cot") == [], "that is no other run"
    with Checkpoints(tmp_path / "run" / "cot" / "checkpoints") as checkpoints:
        checkpoints.save(5, {"step": jnp.int32(5)}, metrics={"accuracy": 0.5}, identity=identity)
    warn_of_other_validations(run, "cot", 5, asked(run))
    assert "validated on" not in caplog.text
    warn_of_other_validations(run, "cot", 5, asked(run_with(tmp_path / "run", **{"data.num_val": 3})))
    assert "stage cot: until step 5 it was validated on other problems, or decoded otherwise" in caplog.text


def test_a_stage_that_is_held_near_its_first_policy_is_held_near_that_one(tmp_path):
    """Its source may be trained on in between; then the stage would be held near another policy, without a word."""
    config = tiny_config_dict(tmp_path, run="cot,colar,rl")
    config.stages.rl.rl.beta = 0.1
    run = prepare(resolve(config))
    adopt(run, "colar", run.initial_parameters())
    first = reference_of(run, "rl")
    assert first["step"] == 0 and first["saved_at"]
    folder = run.workdir / "rl"
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(1, {"x": np.zeros(1)}, metrics=None, identity={FIRST_POLICY: first})
    assert reference_of(run, "rl") == first
    shutil.rmtree(run.workdir / "colar")
    adopt(run, "colar", run.initial_parameters())  # saved again, at another time
    with pytest.raises(UserError, match=r"stages.rl.rl.beta=0.1 holds the policy near .* step 0 of .*colar"):
        reference_of(run, "rl")


def test_what_was_accepted_and_taken_back_is_asked_again(tmp_path):
    """A kill before anything was learned with it: the next checkpoint is of the value of before."""
    lines = [
        {"step": 3, "changes": {"stages.cot.rows": [2, 4]}},
        {"step": 5, "changes": {"model.dtype": ["float32", "bfloat16"]}},
    ]
    (tmp_path / CHANGES_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert accepted_before(tmp_path, 5) == {"model.dtype": "bfloat16"}
    assert accepted_before(tmp_path, 3) == {"stages.cot.rows": 4}
    assert accepted_before(tmp_path, 7) == {}


def test_what_was_accepted_last_holds(tmp_path, monkeypatch):
    """Also where it had been accepted before: 16 rows, then 32, for which memory was too small, then 16 again."""
    run = run_with(tmp_path / "run")
    monkeypatch.setattr(resuming, "latest_step", lambda folder: 5)
    folder = run.workdir / "cot"
    folder.mkdir(parents=True)
    for rows in (16, 32, 16, 16):
        note_changes(run, "cot", [Change("stage.rows", 8, rows, OnResume.ADJUSTABLE)], has_ended=False)
        assert accepted_before(folder, 5) == {"stages.cot.rows": rows}
    lines = [json.loads(line)["changes"]["stages.cot.rows"] for line in (folder / CHANGES_FILE).open()]
    assert lines == [[8, 16], [8, 32], [8, 16]], "and once"


@pytest.mark.parametrize("says_so", [True, False])
def test_rewards_do_not_go_on_from_what_data_has_taught(tmp_path, says_so):
    """Nor where the checkpoint is older than its saying so."""
    config = tiny_config_dict(tmp_path, run="cot,colar,rl")
    saved = identity_of(prepare(resolve(config)), "colar")
    assert saved["stage.trainer"] == "sft"
    if not says_so:
        del saved["stage.trainer"]
    config.stages.colar = stage_defaults(method="colar", trainer="grpo", init_from="cot", steps=3)
    changes = {change.name: change.was for change in changes_since(saved, prepare(resolve(config)), "colar")}
    assert changes["stage.trainer"] == "sft"
