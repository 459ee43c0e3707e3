"""`Thinker.evaluate` measures what the evaluation of a run measures."""

import json
import logging
import shutil

import numpy as np
import pytest
from cases import fast

import colar_jax
from colar_jax.data.fingerprint import question_hashes
from colar_jax.errors import UserError
from colar_jax.exchange.folder import export_stage


@pytest.fixture(scope="module")
def problems(asked_run):
    return list(asked_run.tests["arithmetic"].problems)


def as_dict(problem):
    return {"question": problem.question, "steps": list(problem.steps), "answer": problem.answer}


@pytest.mark.parametrize("stage", fast(["colar", "cot"], "colar"))
def test_it_measures_what_a_run_measures(loaded, asked_run, problems, stage):
    model, encoded = loaded(stage), asked_run.tests["arithmetic"]
    speed = asked_run.trained_speeds(stage)[0]
    evaluator = asked_run.evaluator(stage, [encoded], (speed,))
    outcome = evaluator.run(model.parameters, encoded, speed, seed=None)
    (result,) = model.evaluate(problems)
    np.testing.assert_array_equal(result.right_SN, outcome.right_N[None])
    np.testing.assert_array_equal(result.lengths_SN, outcome.lengths_N[None])
    assert result.mean_of("cut_answer") == outcome.measured["cut_answer"].mean()
    assert (result.stage, result.dataset, result.sampling) == (stage, "problems", "greedy")
    assert (result.speed, result.thinks_in) == (("2", "latents") if stage == "colar" else ("-", "words"))
    interval = result.accuracy_over_questions
    assert interval.low <= interval.center <= interval.high and interval.center == outcome.accuracy


def test_right_answers_are_right(loaded, problems):
    """Judged against what the model says: every problem is right."""
    model = loaded("colar")
    said = model.generate([problem.question for problem in problems])
    given = [as_dict(problem) | {"answer": answer.answer} for problem, answer in zip(problems, said, strict=True)]
    readable = [problem for problem in given if problem["answer"].isdigit()]
    given = readable or [given[0] | {"answer": "0"}]
    (result,) = model.evaluate(given)
    assert result.right_SN.all() == bool(readable)


def test_problems_may_be_a_file(loaded, problems, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(as_dict(problem)) + "\n" for problem in problems))
    of_file, of_dicts = (loaded("colar").evaluate(given)[0] for given in (path, map(as_dict, problems)))
    np.testing.assert_array_equal(of_file.lengths_SN, of_dicts.lengths_SN)
    assert of_file.dataset == str(path) and of_file.num_questions == len(problems)
    (few,) = loaded("colar").evaluate(str(path), limit=2)
    assert few.num_questions == 2


def test_problems_may_say_more_than_is_read_or_no_steps(loaded, problems, caplog):
    given = [{"question": p.question, "answer": p.answer, "id": n} for n, p in enumerate(problems)]
    with caplog.at_level(logging.INFO):
        (result,) = loaded("colar").evaluate(given)
    assert result.num_questions == len(problems)
    assert "problems: a problem is question, steps and answer; not read: 'id'" in caplog.messages


def test_questions_that_the_stage_was_trained_on_say_nothing(asked_run, problems, tmp_path):
    copy = shutil.copytree(asked_run.workdir, tmp_path / "copy")
    np.save(copy / "colar" / "trained_questions.npy", np.sort(question_hashes(problems[1:2])))
    with pytest.raises(UserError, match="1 of the 4 questions of test set 'problems' are among those .* is trained on"):
        colar_jax.load(copy, "colar").evaluate(problems)
    allowed = colar_jax.load(copy, "colar", settings={"data.allow_overlap": True})
    assert allowed.evaluate(problems[:1])[0].num_questions == 1


def test_the_test_sets_are_those_of_the_run(loaded, asked_run, problems, tmp_path):
    ((name, own),) = loaded("colar").test_problems().items()
    assert (name, own) == ("arithmetic", problems)
    assert loaded("colar").test_problems(limit=2) == {"arithmetic": problems[:2]}
    encoded = loaded("colar").encode_problems(own, 2, "auto")
    assert len(encoded) == len(own) and set(encoded.tails) == {"2", "auto"}
    folder = export_stage(asked_run, "colar", tmp_path / "out")
    with pytest.raises(UserError, match="is an exported folder and knows no problems: bring your own"):
        colar_jax.load(folder).test_problems()
    assert colar_jax.load(folder).evaluate(problems)[0].num_questions == len(problems)


@pytest.mark.slow
def test_speeds_and_seeds(loaded, problems):
    results = loaded("colar").evaluate(problems, speeds=[2, "auto"], seeds=2)
    assert [(result.speed, result.sampling, result.num_seeds) for result in results] == [
        ("2", "greedy", 1),
        ("2", "sampled", 2),
        ("auto", "greedy", 1),
        ("auto", "sampled", 2),
    ]
    assert [result.was_trained for result in results] == [True, True, False, False]
    assert [result.speed for result in loaded("colar").evaluate(problems, speeds="2,2.0")] == ["2"]


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ([], {}, "there are no problems to evaluate"),
        ([{"question": "Tom?"}], {}, "problem 0: key 'steps' is missing, key 'answer' is missing"),
        ([{"question": "Tom?", "step": [], "answer": "1"}], {}, "problem 0: key 'steps' is missing; is it 'step'?"),
        (["Tom?"], {}, "problem 0: 'Tom\\?' is not an object"),
        ("nothing.jsonl", {}, "nothing.jsonl"),
        (5, {}, "problems is of type int: a list of problems is wanted"),
        ({"question": "Tom?"}, {}, "problems is of type dict"),
        (None, {"limit": 0}, "limit=0 is no number of problems"),
        (None, {"speeds": 0}, "speed=0 is no thinking speed"),
        (None, {"speeds": "fast"}, "'fast' is no thinking speed"),
        (None, {"speeds": []}, "speeds names none"),
        (None, {"speeds": ""}, "speeds names none"),
        (None, {"seeds": -1}, "seeds=-1 is no number of sampled decodes"),
    ],
)
def test_what_cannot_be_evaluated(loaded, problems, given, options, message):
    with pytest.raises(UserError, match=message):
        loaded("colar").evaluate(problems if given is None else given, **options)
