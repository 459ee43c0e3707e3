"""Speeds from lists and ranges, what a model is told of them, and where fractions begin."""

import dataclasses
import re

import numpy as np
import pytest
from data.test_loader import arithmetic, made_up
from scipy import stats

from colar_jax.data.grouping import group_of_token, num_groups
from colar_jax.data.layout import Supervision, lay_out_groups, sizes
from colar_jax.data.loader import Loader
from colar_jax.data.prompts import question_prompt
from colar_jax.data.recipe import Recipe, Told
from colar_jax.errors import UserError
from colar_jax.methods.colar import Colar
from colar_jax.methods.own_speed import OwnSpeed
from colar_jax.settings.speeds import AUTO_NUMBER, NO_NUMBER, SpeedRange, parse_trained_speeds

BANDS = "1..2.3,2.7..4.3,4.7..6"


def recipe_of(speeds: str, **settings) -> Recipe:
    return Colar(speeds=speeds, **settings).recipe


def draws(recipe: Recipe, size=20_000) -> np.ndarray:
    return recipe.draw(np.random.default_rng(0), size)[0]


def test_a_range_is_drawn_from_uniformly_in_the_logarithm():
    speeds = draws(recipe_of("1..6"))
    assert stats.kstest(np.log(speeds) / np.log(6), "uniform").pvalue > 1e-3
    assert speeds.min() >= 1 and speeds.max() <= 6
    np.testing.assert_array_equal(speeds, np.round(speeds, 2))


def test_bands_between_ranges_are_left_out():
    speeds = draws(recipe_of(BANDS))
    assert not ((speeds > 2.3) & (speeds < 2.7)).any() and not ((speeds > 4.3) & (speeds < 4.7)).any()
    sizes_of = [np.log(2.3), np.log(4.3 / 2.7), np.log(6 / 4.7)]
    counts = [((speeds >= low) & (speeds <= high)).sum() for low, high in ((1, 2.3), (2.7, 4.3), (4.7, 6))]
    assert stats.chisquare(counts, np.array(sizes_of) / sum(sizes_of) * len(speeds)).pvalue > 1e-3


def test_what_of_ranges_was_trained():
    recipe = recipe_of(BANDS, auto_probability=0.1)
    assert recipe.trained_speeds == (1.0, 2.0, 2.3, 2.7, 3.0, 4.0, 4.3, 4.7, 5.0, 6.0, "auto")
    trained, not_trained = (1, 1.37, 2.3, 4.7, 6, "auto"), (2.31, 2.5, 4.5, 6.01, 7, 1.0 - 1e-9)
    assert all(map(recipe.was_trained, trained)) and not any(map(recipe.was_trained, not_trained))
    assert not recipe_of(BANDS).was_trained("auto")
    of_list = recipe_of("1,2,5")
    assert of_list.was_trained(2.0) and not of_list.was_trained(3.0) and not of_list.was_trained(1.5)


def test_what_was_never_told_was_not_trained():
    in_text = recipe_of("1..6")
    assert in_text.was_trained(2.34) and not in_text.was_trained(2.345), "a prompt says two decimals"
    assert recipe_of("1..6", conditioning="number").was_trained(2.345)
    for speeds in ("1..6", "1,2"):
        always_auto = recipe_of(speeds, auto_probability=1.0)
        assert always_auto.was_trained("auto") and not always_auto.was_trained(2.0)
        assert always_auto.prompt_speeds == ("auto",)


def test_places_are_computed_of_two_decimals():
    on_timeline = dict(conditioning="number", timeline="tokens")
    assert recipe_of("1..6", **on_timeline).told(2.35).number == 2.35
    with pytest.raises(UserError, match=r"^speed=2\.346: where latents stand on the chain's timeline"):
        recipe_of("1..6", **on_timeline).told(2.346)
    assert recipe_of("1..6", conditioning="number").told(2.34567).number == 2.34567
    with pytest.raises(UserError, match=r"latent.speeds='1,1.0833' has 1.0833: .* at most 2 decimals"):
        recipe_of("1,1.0833", **on_timeline)
    with pytest.raises(UserError, match=r"own_speed.grid='1,1.2345' has 1.2345"):
        OwnSpeed(grid="1,1.2345", timeline="tokens")
    assert recipe_of("1,1.0833").speeds == (1.0, 1.0833)


def test_every_drawn_speed_can_be_said():
    recipe = recipe_of(BANDS)
    assert set(draws(recipe, 3000)) <= set(recipe.prompt_speeds)
    assert recipe_of("1..6", conditioning="number", auto_probability=0.5).prompt_speeds == ("",)


@pytest.mark.parametrize(
    ("conditioning", "of_speed", "of_auto"),
    [
        ("text", Told(1.5, NO_NUMBER), Told("auto", NO_NUMBER)),
        ("number", Told("", 1.5), Told("", AUTO_NUMBER)),
        ("both", Told(1.5, 1.5), Told("auto", AUTO_NUMBER)),
    ],
)
def test_what_a_model_is_told(conditioning, of_speed, of_auto):
    recipe = recipe_of("1,2", conditioning=conditioning)
    assert recipe.told(1.5) == recipe.told_of_drawn(1.5, False) == of_speed
    assert recipe.told("auto") == recipe.told_of_drawn(1.5, True) == of_auto
    assert Recipe((1.0,), prompt_speed="auto").told_of_drawn(1.0, False) == Told("auto", NO_NUMBER)


def test_a_prompt_that_says_nothing():
    assert question_prompt("Why?", "") == "Question: Why? Let's think step by step:"


@pytest.mark.parametrize("text", ["1..", "..3", "1..2..3", "3..2", "2..2", "a..b", "1..auto", "0.5..2", "1..inf"])
def test_what_is_no_range(text):
    with pytest.raises(
        UserError, match=rf"of latent.speeds='{re.escape(text)}' is (no range|no thinking|an empty range)"
    ):
        parse_trained_speeds("latent.speeds", text)


def test_numbers_and_ranges_are_not_mixed():
    assert parse_trained_speeds("latent.speeds", "2,1,2") == ((2.0, 1.0, 2.0), ())
    assert parse_trained_speeds("latent.speeds", "1..2, 3..4.5") == ((), (SpeedRange(1, 2), SpeedRange(3, 4.5)))
    with pytest.raises(UserError, match="beside ranges"):
        parse_trained_speeds("latent.speeds", "1..2,3")


def test_where_ranges_overlap_speeds_are_drawn_twice_as_often():
    recipe = recipe_of("1..4,2..4")
    speeds = draws(recipe)
    assert np.mean(speeds < 2) == pytest.approx(np.log(2) / np.log(8), abs=0.01)
    assert recipe.trained_speeds == (1.0, 2.0, 3.0, 4.0) and len(recipe.prompt_speeds) == 301


# Phases


@pytest.mark.parametrize(
    ("speed", "phase", "expected"),
    [
        (1.5, 0.0, [1, 2, 1, 2, 1, 2, 1, 1]),
        (1.5, 0.5, [2, 1, 2, 1, 2, 1, 2]),
        (2.5, 0.49, [2, 3, 2, 3, 1]),
        (2.5, 0.5, [3, 2, 3, 2, 1]),
        (3.0, 0.99, [3, 3, 3, 2]),
    ],
)
def test_a_phase_says_where_the_pattern_begins(speed, phase, expected):
    groups = group_of_token(11, speed, phase)
    assert np.bincount(groups).tolist() == expected and num_groups(11, speed, phase) == len(expected)


def test_groups_of_any_phase_hold_every_token_once():
    rng = np.random.default_rng(0)
    for speed, phase, count in zip(rng.uniform(1, 7, 300), rng.random(300), rng.integers(0, 60, 300), strict=True):
        groups = group_of_token(count, speed, phase)
        assert len(groups) == count and num_groups(count, speed, phase) == (groups[-1] + 1 if count else 0)
        lengths = np.bincount(groups)
        assert set(lengths[:-1]) <= {np.floor(speed), np.ceil(speed)} and (np.diff(groups) >= 0).all()


def test_sizes_are_those_of_the_layout():
    prompt, steps, answer = (np.arange(count, dtype=np.int32) for count in (4, 13, 3))
    for speed, phase in ((1.5, 0.7), (2.37, 0.9), (4.0, 0.3)):
        groups = group_of_token(13, speed, phase)
        laid_out = lay_out_groups(prompt, steps, answer, 0, groups, np.zeros(13), Supervision(latents=True))
        expected = sizes(*(np.array([count]) for count in (4, 13, 3)), np.array([speed]), np.array([phase]))
        assert len(laid_out.tokens_in_position_S) == expected.positions[0]
        assert len(laid_out.label_ids_M) == expected.supervised[0]


def test_the_phase_changes_nothing_of_whole_speeds():
    def batch(**settings):
        recipe = recipe_of("1,2,5", conditioning="both", **settings)
        return Loader(arithmetic(), recipe, seed=3, rows=4, row_positions=160).batch(5)

    one, other = batch(random_phase=True), batch(random_phase=False)
    for field in dataclasses.fields(one):
        if field.name != "phases_BS":
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def test_lists_in_text_alone_begin_at_the_start_of_their_pattern():
    """As every run of before had it."""
    rng = np.random.default_rng(0)
    assert not recipe_of("1.5,2.5").phases(rng, 5).any()
    for recipe in (
        recipe_of("1.5,2.5", conditioning="number"),
        recipe_of("1..6"),
        recipe_of("1..6", conditioning="both"),
    ):
        assert len(set(recipe.phases(rng, 5))) == 5
        fixed = dataclasses.replace(recipe, random_phase=False)
        assert set(fixed.phases(rng, 5)) == {0.25} and fixed.told_phase(0.25) == 0.25
    assert recipe_of("1..6", conditioning="both").told_phase(0.7) == 0.7
    assert recipe_of("1..6").told_phase(0.7) == 0.25  # text does not say it


def test_phases_are_drawn_for_each_example_and_epoch():
    encoded = made_up([(10, 30, 3)] * 8, (1.5,))
    recipe = recipe_of("1.5", conditioning="both")
    loader = Loader(encoded, recipe, seed=0, rows=1, row_positions=80)
    first = [_first_group(batch) for batch in _epoch(loader)]
    assert set(first) == {1, 2}
    batch = loader.batch(0)
    assert (batch.phases_BS[0, 10] >= 0.5) == (_first_group(batch) == 2) and batch.speeds_BS[0, 10] == 1.5
    assert first == [_first_group(batch) for batch in _epoch(loader)]


def _epoch(loader: Loader):
    return [loader.batch(step) for step in range(2 * loader.steps_per_epoch)]


def _first_group(batch) -> int:
    """How many tokens the first group of the first example has: after ten of the prompt and the separator."""
    return int((batch.token_positions_BT[0] == 11).sum())


def test_a_loader_of_ranges_has_room_for_its_slowest():
    recipe = dataclasses.replace(recipe_of("1.2..6"), supervise_latents=True)
    encoded = made_up([(20, 10 + i % 30, 3) for i in range(60)], recipe.prompt_speeds)
    loader = Loader(encoded, recipe, seed=0, rows=2, row_positions=128)
    assert loader.num_left_out == 0
    for step in range(3 * loader.steps_per_epoch):
        batch = loader.batch(step)
        assert batch.segment_ids_BS.shape == (2, 128)
    short = Loader(encoded, recipe, seed=0, rows=2, row_positions=20 + 1 + 20 + 3)
    is_short = num_groups(encoded.step_lengths, 1.2) <= 20
    assert short.num_left_out == (~is_short).sum()
