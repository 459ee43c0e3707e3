import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from colar_jax.data.fingerprint import comparable_question, problems_hash, question_hashes
from colar_jax.data.problems import Problem

PROBLEMS = [Problem("How many eggs?", ("<<1+1=2>>", "<<2+1=3>>"), "3"), Problem("Why?", (), "7")]


def asked(*questions):
    return [Problem(question, (), "1") for question in questions]


def test_the_hashes_are_pinned():
    """Checkpoints carry them."""
    assert problems_hash(PROBLEMS) == "73c0a948cc7015b1"
    assert question_hashes(PROBLEMS).tolist() == [6531957223417294397, 18295052560508969515]


def test_numbers_without_a_leading_zero_are_all_that_changed():
    """Checkpoints have hashes of before, when the dot of ".5" was left out; those of other questions stay."""
    asked_before = {
        "She pays $1,000.50, at 2:30.": "she pays $1,000.50 at 2:30",
        "3.5. Tom: 'How many?'... 5, or 6": "3.5 tom how many 5 or 6",
        "Each takes .5 hours.": "each takes .5 hours",
    }
    assert {question: comparable_question(question) for question in asked_before} == asked_before


def test_hashes_are_the_same_in_another_process():
    code = (
        "from colar_jax.data.fingerprint import *; from colar_jax.data.problems import Problem as P;"
        f"p = {[(p.question, p.steps, p.answer) for p in PROBLEMS]!r}; p = [P(*x) for x in p];"
        "print(problems_hash(p), question_hashes(p).tolist())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == f"{problems_hash(PROBLEMS)} {question_hashes(PROBLEMS).tolist()}"


@pytest.mark.parametrize(
    "other",
    [
        PROBLEMS[::-1],
        PROBLEMS[:1],
        [*PROBLEMS, PROBLEMS[1]],
        [PROBLEMS[0], Problem("why?", (), "7")],
        [PROBLEMS[0], Problem("Why?", (), "7.0")],
        [PROBLEMS[0], Problem("Why?", ("",), "7")],
        [Problem("How many eggs?", ("<<1+1=2>><<2+1=3>>",), "3"), PROBLEMS[1]],
        [Problem("How many eggs?", ("<<2+1=3>>", "<<1+1=2>>"), "3"), PROBLEMS[1]],
        [],
    ],
)
def test_any_change_of_the_problems_changes_their_hash(other):
    assert problems_hash(other) != problems_hash(PROBLEMS)


TEXTS = st.text(st.characters(codec=None))  # lone surrogates too


@given(st.lists(st.tuples(TEXTS, st.lists(TEXTS), TEXTS)), st.lists(st.tuples(TEXTS, st.lists(TEXTS), TEXTS)))
def test_two_lists_have_one_hash_only_if_they_are_the_same(one, other):
    made = [[Problem(question, tuple(steps), answer) for question, steps, answer in of] for of in (one, other)]
    assert (problems_hash(made[0]) == problems_hash(made[1])) is (made[0] == made[1])
    question_hashes(made[0])


def test_question_hashes_are_sorted_and_each_there_once():
    hashes = question_hashes(asked("b", "A", " a.", "c"))
    assert hashes.dtype == np.uint64
    assert len(hashes) == 3 and (np.diff(hashes) > 0).all()
    assert len(np.intersect1d(hashes, question_hashes(asked("a", "x")))) == 1
    assert question_hashes([]).dtype == np.uint64 and len(question_hashes([])) == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hello! How are you?", "hello how  are you"),
        ("“Tom's dog”, he said.", "tom s dog he said"),
        ("What is 5?", "what is 5"),
        ("There are 5. How many?", "There are 5: how many"),
        ("Hello!!", "hello"),
        ("wow!5", "wow 5"),
        ("'a'", "a"),
        ("It is 5, 6 or 7.", "it is 5 6 or 7"),
        ("Wait...5 of them?", "wait 5 of them"),
        ("5..6", "5 6"),
        ("Is it Tom's?5 or (6).5 more left.5 came", "is it tom s 5 or (6) 5 more left 5 came"),
        ("He has 3 pens ,5 books", "he has 3 pens, 5 books"),
        ("What is 1,.5?", "what is 1, .5"),
    ],
)
def test_the_same_question(one, other):
    assert comparable_question(one) == comparable_question(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 5!?", "What is 5?"),
        ("5!", "5"),
        ("5!!", "5!"),
        ("What is n! for n = 3", "What is n for n = 3"),
        ("(2+1)!", "(2+1)"),
        ("What is 3.5 + 1?", "What is 3 5 + 1?"),
        ("f(1,5)", "f(1.5)"),
        ("What is .5 of 10?", "What is 5 of 10?"),
        ("It costs $.50.", "It costs $ 50."),
        (".5 of 10", "5 of 10"),
        ("f(.5)", "f( 5)"),
        ("x = -.5", "x = - 5"),
        ("1 or .5", "1 or 5"),
        ("What is 1,.5?", "What is 1, 5?"),
        ("at 2:30", "at 2.30"),
        ("f'(2)", "f(2)"),
        ("3 + 4", "3 - 4"),
        ("3! + 4", "3 + 4"),
    ],
)
def test_two_questions(one, other):
    assert comparable_question(one) != comparable_question(other)
