"""No evaluation on what was trained on, whatever the config says by then; and none needs the training data."""

import dataclasses
import json
import logging

import numpy as np
import pytest
from pipeline.tiny import copy_of, tiny_config

from colar_jax.data.fingerprint import question_hashes
from colar_jax.errors import UserError
from colar_jax.report.files import read_report
from colar_jax.runs.run import prepare
from colar_jax.runs.starts import adopt
from colar_jax.runs.sweep.sweep import sweep
from colar_jax.runs.trained_questions import (
    QUESTIONS_FILE,
    VALIDATION_FILE,
    note_trained_questions,
    read_trained_questions,
    refuse_trained_questions,
)


def write_problems(path, questions):
    lines = [{"question": question, "steps": ["1+1=2"], "answer": "2"} for question in questions]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def files_config(tmp_path, **settings):
    for name, numbers in {"train": range(20), "val": range(30, 34), "test": range(40, 44)}.items():
        write_problems(tmp_path / f"{name}.jsonl", [f"{number} + 1 = ?" for number in numbers])
    data = {"data.train": f"{tmp_path}/train.jsonl", "data.val": f"{tmp_path}/val.jsonl", "data.train_limit": 0}
    data |= {"data.test": f"t={tmp_path}/test.jsonl", "data.held_out": 0}
    return tiny_config(settings.pop("workdir", tmp_path / "run"), **data | settings)


def test_every_stage_keeps_what_it_was_trained_on(finished):
    run = prepare(tiny_config(finished))
    expected = question_hashes(run.train_problems)
    for stage in run.config.stage_names:
        np.testing.assert_array_equal(read_trained_questions(finished / stage), expected)
        refuse_trained_questions(run, stage)


@pytest.mark.slow
def test_an_evaluation_on_trained_questions_is_refused(tmp_path, finished, caplog):
    workdir = copy_of(finished, tmp_path)
    question = prepare(tiny_config(workdir)).train_problems[5].question
    # The third as another person writes it; one that repeats; and one of another set.
    files = {
        "same": [question, "What is 1 + 1?"],
        "written": ["What is 1 + 1?", question.replace(" ", "  ") + " "],
        "repeats": [question, question],
    }
    for name, questions in files.items():
        test = write_problems(tmp_path / f"{name}.jsonl", questions)
        config = tiny_config(workdir, **{"data.test": f"t={test}"})
        with pytest.raises(UserError, match=r"1 of the \d questions of test set 't' are among those .*/cot is trained"):
            sweep([config])
        allowed = dataclasses.replace(config, data=dataclasses.replace(config.data, allow_overlap=True))
        with caplog.at_level(logging.WARNING):
            remarks = refuse_trained_questions(prepare(allowed, sets="tests"), "cot")
        assert "allowed by data.allow_overlap" in caplog.text
        assert remarks == [f"cot: 1 of {1 + (name != 'repeats')} test questions of t were trained on."]
    sweep([dataclasses.replace(allowed, eval=dataclasses.replace(allowed.eval, stages="cot", seeds=0))])
    remark, of_repeats = read_report(workdir)["remarks"]
    assert remark == "cot: 1 of 1 test questions of t were trained on."
    assert of_repeats.startswith("1 of 2 questions of t repeat another one there")
    assert remark in (workdir / "report.md").read_text() and remark in (workdir / "results.tex").read_text()


def test_an_evaluation_on_validation_questions_is_said(tmp_path, finished, caplog):
    """As with another data.held_out than in training, which moves problems from one set to the other."""
    workdir = copy_of(finished, tmp_path)
    run = prepare(tiny_config(workdir))
    assert refuse_trained_questions(run, "cot") == []
    questions = [run.val.problems[0].question, run.val.problems[2].question, "What is 1 + 1?"]
    test = write_problems(tmp_path / "validated.jsonl", questions)
    told = "2 of 3 test questions of t chose its checkpoint, in validation."
    with caplog.at_level(logging.WARNING):
        found = refuse_trained_questions(
            prepare(tiny_config(workdir, **{"data.test": f"t={test}"}), sets="tests"), "cot"
        )
    assert found == [f"cot: {told}"] and "they chose its checkpoint" in caplog.text
    # A stage that starts from it has chosen its start with them.
    later = {"run": "colar", "workdir": tmp_path / "later", "stages.colar.init_from": str(workdir / "cot")}
    run = prepare(files_config(tmp_path, **later))
    note_trained_questions(run, "colar")
    asked = prepare(files_config(tmp_path, **later | {"data.test": f"t={test}"}), sets="tests")
    assert refuse_trained_questions(asked, "colar") == [f"colar: {told}"]


def test_a_stage_that_goes_on_may_be_validated_with_others(tmp_path, finished):
    workdir = copy_of(finished, tmp_path)
    before = np.load(workdir / "cot" / VALIDATION_FILE)
    run = prepare(tiny_config(workdir, **{"data.num_val": 6}))
    note_trained_questions(run, "cot")
    after = np.load(workdir / "cot" / VALIDATION_FILE)
    np.testing.assert_array_equal(after, np.union1d(before, question_hashes(run.val.problems)))
    assert len(before) < len(after)


def test_a_stage_inherits_what_its_start_was_trained_on(tmp_path, finished):
    run = prepare(files_config(tmp_path, run="colar", **{"stages.colar.init_from": str(finished / "cot")}))
    note_trained_questions(run, "colar")
    inherited = read_trained_questions(finished / "cot")
    expected = np.union1d(question_hashes(run.train_problems), inherited)
    np.testing.assert_array_equal(read_trained_questions(run.workdir / "colar"), expected)
    # And a test set of this run that the start was trained on is refused before the first step.
    question = prepare(tiny_config(finished)).train_problems[0].question
    test = write_problems(tmp_path / "trained.jsonl", [question])
    settings = {"stages.colar.init_from": str(finished / "cot"), "data.test": f"t={test}"}
    other = prepare(files_config(tmp_path, run="colar", workdir=str(tmp_path / "other"), **settings))
    with pytest.raises(UserError, match="1 of the 1 questions of test set 't'"):
        note_trained_questions(other, "colar")


def test_a_run_of_before_is_a_warning(tmp_path, finished, caplog):
    workdir = copy_of(finished, tmp_path)
    for path in workdir.glob(f"*/{QUESTIONS_FILE}"):
        path.unlink()
    run = prepare(tiny_config(workdir), sets="tests")
    with caplog.at_level(logging.WARNING):
        assert refuse_trained_questions(run, "colar") == [
            "colar: it is not known whether test questions were trained on."
        ]
        note_trained_questions(prepare(tiny_config(workdir)), "colar")  # has checkpoints: what it had is not known
    assert "cannot be checked" in caplog.text and read_trained_questions(workdir / "colar") is None
    (workdir / "colar" / QUESTIONS_FILE).write_bytes(b"")
    with pytest.raises(UserError, match=f"{QUESTIONS_FILE} is damaged"):
        refuse_trained_questions(run, "colar")


def test_what_was_learned_before_an_import_stays_unknown(tmp_path):
    """Of a stage that goes on from it, what it is trained on itself is known; of one that starts from that, both."""
    run = prepare(files_config(tmp_path, run="cot"))
    adopt(run, "cot", run.initial_parameters())
    assert refuse_trained_questions(run, "cot") == ["cot: it is not known whether test questions were trained on."]
    note_trained_questions(run, "cot")
    trained = question_hashes(run.train_problems)
    np.testing.assert_array_equal(read_trained_questions(run.workdir / "cot"), trained)
    told = "it is not known whether test questions were trained on before it started."
    assert refuse_trained_questions(run, "cot") == [f"cot: {told}"]
    test = write_problems(tmp_path / "seen.jsonl", [problem.question for problem in run.train_problems[:4]])
    asked = prepare(files_config(tmp_path, run="cot", **{"data.test": f"seen={test}"}), sets="tests")
    with pytest.raises(UserError, match="4 of the 4 questions of test set 'seen' are among those .*/cot is trained on"):
        refuse_trained_questions(asked, "cot")
    note_trained_questions(run, "cot")  # it was killed before its first step
    assert refuse_trained_questions(run, "cot") == [f"cot: {told}"]

    later = {"run": "colar", "workdir": tmp_path / "later"}
    heir = prepare(files_config(tmp_path, **later | {"stages.colar.init_from": str(run.workdir / "cot")}))
    note_trained_questions(heir, "colar")
    np.testing.assert_array_equal(read_trained_questions(heir.workdir / "colar"), trained)
    assert refuse_trained_questions(heir, "colar") == [f"colar: {told}"]
    # It took no step, and starts from something else after all.
    note_trained_questions(prepare(files_config(tmp_path, **later)), "colar")
    assert refuse_trained_questions(heir, "colar") == []


def test_tests_alone_need_no_training_data(tmp_path):
    config = files_config(tmp_path)
    expected = prepare(config).tests["t"].problems
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "val.jsonl").unlink()
    run = prepare(config, sets="tests")
    assert run.tests["t"].problems == expected and not run.train_problems
    assert not prepare(config, sets="none").tests
    with pytest.raises(UserError, match="train.jsonl"):
        prepare(config)
