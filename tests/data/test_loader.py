import dataclasses
import functools
import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from colar_jax.data.arithmetic import generate_problems
from colar_jax.data.encoding import EncodedProblems, encode
from colar_jax.data.grouping import group_of_token
from colar_jax.data.loader import Loader, Recipe
from colar_jax.data.packing import Batch
from colar_jax.data.prompts import speed_text
from colar_jax.data.tokenizers import EMBEDDED, load_tokenizer
from colar_jax.errors import UserError

GSM8K_LENGTHS = Path(__file__).parents[2] / "benchmarks" / "gsm8k_lengths.json"
SPEEDS = (1.0, 1.5, 2.0, 5.0)
MIXED = Recipe(speeds=SPEEDS, supervise_latents=True)


@functools.cache
def arithmetic() -> EncodedProblems:
    return encode(generate_problems("train", 150), load_tokenizer(EMBEDDED), (*SPEEDS, "auto"))


def made_up(lengths, speeds) -> EncodedProblems:
    """Problems of given (prompt, steps, answer) lengths that say no speed; no token id occurs twice in all of them."""
    ids = itertools.count(10)
    parts = [[np.array([next(ids) for _ in range(n)], np.int32) for n in example] for example in lengths]
    prompts, steps, answers = zip(*parts, strict=True)
    tails = {speed_text(speed): np.zeros(0, np.int32) for speed in speeds}
    return EncodedProblems((None,) * len(parts), prompts, tails, steps, answers, separator_id=0, eos_id=1)


def loader_of(recipe=MIXED, *, encoded=None, seed=3, rows=4, row_positions=160) -> Loader:
    return Loader(encoded or arithmetic(), recipe, seed=seed, rows=rows, row_positions=row_positions)


def assert_same(one: Batch, other: Batch):
    for field in dataclasses.fields(Batch):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


@dataclasses.dataclass(frozen=True)
class Seen:
    """An example read back from a batch."""

    prompt: tuple[int, ...]
    steps: tuple[int, ...]
    group_sizes: tuple[int, ...]
    labels: tuple[int, ...]


def examples_of(batch: Batch, separator_id: int) -> list[Seen]:
    """The examples of a batch; `###` stands twice in each of them and nowhere else."""
    found = []
    for row in range(len(batch.token_ids_BT)):
        for segment in range(1, batch.segment_ids_BS[row].max() + 1):
            positions = np.flatnonzero(batch.segment_ids_BS[row] == segment)
            is_own = np.isin(batch.token_positions_BT[row], positions)
            tokens, at = batch.token_ids_BT[row, is_own], batch.token_positions_BT[row, is_own]
            opening, closing = np.flatnonzero(tokens == separator_id)
            groups = at[opening + 1 : closing]
            is_label = np.isin(batch.supervised_BM[row], positions) & (batch.label_ids_BM[row] >= 0)
            parts = tokens[:opening], tokens[opening + 1 : closing], np.unique(groups, return_counts=True)[1]
            found.append(Seen(*(tuple(p.tolist()) for p in (*parts, batch.label_ids_BM[row, is_label]))))
    return found


def epoch_of(loader: Loader, epoch: int = 0) -> dict[int, Seen]:
    """The examples of an epoch by their number; each at most once."""
    separator_id = loader.encoded.separator_id
    number_of = {tuple(ids.tolist()): i for i, ids in enumerate(loader.encoded.steps)}
    assert len(number_of) == len(loader.encoded)  # the reasoning tells which example it is
    steps = range(epoch * loader.steps_per_epoch, (epoch + 1) * loader.steps_per_epoch)
    seen = [example for step in steps for example in examples_of(loader.batch(step), separator_id)]
    numbers = [number_of[example.steps] for example in seen]
    assert len(set(numbers)) == len(numbers), "an example stands in an epoch twice"
    return dict(zip(numbers, seen, strict=True))


def speed_of(example: Seen) -> float:
    [speed] = [
        c for c in SPEEDS if np.bincount(group_of_token(len(example.steps), c)).tolist() == [*example.group_sizes]
    ]
    return speed


# A pure function of seed and step


def test_a_batch_depends_on_seed_and_step_alone():
    loader = loader_of()
    steps = [0, 1, loader.steps_per_epoch - 1, loader.steps_per_epoch, 3 * loader.steps_per_epoch + 1]
    first = {step: loader.batch(step) for step in steps}
    for step in reversed(steps):  # another order, and epochs that were forgotten since
        assert_same(loader.batch(step), first[step])
    for step in steps:
        assert_same(loader_of().batch(step), first[step])
    tokens = [batch.token_ids_BT for batch in first.values()] + [loader_of(seed=4).batch(0).token_ids_BT]
    assert not any(np.array_equal(one, other) for one, other in itertools.combinations(tokens, 2))


def test_epochs_differ_in_order_speeds_and_labels():
    loader = loader_of()
    first, second = epoch_of(loader, 0), epoch_of(loader, 1)
    assert list(first) != list(second)
    both = first.keys() & second.keys()
    is_same_speed = [speed_of(first[i]) == speed_of(second[i]) for i in both]
    assert 0.1 < np.mean(is_same_speed) < 0.45  # a quarter, drawn anew
    compressed = [i for i in both if speed_of(first[i]) == speed_of(second[i]) > 1]
    assert len(compressed) > 10
    assert all(first[i].labels != second[i].labels for i in compressed)


def test_a_label_does_not_depend_on_what_else_is_in_the_batch():
    wide, narrow = epoch_of(loader_of()), epoch_of(loader_of(rows=3, row_positions=100))
    both = wide.keys() & narrow.keys()
    assert len(both) > 100
    assert all(wide[i] == narrow[i] for i in both)


# What is in an epoch


def test_every_example_is_in_an_epoch_once():
    loader = loader_of(rows=1)  # nothing is left of the last batch
    assert sorted(epoch_of(loader)) == list(range(150))


def test_only_what_is_left_of_the_last_rows_is_dropped():
    loader = loader_of(rows=4)
    epochs = [epoch_of(loader, epoch) for epoch in range(4)]  # no example twice: asserted in there
    # Up to 3 rows, and one or two more where an epoch's draws pack worse than the first's; at most 5 examples each.
    assert all(150 - 5 * 5 <= len(epoch) <= 150 for epoch in epochs)
    assert set().union(*epochs) == set(range(150))


def test_what_is_fed_is_the_problem():
    for i, example in epoch_of(loader_of()).items():
        speed = speed_of(example)
        assert example.prompt == tuple(arithmetic().prompt(i, speed).tolist())
        assert example.steps == tuple(arithmetic().steps[i].tolist())
        groups = np.split(arithmetic().steps[i], np.cumsum(example.group_sizes)[:-1])
        opening, *drawn = example.labels[: len(groups) + 1]
        assert opening == arithmetic().separator_id
        assert all(label in group for label, group in zip(drawn, groups, strict=True))
        assert example.labels[len(groups) + 1 :] == (arithmetic().separator_id, *arithmetic().answers[i].tolist())


def test_each_example_has_a_speed_of_its_own():
    """The published code has one speed for a whole batch (docs/method.md, departures)."""
    loader = loader_of(rows=8)
    batch = examples_of(loader.batch(0), loader.encoded.separator_id)
    assert {speed_of(example) for example in batch} == set(SPEEDS)
    counts = Counter(speed_of(example) for epoch in range(4) for example in epoch_of(loader, epoch).values())
    assert all(0.2 < counts[speed] / counts.total() < 0.3 for speed in SPEEDS), counts


def test_one_shape_whatever_the_speeds():
    loader = loader_of()
    positions, tokens, supervised = dataclasses.astuple(loader.row_shape)
    lasts = {"BT": (4, tokens), "BS": (4, positions), "BM": (4, supervised), "B": (4,)}
    for step in range(2 * loader.steps_per_epoch):
        batch = loader.batch(step)
        for field in dataclasses.fields(Batch):
            assert getattr(batch, field.name).shape == lasts[field.name.rpartition("_")[2]]


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.3, 0.23, 0.37), (1.0, 1, 1)])
def test_auto_hides_the_speed(probability, low, high):
    loader = loader_of(dataclasses.replace(MIXED, auto_probability=probability))
    autos, plain = [], []
    for i, example in ((i, e) for epoch in range(4) for i, e in epoch_of(loader, epoch).items()):
        is_auto = example.prompt == tuple(arithmetic().prompt(i, "auto").tolist())
        assert is_auto or example.prompt == tuple(arithmetic().prompt(i, speed_of(example)).tolist())
        (autos if is_auto else plain).append(speed_of(example))
    assert low <= len(autos) / (len(autos) + len(plain)) <= high
    if autos:
        assert set(autos) == set(SPEEDS)


# Recipes


def test_without_steps_every_prompt_says_the_same():
    recipe = Recipe(speeds=(1.0,), keeps_steps=False, prompt_speed="auto")
    assert recipe.prompt_speeds == ("auto",)
    loader = loader_of(recipe, rows=1)
    prompts = {tuple(arithmetic().prompt(i, "auto").tolist()) for i in range(150)}
    seen = [
        e for step in range(loader.steps_per_epoch) for e in examples_of(loader.batch(step), arithmetic().separator_id)
    ]
    assert {example.prompt for example in seen} == prompts
    assert len(seen) == 150 and not any(example.steps for example in seen)


def test_switches_of_a_recipe():
    oc = loader_of(dataclasses.replace(MIXED, supervise_steps=False)).batch(0)
    plain = loader_of().batch(0)
    np.testing.assert_array_equal(oc.token_ids_BT, plain.token_ids_BT)
    np.testing.assert_array_equal(oc.latent_mask_BM, plain.latent_mask_BM)
    hidden = plain.latent_mask_BM & (plain.label_ids_BM != arithmetic().separator_id)
    assert hidden.sum() > 50
    np.testing.assert_array_equal(oc.label_ids_BM, np.where(hidden, -1, plain.label_ids_BM))

    words = loader_of(dataclasses.replace(MIXED, supervise_latents=False)).batch(0)
    np.testing.assert_array_equal(words.label_ids_BM, plain.label_ids_BM)
    assert not words.latent_mask_BM.any() and plain.latent_mask_BM.any()

    mp = loader_of(dataclasses.replace(MIXED, pooling="mean")).batch(0)
    np.testing.assert_allclose(mp.scale_BS, plain.scale_BS**2, rtol=1e-6)
    assert (mp.scale_BS < plain.scale_BS).any()


def test_speeds_that_a_prompt_may_say():
    assert MIXED.prompt_speeds == SPEEDS
    assert dataclasses.replace(MIXED, auto_probability=0.1).prompt_speeds == (*SPEEDS, "auto")


# What does not fit


def test_left_out_examples_are_counted():
    lengths = [(10, 4 + i, 3) for i in range(20)]  # at speed 1 of 10 + 1 + (4 + i) + 3 positions
    loader = loader_of(Recipe(speeds=(1.0,)), encoded=made_up(lengths, (1,)), rows=1, row_positions=30)
    assert loader.num_left_out == 7
    assert sorted(epoch_of(loader)) == list(range(13))


def test_examples_too_long_at_their_slowest_are_left_out_at_every_speed():
    """Else speed would stand for length: the longest problems would be seen at the highest speeds alone."""
    lengths = [(10, 4 + i, 3) for i in range(20)]
    encoded = made_up(lengths, (1, 4))
    for seed in range(3):  # whatever the first epoch draws
        loader = loader_of(Recipe(speeds=(1.0, 4.0)), encoded=encoded, rows=1, row_positions=30, seed=seed)
        assert loader.num_left_out == 7
        assert all(sorted(epoch_of(loader, epoch)) == list(range(13)) for epoch in range(8))


def test_a_prompt_that_is_longer_as_auto_counts_too():
    encoded = arithmetic()
    recipe = dataclasses.replace(MIXED, auto_probability=0.5)
    positions = max(sizes.positions.max() for sizes in loader_of(recipe)._possible_sizes())
    loader = loader_of(recipe, row_positions=int(positions) - 1)
    assert 0 < loader.num_left_out < len(encoded)
    drawn = {example for epoch in range(4) for example in epoch_of(loader, epoch)}
    assert len(drawn) == len(encoded) - loader.num_left_out


def test_nothing_fits_at_every_speed():
    encoded = made_up([(10, 11, 3), (10, 12, 3)], (1, 4))
    with pytest.raises(UserError, match=r"^no example fits into a row at all its speeds: .* is 20, .* 25 positions at"):
        loader_of(Recipe(speeds=(1.0, 4.0)), encoded=encoded, row_positions=20)


def test_nothing_fits():
    with pytest.raises(ValueError, match=r"^no example fits into a row: the shortest has 18 positions, .* is 17$"):
        loader_of(Recipe(speeds=(1.0,)), encoded=made_up([(10, 4, 3), (10, 5, 3)], (1,)), row_positions=17)


def test_an_example_that_grows_in_a_later_epoch_still_fits():
    """What a row holds is planned for an example at its slowest, not only as the first epoch draws it."""
    recipe = Recipe(speeds=(1.0, 5.0), supervise_latents=True)
    encoded = made_up([(70, 1 + i % 2, 3) for i in range(20)] + [(20, 90, 3)], recipe.speeds)
    loader = loader_of(recipe, encoded=encoded, rows=1, row_positions=128, seed=1)
    num_groups = []  # of the large example, by epoch; 0 where it was in the row that was dropped
    for epoch in range(8):
        batches = [loader.batch(epoch * loader.steps_per_epoch + i) for i in range(loader.steps_per_epoch)]
        seen = [example for batch in batches for example in examples_of(batch, 0) if len(example.steps) == 90]
        num_groups.append(len(seen[0].group_sizes) if seen else 0)
    assert num_groups[0] == 18, "choose a seed whose first epoch draws speed 5 for the large example"
    assert 90 in num_groups


def test_fewer_examples_than_a_batch_has_rows():
    loader = loader_of(rows=200)
    assert loader.steps_per_epoch == 1
    assert sorted(epoch_of(loader, 2)) == list(range(150))
    assert (loader.batch(2).segment_ids_BS.max(axis=1) == 0).sum() > 100


def test_the_last_step_of_an_epoch_that_packs_into_fewer_rows_has_empty_ones():
    """As many steps as epoch 0 has, whatever is left for the last."""
    assert [len(loader_of()._pack(epoch)) for epoch in (0, 6)] == [60, 59]
    for rows, filled in {4: 3, 1: 0}.items():
        loader = loader_of(rows=rows)
        last = 7 * loader.steps_per_epoch - 1
        batch = loader.batch(last)
        assert (batch.segment_ids_BS.max(axis=1) > 0).sum() == filled
        assert loader.num_examples(last) == batch.segment_ids_BS.max(axis=1).sum()
        assert loader.num_examples(last - 1) > 0 < loader.num_examples(last + 1)


def test_rows_beyond_those_of_a_step_are_empty():
    loader = loader_of(rows=3)
    batch, longer, last = loader.batch(1), loader.batch(1, slice(0, 8)), loader.batch(1, slice(2, 5))
    assert longer.row_ids_B.tolist() == list(range(8)) and last.row_ids_B.tolist() == [2, 3, 4]
    for field in dataclasses.fields(batch):
        whole, more, part = (getattr(one, field.name) for one in (batch, longer, last))
        np.testing.assert_array_equal(more[:3], whole)
        np.testing.assert_array_equal(part, more[2:5])
    assert not longer.segment_ids_BS[3:].any() and (longer.label_ids_BM[3:] == -1).all()
    assert longer.num_examples == batch.num_examples and longer.num_tokens == batch.num_tokens


def test_rows_of_real_lengths_are_full():
    """GSM8K's lengths at speeds 1 to 5: at least 95 % of what is computed is real."""
    lengths = json.loads(GSM8K_LENGTHS.read_text()) * 4
    recipe = Recipe(speeds=(1.0, 2.0, 3.0, 4.0, 5.0), supervise_latents=True)
    loader = loader_of(recipe, encoded=made_up(lengths[:2000], recipe.speeds), rows=8, row_positions=512)
    assert loader.num_left_out == 0
    is_real = [loader.batch(step).segment_ids_BS > 0 for step in range(2 * loader.steps_per_epoch)]
    assert np.mean(is_real) > 0.95


def test_what_an_epoch_leaves_over_is_known():
    """Epochs are whole steps: with many rows a step much of each one is left over."""
    lengths = [(10, 10, 10)] * 31
    encoded = made_up(lengths, (1.0,))
    plain = Recipe(speeds=(1.0,))
    rows = {size: loader_of(plain, encoded=encoded, rows=size, row_positions=40) for size in (1, 16, 31, 40)}
    assert {size: loader.steps_per_epoch for size, loader in rows.items()} == {1: 31, 16: 1, 31: 1, 40: 1}
    assert rows[16].share_left_over == pytest.approx(15 / 31)
    assert rows[1].share_left_over == rows[31].share_left_over == rows[40].share_left_over == 0
