"""Batches under a schedule: a function of the step alone, every example once an epoch, and pads that are no labels."""

import dataclasses
import functools

import numpy as np
import pytest
from pico_thoughts import EOS, PREFIX, SEPARATOR, problems

from colar_jax.errors import UserError
from colar_jax.methods.coconut import Coconut
from colar_jax.methods.codi import Codi
from colar_jax.methods.icot import Icot
from colar_jax.methods.thinking.schedule import EVERYTHING

SETTINGS = dict(rows=3, row_positions=60)
METHODS = {
    "icot": Icot(removed_per_epoch=4, smoothing=1.0),
    "coconut": Coconut(num_stages=2, epochs_per_stage=0.5),
    "codi": Codi(),
}
ENCODED = problems(100)


@functools.cache
def loader_of(name: str, **settings):
    of_rows = {key: settings.pop(key, value) for key, value in SETTINGS.items()}
    return dataclasses.replace(METHODS[name], **settings).make_loader(ENCODED, seed=3, **of_rows)


def arrays(batch):
    return {name: np.asarray(value) for name, value in vars(batch).items()}


@pytest.mark.parametrize("name", list(METHODS))
def test_a_batch_is_a_function_of_the_step(name):
    method, loader = METHODS[name], loader_of(name)
    other = method.make_loader(ENCODED, seed=3, **SETTINGS)
    for step in (loader.steps_per_epoch + 2, 0, 5):  # in another order than the first loader, which has a past
        loader.batch(step)
    for step in (5, 0, loader.steps_per_epoch + 2):
        for field, array in arrays(other.batch(step)).items():
            np.testing.assert_array_equal(array, arrays(loader.batch(step))[field], err_msg=field)


@pytest.mark.parametrize("name", list(METHODS))
def test_an_epoch_has_every_example_once(name):
    loader = loader_of(name)
    assert loader.num_left_out == 0 and loader.examples_per_step > 3
    dealt = loader._plan(1)[loader._plan(1) >= 0]
    assert len(np.unique(dealt)) == len(dealt) > 100 - loader.examples_per_step
    assert (loader._plan(1) != loader._plan(2)).any()
    num_examples = {loader.batch(step).num_examples for step in range(loader.steps_per_epoch)}
    assert num_examples == {loader.examples_per_step}  # as many in every step: an epoch is a number of steps


@pytest.mark.parametrize("name", list(METHODS))
def test_few_shapes(name):
    loader = loader_of(name)
    shapes = [
        {field: array.shape for field, array in arrays(loader.batch(step)).items()}
        for step in range(5 * loader.steps_per_epoch)
    ]
    assert len({str(shape) for shape in shapes}) <= 4
    if name != "codi":
        sizes = [sum(np.prod(shape) for shape in of_step.values()) for of_step in shapes]
        assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0]


def texts_of(batch) -> list[tuple]:
    """What the model is taught of each example: for iCoT and Coconut, from the first label on."""
    texts = []
    if hasattr(batch, "tail_ids_BT"):
        for row in range(len(batch.tail_ids_BT)):
            for slot in np.flatnonzero(batch.question_lengths_BE[row]):
                labels = batch.tail_labels_BT[row][batch.tail_segments_BT[row] == slot + 1]
                fed = batch.tail_ids_BT[row][batch.tail_segments_BT[row] == slot + 1]
                assert (fed[1:] == labels[:-1]).all() and fed[0] == batch.first_labels_BE[row, slot]
                texts.append((int(batch.num_latents_BE[row, slot]), fed[0], *labels))
        unused = batch.tail_segments_BT == 0
        assert (batch.tail_labels_BT[unused] == -1).all()
    return texts


def test_coconut_takes_steps_away_and_puts_latents_there():
    loader = loader_of("coconut")
    whole = [(*steps, SEPARATOR, *answer) for steps, answer in zip(ENCODED.steps, ENCODED.answers, strict=True)]
    quarter = loader.steps_per_epoch // 4
    for step, stage in ((quarter, 1), (3 * quarter, 2), (2 * loader.steps_per_epoch, EVERYTHING)):
        assert loader.phase(step).removed == stage
        expected = set()
        for text, steps, starts in zip(whole, ENCODED.steps, ENCODED.step_starts, strict=True):
            gone = starts[stage] if stage < len(starts) else len(steps)
            expected.add((2 * min(stage, 2), *text[gone:]))
        texts = texts_of(loader.batch(step))
        assert texts and set(texts) <= expected


def test_icot_keeps_the_end_of_the_steps():
    loader = loader_of("icot")
    step = loader.steps_per_epoch // 2
    removed = loader.phase(step).removed
    assert removed == 2
    batch, rows = loader.batch(step), loader._plan(0)[step]
    extras = []
    for row, examples in enumerate(rows):
        labels = batch.label_ids_BM[row]
        ends = np.flatnonzero(labels == 8)  # eos
        for example, text in zip(examples[examples >= 0], np.split(labels, ends + 1), strict=False):
            steps = ENCODED.steps[example]
            kept = len(text) - 2 - len(ENCODED.answers[example])
            extras.append(len(steps) - removed - kept)
            np.testing.assert_array_equal(
                text, [SEPARATOR, *steps[len(steps) - kept :], SEPARATOR, *ENCODED.answers[example]]
            )
    assert min(extras) <= 0 < max(extras)  # smoothing takes more from some; a short chain has fewer to lose
    supervised = batch.label_ids_BM >= 0
    assert (batch.segment_ids_BS[np.arange(3)[:, None], batch.supervised_BM][supervised] > 0).all()


@pytest.mark.parametrize("unit", ["token", "step"])
def test_icot_ends_with_the_longest_chain_that_is_trained_on(unit):
    """A problem that no row has room for is left out, and its chain must not keep the schedule from its end."""
    method = dataclasses.replace(METHODS["icot"], unit=unit, smoothing=0.0)
    of_all = method.make_loader(ENCODED, seed=3, **SETTINGS)
    loader = method.make_loader(ENCODED, seed=3, rows=3, row_positions=(room := 22 if unit == "token" else 16))
    kept = [
        len(steps) if unit == "token" else len(problem.steps)
        for head, steps, answer, problem in zip(
            ENCODED.heads, ENCODED.steps, ENCODED.answers, ENCODED.problems, strict=True
        )
        if len(head) + 1 + 2 + len(steps) + len(answer) - 1 <= room
    ]
    assert 0 < loader.num_left_out == len(ENCODED) - len(kept)
    assert max(kept) == loader.schedule.last < of_all.schedule.last
    assert loader.phase(loader.first_final_step).removed == EVERYTHING
    assert loader.phase(loader.first_final_step - 1).removed == max(kept) - 1


def test_icot_refuses_rows_that_no_example_fits():
    with pytest.raises(UserError, match="no example fits into a row: the shortest has 1. positions, .* is 8$"):
        METHODS["icot"].make_loader(ENCODED, seed=3, rows=3, row_positions=8)


def test_icot_takes_whole_steps_away_until_the_longest_chain_has_none():
    loader = loader_of("icot", unit="step", removed_per_epoch=1, smoothing=0.0)
    most = max(map(len, ENCODED.step_starts))
    for gone in range(most + 1):
        expected = set()
        for steps, starts, answer in zip(ENCODED.steps, ENCODED.step_starts, ENCODED.answers, strict=True):
            kept = steps[starts[gone] :] if gone < len(starts) else ()
            expected.add((SEPARATOR, *kept, SEPARATOR, *answer))
        batch = loader.batch(gone * loader.steps_per_epoch)
        texts = [text for row in batch.label_ids_BM for text in np.split(row, np.flatnonzero(row == EOS) + 1)[:-1]]
        assert len(texts) == batch.num_examples == loader.examples_per_step
        assert {tuple(text) for text in texts} <= expected
    # Then nothing changes any more: neither the batches, nor what the optimizer knows.
    assert loader.first_final_step == most * loader.steps_per_epoch
    resets = [step for step in range((most + 3) * loader.steps_per_epoch) if loader.resets_optimizer(step)]
    assert resets == [number * loader.steps_per_epoch for number in range(1, most + 1)]


def test_codi_matches_the_position_before_the_answer():
    batch = loader_of("codi").batch(0)
    for row, slot in zip(*np.nonzero(batch.question_lengths_BE), strict=True):
        for ids, at in ((batch.trunk_ids_BP, batch.matched_trunk_BE), (batch.tail_ids_BT, batch.matched_tail_BE)):
            place = at[row, slot]
            assert ids[row, place - 2 : place + 1].tolist() == [SEPARATOR, *PREFIX]
    labelled = batch.trunk_labels_BM >= 0
    teacher = batch.trunk_ids_BP[np.arange(3)[:, None], batch.supervised_BM + 1]
    is_inside = np.roll(labelled, -1, axis=1) & labelled
    same = teacher == batch.trunk_labels_BM
    assert same[is_inside].mean() > 0.9  # all but the last of each example, whose label is eos


def test_the_optimizer_forgets_where_a_phase_begins():
    loader = loader_of("coconut")
    resets = [step for step in range(3 * loader.steps_per_epoch) if loader.resets_optimizer(step)]
    assert len(resets) == 2 and resets[-1] == loader.first_final_step
    assert all(loader.phase(step) != loader.phase(step - 1) for step in resets)
    assert not any(loader_of("codi").resets_optimizer(step) for step in range(100))


def test_the_optimizer_forgets_each_epoch():
    loader = loader_of("coconut", reset_each_epoch=True, reset_optimizer=False)
    resets = [step for step in range(3 * loader.steps_per_epoch) if loader.resets_optimizer(step)]
    assert resets == [loader.steps_per_epoch, 2 * loader.steps_per_epoch]


def test_mixed_stages_keep_their_room_and_their_latents():
    loader = loader_of("coconut", uniform_probability=0.5, end_marker=True)
    plain = loader_of("coconut")
    for start in (0, 3 * loader.steps_per_epoch):
        counts = []
        for step in range(start, start + 4):
            batch = loader.batch(step)
            counts += batch.num_latents_BE[batch.question_lengths_BE > 0].tolist()
            assert batch.num_examples == plain.batch(step).num_examples  # nothing falls out of a row
        assert set(counts) == {0, 2, 4} and np.mean(np.equal(counts, loader.phase(start).num_latents)) > 0.4


def test_an_end_marker_stands_between_latents_and_steps():
    loader = loader_of("coconut", end_marker=True)
    for row in loader._rows(0):
        for dealt in row:
            tail = loader.form._example(ENCODED, dealt).tail_ids.tolist()
            left = ENCODED.steps[dealt.example][dealt.removed :].tolist()
            answer = [SEPARATOR, *ENCODED.answers[dealt.example]]
            assert tail == ([SEPARATOR, *left, *answer] if left else answer)


def test_rows_too_short_for_any_example():
    with pytest.raises(ValueError, match=r"no example fits into a row: the shortest has \d+ positions, .* is 5"):
        Coconut().make_loader(ENCODED, seed=0, rows=1, row_positions=5)
