"""The questions in the docs: each is one of the list, each answer is right, and a trained demo model gives it."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from demo_model import make_demo_run
from exchange.small_card import small_card

from colar_jax.data.arithmetic import (
    END,
    LARGEST_FACTOR,
    NAMES,
    PHRASES,
    SMALLEST_FACTOR,
    START,
    THINGS,
    calculate,
    split_of,
    vocabulary,
)
from colar_jax.data.example_questions import EXAMPLE, EXAMPLES

ROOT = Path(__file__).parents[1]
HOME = ROOT / "colar_jax" / "data" / "example_questions.py"
READ_BY_STRANGERS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "notebooks/*.ipynb", "configs/*.py", "launch/*", "colar_jax/**/*.py")
    for path in ROOT.glob(pattern)
    if path != HOME and path.is_file()
)

# What the demo model was trained on (configs/arithmetic.py:two_speeds), and what README's first run is.
MAX_NUMBER, MAX_CHANGE, NUM_STEPS = 50, 20, range(3, 6)
MAIN_NUMBER, MAIN_CHANGE, MAIN_STEPS = 20, 9, (1, 6)

PLACES = {"name": "|".join(NAMES), "He": "He|She", "he": "he|she", "things": r"\w+", "n": r"\d+"}


def pattern_of(template: str) -> re.Pattern:
    """A sentence of the embedded problems as a pattern; `{n}` is a group."""
    text = re.escape(template)
    for place, words in PLACES.items():
        text = text.replace(re.escape(f"{{{place}}}"), rf"(?P<n>{words})" if place == "n" else f"(?:{words})")
    return re.compile(text)


def chain_of(question: str):
    """The chain that a question tells, read sentence by sentence."""
    sentences = re.findall(r"[^.?]+[.?]", question)
    first = pattern_of(START).fullmatch(sentences[0].strip())
    assert first and pattern_of(END).fullmatch(sentences[-1].strip()), question
    operations = []
    for sentence in sentences[1:-1]:
        told = [
            (operator, int(match["n"]))
            for operator, phrases in PHRASES.items()
            for phrase in phrases
            if (match := pattern_of(phrase).fullmatch(sentence.strip()))
        ]
        assert len(told) == 1, sentence
        operations += told
    return int(first["n"]), tuple(operations)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.answer)
def test_the_answer_is_what_the_sentences_come_to(example):
    value, operations = chain_of(example.question)
    steps = []
    for operator, operand in operations:
        result = calculate(value, operator, operand)
        assert operator != "/" or result * operand == value, "a division without remainder"
        steps.append(f"<<{value}{operator}{operand}={result}>>")
        value = result
    assert (tuple(steps), str(value)) == (example.steps, example.answer)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.answer)
def test_the_demo_model_was_taught_such_problems_but_not_this_one(example):
    start, operations = chain_of(example.question)
    values = [start, *(int(step.split("=")[1].rstrip(">")) for step in example.steps)]
    most, change = min(MAX_NUMBER, MAIN_NUMBER), min(MAX_CHANGE, MAIN_CHANGE)
    assert len(operations) in NUM_STEPS and max(values) <= most and min(values) >= 1
    for operator, operand in operations:
        assert SMALLEST_FACTOR <= operand <= LARGEST_FACTOR if operator in "*/" else 1 <= operand <= change
    assert set(re.findall(r"[A-Za-z]+", example.question)) <= set(vocabulary())
    assert split_of((start, operations)) == "test"


def test_they_are_of_all_lengths_and_no_two_are_the_same():
    assert {len(example.steps) for example in EXAMPLES} == set(NUM_STEPS)
    assert len({example.question for example in EXAMPLES}) == len(EXAMPLES)


def text_of(path: Path) -> str:
    """What is written in a file; of a notebook its cells, without what they printed."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])


def questions_in(text: str) -> list[str]:
    """What a text asks: stories of the embedded kind, and what it gives to a command or a function as a question."""
    # One line: strings of a notebook (JSON) and of Python may go on on the next one.
    text = re.sub(r'\\n",?\s*"|"\s*\n\s*"|\s+', " ", text.replace('\\"', '"'))
    stories = re.findall(rf"\b(?:{'|'.join(NAMES)}) has \d+ [^?|`]*\bHow many[^?\"]*\?", text)
    given = re.findall(r'(?:--question[= ]|colar_torch\.py |\.answer\(|\.ask\(|question = )"([^"]*)"', text)
    # Not a question: an ellipsis, a place to fill in, a variable of the shell or of Python.
    return stories + [question for question in given if not re.fullmatch(r"\.\.\.|\$.*|[{<].*[}>]|", question)]


def test_every_question_in_the_docs_is_in_the_list():
    known = {example.question for example in EXAMPLES}
    others = {
        str(path.relative_to(ROOT)): unknown
        for path in READ_BY_STRANGERS
        if (unknown := [question for question in questions_in(text_of(path)) if question not in known])
    }
    assert not others, "no test answers these: take one of colar_jax/data/example_questions.py"


@pytest.mark.parametrize(
    "text",
    [
        'python -m colar_jax.generate --question="What is 2 + 2?"',
        'python -m colar_jax.generate --question "What is 2 + 2?"',
        'python colar_torch.py "What is 2 + 2?" --speed 2',
        'reasoner.answer("What is 2 + 2?", speed=2)',
        '"question = \\"What is 2 + 2?\\"\\n",',
        "Tom has 8 shells. They grow 3 times. How many shells now?",
        '"Tom has 8 shells. "\n    "They grow 3 times. How many shells now?"',
        "Tom has 8 shells. They grow\n3 times. How many shells now?",
    ],
)
def test_a_new_question_is_found_however_it_is_written(text):
    assert questions_in(text)


@pytest.mark.parametrize(
    "name",
    [
        *("README.md", "docs/inspect.md", "docs/base_models.md", "docs/data.md"),
        *("colar_jax/exchange/colar_torch.py", "colar_jax/data/arithmetic.py"),
    ],
)
def test_the_pages_that_show_an_example_are_looked_at(name):
    assert ROOT / name in READ_BY_STRANGERS and questions_in(text_of(ROOT / name))


def test_the_model_card_asks_an_example():
    card = small_card()
    assert questions_in(card) and set(questions_in(card)) == {EXAMPLE.question}


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory) -> Path:
    """The folder of the README's run: `COLAR_DEMO_RUN`, or one whose `colar` stage is the model in tests/golden."""
    if os.environ.get("COLAR_DEMO_RUN"):
        return Path(os.environ["COLAR_DEMO_RUN"])
    return make_demo_run(tmp_path_factory.mktemp("demo") / "run")


@pytest.mark.slow
def test_the_demo_model_answers_them(demo_run):
    command = [sys.executable, "-m", "colar_jax.generate", f"--workdir={demo_run}", "--stage=colar", "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    asked = "\n".join(example.question for example in EXAMPLES)
    done = subprocess.run(command, input=asked, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert [reply["speed"] for reply in replies] == ["2"] * len(EXAMPLES), "the one that is taken without --speed"
    assert [reply["question"] for reply in replies] == [example.question for example in EXAMPLES]
    assert [reply["prediction"] for reply in replies] == [example.answer for example in EXAMPLES]


def test_the_readme_shows_every_sentence_that_the_demo_model_knows():
    """In its first screen; and the numbers that the problems are made of."""
    first_screen = (ROOT / "README.md").read_text(encoding="utf-8").split("## What comes out")[0]
    shown = re.findall(r"`([^`\n]+)`", first_screen)
    for template in (START, END, *(phrase for phrases in PHRASES.values() for phrase in phrases)):
        assert any(pattern_of(template).fullmatch(text) for text in shown), template
    words = set(re.findall(r"\w+", first_screen))
    assert words >= {*NAMES, *THINGS}
    text = " ".join(first_screen.split())
    assert f"whole numbers from 1 to {MAIN_NUMBER}" in text and f"adds and subtracts up to {MAIN_CHANGE}" in text
    assert f"multiplies and divides by {SMALLEST_FACTOR} to {LARGEST_FACTOR}" in text
    config = runpy.run_path(str(ROOT / "configs" / "arithmetic.py"))["get_config"]()
    few, many = (("one", "two", "three", "four", "five", "six")[number - 1] for number in MAIN_STEPS)
    assert f"problems of {few} to {many} operations" in text
    numbers = f"max_number={MAIN_NUMBER},max_change={MAIN_CHANGE}"
    source = f"arithmetic:{numbers},min_steps={MAIN_STEPS[0]},max_steps={MAIN_STEPS[1]}"
    assert config.data.train == source, "what README says depends on it"
