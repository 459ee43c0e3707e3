"""Chains that reflect, the segments of a chain, and questions about them for a judge."""

import random
import re
from collections import Counter

import pytest

from colar_jax.data.arithmetic import generate_problems
from colar_jax.data.problems import Problem
from colar_jax.data.prompts import steps_text
from colar_jax.data.reflections import reflecting
from colar_jax.data.segment_judging import judge_problems
from colar_jax.data.segments import last_sentences, reflections, split_segments
from colar_jax.data.tokenizers import load_tokenizer
from colar_jax.errors import UserError

CUES = ("Wait", "But")
KIND = dict(max_number=20, max_change=9, min_steps=2, max_steps=4)


def problems(count=400, **kind):
    return generate_problems("train", count, **KIND | {"max_reflections": 3, "slip_percent": 25} | kind)


def statements(problem) -> list[str]:
    return re.findall(r"^So (\d+)\.$", steps_text(problem.steps), re.MULTILINE)


def test_the_problems_are_the_same_ones_with_reflections():
    plain = generate_problems("train", 400, **KIND)
    for problem, same in zip(problems(), plain, strict=True):
        assert (problem.question, problem.answer) == (same.question, same.answer)
        assert problem.needed_steps == same.steps


def test_a_chain_ends_on_the_right_answer_and_only_the_first_may_be_wrong():
    found = Counter()
    for problem in problems():
        first, *others = statements(problem)
        assert all(said == problem.answer for said in others)
        assert others or first == problem.answer
        found[len(others)] += 1
        found["slips"] += first != problem.answer
    assert set(range(4)) < found.keys() and 0.15 < found["slips"] / 400 < 0.35


def test_segments_put_together_are_the_text_and_begin_with_cues():
    num_doubts = 0
    for problem in problems():
        text = steps_text(problem.steps)
        segments = split_segments(text, CUES, "line")
        assert "".join(segments) == text
        assert all(segment.startswith(CUES) for segment in segments[1:])
        stating = [segment for segment in segments if "So " in segment]
        assert len(stating) == len(statements(problem))
        num_doubts += len(segments) - len(stating)
    assert num_doubts > 100


@pytest.mark.parametrize(
    ("text", "place", "found"),
    [
        ("Wait, no.\nBut then.", "line", ["But"]),  # what begins a text reflects on nothing
        ("a\nButter is. \n  Wait, b", "line", ["Wait"]),
        ("a\nWait", "line", []),  # it may become a longer word
        ("a\nWait b\n\nBut c", "blank_line", ["But"]),
        ("a. Wait, b", "line", []),
    ],
)
def test_what_begins_a_reflection(text, place, found):
    assert [re.match(r"\w+", text[start:])[0] for start in reflections(text, CUES, place)] == found


def test_the_last_sentences_of_a_segment():
    text = "First this. Then 3.5 that!\n\nSo it is.\n"
    assert last_sentences(text, 2) == "Then 3.5 that!\nSo it is."
    assert last_sentences(text, 9).count("\n") == 2
    assert last_sentences("", 2) == ""


def test_chains_and_questions_about_them_are_read_back_exactly():
    tokenizer = load_tokenizer("embedded:reflections")
    made = problems()
    texts = [steps_text(problem.steps) for problem in made]
    texts += [problem.question for problem in judge_problems(made, CUES, "line", 2, seed=0)]
    for text in texts:
        ids = tokenizer.encode(text)
        assert tokenizer.hf.unk_token_id not in ids
        assert tokenizer.encode(tokenizer.decode(ids)) == ids


def test_a_judge_learns_both_questions_and_both_answers_and_labels_are_right():
    made = judge_problems(problems(600), CUES, "line", 2, seed=0)
    kinds = Counter((problem.question.split()[0], problem.answer) for problem in made)
    assert kinds.keys() == {(kind, said) for kind in ("States", "Same") for said in ("Yes", "No")}
    assert sorted(kinds.values()) == [100, 100, 200, 200]
    for problem in made:
        said = re.findall(r"^So (\d+)\.$", problem.question, re.MULTILINE)
        if problem.question.startswith("States"):
            assert (len(said) == 1) == (problem.answer == "Yes")
        else:
            assert (said[0] == said[1]) == (problem.answer == "Yes")


def test_what_cannot_be_judged_or_made_is_one_line():
    with pytest.raises(UserError, match="no chain of the training problems says an answer"):
        judge_problems(generate_problems("train", 4), CUES, "line", 2, seed=0)
    reflections = ({"slip_percent": 101}, {"max_reflections": -1}, {"max_reflections": 0})
    for wrong in (*reflections, {"step_tokens": 8}, {"max_fillers": 2}):
        with pytest.raises(UserError, match=r"slip_percent|set max_reflections|step_tokens and max_fillers are"):
            problems(4, **wrong)


def test_a_slip_is_near_and_never_the_answer():
    for seed in range(50):
        lines = reflecting(["<<1+1=2>>"], random.Random(seed), 0, 100, 3)
        assert lines[0] in ("<<1+1=1>>", "<<1+1=3>>") and lines[-1] == "So 2."


def test_a_judge_learns_from_what_it_reads():
    """A chain may go on after its answer, so that the sentences at its end say none."""
    going_on = Problem("Q?", ("<<1+1=2>>", "So 2.", "That is it."), "2")
    ending = Problem("R?", ("<<2+3=5>>", "So 5."), "5")
    for sentences, count in ((1, 4), (2, 8)):
        assert len(judge_problems([going_on, ending] * 4, CUES, "line", sentences, seed=0)) == count
