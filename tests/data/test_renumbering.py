"""New numbers for known problems: what is changed, what is left, and that every equation still comes out."""

import dataclasses
import json
import random
from fractions import Fraction
from pathlib import Path

import pytest

from colar_jax.data.equations import parse_step, worked_out
from colar_jax.data.fingerprint import comparable_question
from colar_jax.data.implied_numbers import implied_numbers
from colar_jax.data.number_mentions import mentions_of
from colar_jax.data.problems import Problem
from colar_jax.data.renumbering import NEW_NUMBERS, renumber, renumbered, template_of
from colar_jax.data.sources import load_problems
from colar_jax.data.splits import load_splits
from colar_jax.errors import UserError
from colar_jax.settings import DataConfig

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="the real files lie in ../shared/data")

CLIPS = Problem("Ann sold 48 clips in April and half as many in May. How many?", ("<<48/2=24>>", "<<48+24=72>>"), "72")


def assert_comes_out(problem: Problem) -> None:
    """Every equation is right, exactly; the last one's result is the answer."""
    for step in problem.steps:
        equation = parse_step(step)
        assert equation is not None, problem
        assert worked_out(equation.left) == Fraction(equation.result) > 0
    assert equation.result == problem.answer


def test_all_numbers_of_one_value_change_together():
    new = renumber(template_of(CLIPS), random.Random(0))
    (number,) = (int(mention.value) for mention in mentions_of(new.question))
    assert number != 48 and number % 2 == 0
    assert new.steps == (f"<<{number}/2={number // 2}>>", f"<<{number}+{number // 2}={number * 3 // 2}>>")
    assert_comes_out(new)
    assert new == renumber(template_of(CLIPS), random.Random(0)) != renumber(template_of(CLIPS), random.Random(1))


NUTS = "Tom has 5 nuts and 3 keys. How many?"


@pytest.mark.parametrize(
    ("question", "steps", "free", "why"),
    [
        (
            "Tom has 5 nuts and 3 keys. How many in 8 boxes?",
            ("<<5+3=8>>", "<<8*5=40>>"),
            None,
            "8 is a result and is said",
        ),
        ("Tom has 5 nuts. How many with those of Ann?", ("<<5+9=14>>",), None, "nothing says 9"),
        ("Tom has 5 nuts for 2 weeks, twice a day. How many?", ("<<5*2=10>>",), {5: None}, "2 may be that of twice"),
        (
            "One hundred and twenty seats in 20 rows. How many in 3 such rows?",
            ("<<20*3=60>>",),
            {3: None},
            "the twenty is a part of another number, so 20 stays",
        ),
        (NUTS, ("<<5+3=9>>",), None, "it does not come out"),
        (NUTS, ("5 and 3 are 8",), None, "no equation"),
        (NUTS, (), None, "no step"),
        (NUTS, ("<<3-5=-2>>",), None, "below zero"),
        (NUTS, ("<<5+3=8>>",), {3: None, 5: None}, "all of it is known"),
    ],
)
def test_what_is_not_known_for_sure_is_left_alone(question, steps, free, why):
    answer = steps[-1].rpartition("=")[2].removesuffix(">>") if steps else "8"
    template = template_of(Problem(question, steps, answer))
    assert (template and template.free) == free, why


def test_an_answer_that_no_equation_gives_is_left_alone():
    assert template_of(Problem("Tom has 5 nuts and 3 keys. How many?", ("<<5+3=8>>",), "9")) is None


@pytest.mark.parametrize("answer", ["1/0", "1e999999999", "8e0", "eight", "", "9" * 5000, "8 coins"])
def test_an_answer_that_is_no_number_in_digits_is_left_alone(answer):
    """None of them ends the program, or takes its memory."""
    problem = Problem("Tom has 5 nuts and 3 keys. How many?", ("<<5+3=8>>",), answer)
    assert template_of(problem) is None and template_of(dataclasses.replace(problem, answer="8.0")) is not None


def test_a_number_that_is_no_count_stays():
    text = "On the 3rd of May 2019, at 7:30, 2/5 of 20% of the 1,200 eggs, two-thirds of 45, one egg, a 4x4 and 16GB."
    free = {mention.value: mention for mention in mentions_of(text) if not mention.is_fixed}
    assert set(free) == {20, 1200, 45} and free[Fraction(20)].hundredths and not free[Fraction(45)].hundredths


def test_numbers_are_written_as_the_old_ones_were():
    question = "Twelve boys pay $1,500 each, or $2.50 more, at 20% off, 5 days a week."
    steps = ("<<12*1500=18000>>", "<<18000*.20=3600>>", "<<3600+2.50=3602.50>>", "<<3602.50*5=18012.50>>")
    template = template_of(Problem(question, steps, "18012.50"))
    assert template.free == {Fraction(5, 2): None, 5: 7, 12: None, 20: None, 1500: None}
    for seed in range(20):
        new = renumber(template, random.Random(seed))
        assert_comes_out(new)
        word, _, rest = new.question.partition(" ")
        assert word[0].isupper() and word.replace("-", "").isalpha() and rest.startswith("boys pay $")
        thousands, _, rest = rest.removeprefix("boys pay $").partition(" each, or $")
        assert thousands.endswith("00") and ("," in thousands) == (len(thousands) > 3)
        money, _, rest = rest.partition(" more, at ")
        assert len(money.partition(".")[2]) == 2
        percent, _, rest = rest.partition("% off, ")
        assert int(percent) % 5 == 0 and int(percent) <= 95
        assert 2 <= int(rest.removesuffix(" days a week.")) <= 7


def test_passes_over_the_source_and_what_cannot_be_changed():
    other = Problem("How many?", ("<<5+9=14>>",), "14")
    problems = renumbered([CLIPS, other], 7)
    assert problems[:2] == [CLIPS, other] and [p for p in problems if p == other] == [other] * 3
    assert len({p.question for p in problems}) == 5, "new numbers in each pass"
    assert [p.place.endswith(NEW_NUMBERS) for p in problems] == [False, False, True, False, True, False, True]
    assert renumbered([CLIPS, other], 5) == problems[:5], "a longer list begins with the shorter one"
    assert renumbered([CLIPS, other], 1) == [CLIPS]


def write(path: Path, problems) -> None:
    lines = [json.dumps({"question": p.question, "steps": list(p.steps), "answer": p.answer}) for p in problems]
    path.write_text("\n".join(lines) + "\n")


def test_a_run_trains_on_new_numbers_and_never_on_a_test_question(tmp_path):
    write(tmp_path / "train.jsonl", [CLIPS])
    twins = renumbered([CLIPS], 4)[1:]
    write(tmp_path / "val.jsonl", twins[:1])
    write(tmp_path / "test.jsonl", twins[1:2])
    splits = load_splits(DataConfig(train=f"renumbered:{tmp_path}", train_limit=4))
    assert splits.val == twins[:1] and splits.tests == {tmp_path.name: twins[1:2]}
    assert splits.train == [CLIPS, twins[2]]


def test_what_a_longer_evaluation_would_ask_is_not_trained_on_either(tmp_path):
    """The first problems of a set are tested, all of it later by another `data.num_test`."""
    write(tmp_path / "train.jsonl", [CLIPS])
    twins = renumbered([CLIPS], 5)[1:]
    other = [dataclasses.replace(CLIPS, question=f"{CLIPS.question} {name}") for name in "ab"]
    write(tmp_path / "val.jsonl", [other[0], twins[0]])
    write(tmp_path / "test.jsonl", [other[1], twins[1]])
    splits = load_splits(DataConfig(train=f"renumbered:{tmp_path}", train_limit=5, num_val=1, num_test=1))
    assert splits.val == other[:1] and splits.tests == {tmp_path.name: other[1:]}
    assert splits.train == [CLIPS, *twins[2:]]


def test_a_file_keeps_its_held_out_problems(tmp_path):
    numbered = [Problem(f"{CLIPS.question} {name}", CLIPS.steps, "72") for name in "abcdefghij"]
    write(tmp_path / "all.jsonl", numbered)
    source = f"renumbered:{tmp_path}/all.jsonl"
    splits = load_splits(DataConfig(train=source, held_out=1, train_limit=20))
    assert splits.train[:8] == numbered[:8] and len(splits.train) == 20
    assert splits.val == numbered[8:9] and splits.tests == {"test": numbered[9:]}
    asked = {comparable_question(p.question) for p in (*splits.val, *numbered[9:])}
    assert not asked & {comparable_question(p.question) for p in splits.train}
    with pytest.raises(UserError, match="data.train_limit must say how many"):
        load_splits(DataConfig(train=source))
    with pytest.raises(UserError, match="data.train_limit must say how many"):
        load_problems(source, "train")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("renumbered:", "name a file, a folder or hub"),
        ("renumbered:arithmetic", "name a file, a folder or hub"),
        ("renumbered:renumbered:x", "name a file, a folder or hub"),
        ("renumbered:/no", "'/no' is no file"),
        ("equations:", "name a file, a folder or hub"),
        ("equations:arithmetic", "name a file, a folder or hub"),
        ("equations:renumbered:x", "it is renumbered:equations:"),
        ("renumbered:equations:/no", "'/no' is no file"),
    ],
)
def test_a_source_that_cannot_be_is_one_sentence(source, message):
    with pytest.raises(UserError, match=message):
        load_problems(source, "train", limit=5)


# Worked solutions in words, as GSM8K's own.

WORDS = Problem(
    CLIPS.question, ("In May she sold 48/2 = <<48/2=24>>24 clips.", "So 48+24 = <<48+24=72>>72 in all."), "72"
)


def test_of_a_worked_solution_its_equations_can_be_taken_alone(tmp_path):
    for split in ("train", "val", "test"):
        write(tmp_path / f"{split}.jsonl", [dataclasses.replace(WORDS, question=f"{WORDS.question} {split}")])
    for split in ("train", "val", "test"):
        [problem] = load_problems(f"equations:{tmp_path}", split)
        assert (problem.steps, problem.answer) == (CLIPS.steps, "72")
    splits = load_splits(DataConfig(train=f"renumbered:equations:{tmp_path}", train_limit=3))
    assert splits.train[0].steps == splits.val[0].steps == splits.tests[tmp_path.name][0].steps == CLIPS.steps
    assert len({problem.question for problem in splits.train}) == 3
    assert_comes_out(splits.train[2])


def test_a_single_file_of_equations_keeps_its_held_out_problems(tmp_path):
    numbered = [dataclasses.replace(WORDS, question=f"{WORDS.question} {name}") for name in "abcdefghij"]
    write(tmp_path / "all.jsonl", numbered)
    for prefix in ("equations:", "renumbered:equations:"):
        splits = load_splits(DataConfig(train=f"{prefix}{tmp_path}/all.jsonl", held_out=1, train_limit=8))
        asked = [problem.question for problem in (*splits.train, *splits.val, *splits.tests["test"])]
        assert asked == [problem.question for problem in numbered]
        assert {problem.steps for problem in (*splits.train, *splits.val)} == {CLIPS.steps}


def test_what_could_never_be_renumbered_is_refused_and_told_how(tmp_path):
    write(tmp_path / "train.jsonl", [WORDS])
    with pytest.raises(UserError, match="none of 1 problems can be given new numbers.*write renumbered:equations:"):
        load_problems(f"renumbered:{tmp_path}", "train", limit=2)
    write(tmp_path / "train.jsonl", [dataclasses.replace(WORDS, steps=("Half of it is gone.",))])
    with pytest.raises(UserError, match="equations:.*': no step of split 'train' has a mark <<...>>"):
        load_problems(f"equations:{tmp_path}", "train")


@needs_shared
def test_gsm8k_has_the_equations_that_icot_trained_on():
    """As iCoT's authors took them out of GSM8K's solutions: the same, problem by problem."""
    taken = [problem for split in ("train", "val") for problem in load_problems(f"equations:{SHARED}/gsm8k", split)]
    ours = {problem.question.strip(): (problem.steps, problem.answer) for problem in taken}
    for problem in load_problems(str(SHARED / "gsm8k_eq"), "train"):
        assert ours[problem.question.strip()] == (problem.steps, problem.answer)


@pytest.mark.slow
@needs_shared
def test_three_in_five_of_gsm8k_can_be_renumbered_and_all_of_them_come_out():
    problems = load_problems(str(SHARED / "gsm8k_eq"), "train")
    templates = [template_of(problem) for problem in problems]
    new = [renumber(template, random.Random(i)) for i, template in enumerate(templates) if template is not None]
    share = sum(problem is not None for problem in new) / len(problems)
    assert share > 0.6, share
    for problem in random.Random(0).sample([problem for problem in new if problem is not None], 200):
        assert_comes_out(problem)
        # Every number of a step is in the new question, is meant by a word of it, or came out of an earlier step.
        said = {mention.value for mention in mentions_of(problem.question)}
        known = said | {value / 100 for value in said} | set(implied_numbers(problem.question))
        for step in map(parse_step, problem.steps):
            assert all(Fraction(number) in known for number in step.literals), problem
            known.add(Fraction(step.result))
