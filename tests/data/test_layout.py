import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from colar_jax.data.layout import Layout, Sizes, Supervision, lay_out, sizes

SEPARATOR, NONE = 9, -1
PROMPT, STEPS, ANSWER = [11, 12, 13], [21, 22, 23, 24, 25], [31, 32, 33]  # 33 is eos
FIRST = np.zeros(len(STEPS))  # every draw picks the first token of its group


LEARNED = Supervision(latents=True)


def laid_out(speed, *, prompt=PROMPT, steps=STEPS, answer=ANSWER, draw=None, supervision=LEARNED) -> Layout:
    arrays = (np.array(ids, np.int32) for ids in (prompt, steps, answer))
    draw_T = np.zeros(len(steps)) if draw is None else np.array(draw)
    return lay_out(*arrays, SEPARATOR, speed, draw_T, supervision)


def drawn(layout: Layout) -> list[tuple]:
    """A layout as one line a position: its tokens, then the label and the latent mask where it is supervised."""
    tokens = [[] for _ in layout.tokens_in_position_S]
    for token, position in zip(layout.token_ids_T, layout.token_positions_T, strict=True):
        tokens[position].append(int(token))
    assert [len(held) for held in tokens] == layout.tokens_in_position_S.tolist()
    supervised = [
        (int(label), bool(latent)) for label, latent in zip(layout.label_ids_M, layout.latent_mask_M, strict=True)
    ]
    unsupervised = [()] * (len(tokens) - len(supervised))
    return [(*held, *more) for held, more in zip(([t] for t in tokens), unsupervised + supervised, strict=True)]


QUESTION = [([11],), ([12],)]
ANSWERING = [([9], 31, False), ([31], 32, False), ([32], 33, False)]  # 33, eos, is asked for and never fed


def test_speed_1():
    assert drawn(laid_out(1)) == [
        *QUESTION,
        ([13], 9, False),
        ([9], 21, True),
        ([21], 22, True),
        ([22], 23, True),
        ([23], 24, True),
        ([24], 25, True),
        ([25], 9, True),
        *ANSWERING,
    ]


def test_speed_2():
    # 0.5 of a group of two is its second token; the draw of a token that starts no group is not looked at.
    assert drawn(laid_out(2, draw=[0.0, 0.9, 0.5, 0.0, 0.99])) == [
        *QUESTION,
        ([13], 9, False),
        ([9], 21, True),
        ([21, 22], 24, True),
        ([23, 24], 25, True),
        ([25], 9, True),
        *ANSWERING,
    ]


def test_speed_1_5():
    assert drawn(laid_out(1.5, draw=[0.9, 0.49, 0.0, 0.9, 0.5])) == [
        *QUESTION,
        ([13], 9, False),
        ([9], 21, True),
        ([21], 22, True),
        ([22, 23], 24, True),
        ([24], 25, True),
        ([25], 9, True),
        *ANSWERING,
    ]


def test_without_steps():
    """The answer follows at once: the opening separator's prediction is the closing one."""
    assert drawn(laid_out(2, steps=[])) == [*QUESTION, ([13], 9, False), ([9], 9, True), *ANSWERING]


def test_ablation_oc_keeps_the_end_of_the_reasoning():
    assert drawn(laid_out(2, supervision=Supervision(latents=True, steps=False))) == [
        *QUESTION,
        ([13], 9, False),
        ([9], NONE, True),
        ([21, 22], NONE, True),
        ([23, 24], NONE, True),
        ([25], 9, True),
        *ANSWERING,
    ]


def test_a_chain_of_words_has_no_latents():
    with_latents, without = laid_out(1), laid_out(1, supervision=Supervision(latents=False))
    assert without.label_ids_M.tolist() == with_latents.label_ids_M.tolist()
    assert not without.latent_mask_M.any()


def test_dtypes():
    layout = laid_out(2)
    assert (layout.token_ids_T.dtype, layout.label_ids_M.dtype) == (np.int32, np.int32)
    assert layout.latent_mask_M.dtype == bool


lengths = st.integers(1, 12)
speeds = st.sampled_from([1, 1.5, 2, 2.3, 3.5, 5, 40])


@settings(deadline=None)
@given(st.lists(st.tuples(lengths, st.integers(0, 40), lengths, speeds), min_size=1, max_size=8))
def test_sizes_are_those_of_the_layouts(examples):
    layouts = [
        laid_out(speed, prompt=[1] * prompt, steps=[2] * steps, answer=[3] * answer)
        for prompt, steps, answer, speed in examples
    ]
    found = sizes(*(np.array(column) for column in zip(*examples, strict=True)))
    assert found.positions.tolist() == [len(layout.tokens_in_position_S) for layout in layouts]
    assert found.tokens.tolist() == [len(layout.token_ids_T) for layout in layouts]
    assert found.supervised.tolist() == [len(layout.label_ids_M) for layout in layouts]


def test_sizes_of_some_examples():
    chosen = Sizes(np.array([5, 6, 7]), np.array([8, 9, 10]), np.array([1, 2, 3])).take(np.array([2, 0]))
    assert [column.tolist() for column in (chosen.positions, chosen.tokens, chosen.supervised)] == [
        [7, 5],
        [10, 8],
        [3, 1],
    ]


@settings(deadline=None)
@given(lengths, st.integers(0, 40), lengths, speeds)
def test_no_position_is_without_a_token(prompt, steps, answer, speed):
    """The published batches have empty slots between the last latent and `###` (docs/method.md, departures)."""
    layout = laid_out(speed, prompt=[1] * prompt, steps=[2] * steps, answer=[3] * answer)
    assert layout.tokens_in_position_S.min() == 1
    np.testing.assert_array_equal(
        layout.tokens_in_position_S, np.bincount(layout.token_positions_T, minlength=len(layout.tokens_in_position_S))
    )
    assert np.all(np.isin(np.diff(layout.token_positions_T), (0, 1)))


@pytest.mark.parametrize("speed", [1.5, 3, 5, 8])
def test_a_label_is_any_token_of_its_group_with_one_probability(speed):
    steps = np.arange(100, 108)
    rng = np.random.default_rng(0)
    draws = [laid_out(speed, steps=steps, draw=rng.random(8)).label_ids_M[1 : -len(ANSWER) - 1] for _ in range(4000)]
    groups = [part[0] for part in drawn(laid_out(speed, steps=steps))[len(PROMPT) + 1 : -len(ANSWER)]]
    assert list(itertools.chain(*groups)) == steps.tolist()
    for group, labels in zip(groups, np.array(draws).T, strict=True):
        counts = [int(np.sum(labels == token)) for token in group]
        assert sum(counts) == len(draws)  # nothing from outside the group
        if len(group) > 1:
            assert stats.chisquare(counts).pvalue > 1e-4, (group, counts)


def test_the_largest_draw_is_still_in_the_group():
    almost_1 = np.nextafter(1.0, 0.0)
    layout = laid_out(3, steps=list(range(100, 107)), draw=[almost_1] * 7)
    assert layout.label_ids_M[1:4].tolist() == [102, 105, 106]
