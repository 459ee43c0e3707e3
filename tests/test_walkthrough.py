"""docs/walkthrough.md names what is there, and its numbers are those of its example."""

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from colar_jax.data.encoding import encode
from colar_jax.data.example_questions import EXAMPLE
from colar_jax.data.layout import Supervision, lay_out
from colar_jax.data.records import parse_problem
from colar_jax.data.tokenizers import EMBEDDED, load_tokenizer

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "walkthrough.md").read_text(encoding="utf-8")
STOPS = re.findall(r"^### (\d+)\. `(colar_jax/[\w/]+\.py)`: `([\w.]+)`$", TEXT, re.MULTILINE)


def named(file: str, name: str):
    """What a file of the package calls by this name; an error where there is none."""
    value = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    for part in name.split("."):
        value = getattr(value, part)
    return value


def test_there_are_at_most_twelve_stops():
    assert [int(number) for number, _, _ in STOPS] == list(range(1, len(STOPS) + 1)) and 8 < len(STOPS) <= 12
    assert len(STOPS) == TEXT.count("\n### "), "a stop is written as the others are"


@pytest.mark.parametrize(("number", "file", "name"), STOPS)
def test_every_stop_is_there(number, file, name):
    assert callable(named(file, name))


def test_every_file_that_is_named_is_there():
    files = set(re.findall(r"colar_jax/[\w/]+\.py", TEXT))
    assert len(files) > len(STOPS)
    for file in files:
        assert (ROOT / file).is_file(), file


def test_every_other_name_is_a_word_of_the_package():
    """Names in backticks with an underscore in them: arrays, fields and functions."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "colar_jax").rglob("*.py"))
    names = set(re.findall(r"`([A-Za-z]\w*_\w+)`", TEXT))
    assert len(names) > 10
    assert not [name for name in names if not re.search(rf"\b{name}\b", source)]


def test_the_numbers_are_those_of_the_example():
    example = json.loads(re.search(r"```json\n(.*?)```", TEXT, re.DOTALL)[1])
    problem = parse_problem(example)
    assert problem == EXAMPLE
    tokenizer = load_tokenizer(EMBEDDED)
    encoded = encode([problem], tokenizer, (2.0, 5.0))
    prompt, steps, answer = encoded.prompt(0, 2.0), encoded.steps[0], encoded.answers[0]
    layout = lay_out(prompt, steps, answer, encoded.separator_id, 2.0, np.zeros(len(steps)), Supervision(latents=True))
    num_groups = int((layout.tokens_in_position_S == 2).sum() + 1)
    text = " ".join(TEXT.split())
    for said in (
        f"has {len(prompt)} tokens, the steps have {len(steps)}",
        f"the answer has {len(answer)} (`Answer:`",
        f"the last of the {num_groups} groups has one token",
        f"{len(layout.token_ids_T)} tokens, `token_ids_T`, lie in {len(layout.tokens_in_position_S)} positions: "
        f"{len(prompt)} prompt, `###`, {num_groups} groups, `###`, {len(answer) - 1} answer tokens",
        f"{len(layout.label_ids_M)} positions predict something",
        f"marks the {layout.latent_mask_M.sum()} where",
    ):
        assert said in text, said
