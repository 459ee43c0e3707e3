"""Examples dealt to rows: each once, rows equally full, a function of the seed."""

import numpy as np
import pytest

from colar_jax.methods.thinking.dealing import deal_epoch, most_examples

LENGTHS = np.random.default_rng(0).gamma(4.0, 20.0, 2000).astype(int) + 10  # of questions: most short, few long
NUM_ROWS, SEED = 8, (0, 0, 0)


def loads(dealt):
    return np.where(dealt >= 0, LENGTHS[dealt], 0).sum(axis=2)


def test_every_example_is_dealt_once_and_as_many_in_every_step():
    dealt = deal_epoch(LENGTHS[:, None], 31, NUM_ROWS, SEED)
    places = dealt[dealt >= 0]
    assert len(np.unique(places)) == len(places) == 31 * len(dealt) > 2000 - 2 * 31
    assert set((dealt >= 0).sum(axis=(1, 2))) == {31}
    assert dealt.shape[1:] == (NUM_ROWS, 4)
    again, other = (deal_epoch(LENGTHS[:, None], 31, NUM_ROWS, seed) for seed in (SEED, (0, 1, 0)))
    np.testing.assert_array_equal(dealt, again)
    assert (dealt != other).any()


def test_rows_are_equally_full():
    """Nothing but the longest examples stands out: of a row's room at least 95 % is used."""
    of_rows = loads(deal_epoch(LENGTHS[:, None], 31, NUM_ROWS, SEED))
    assert of_rows.mean() > 0.95 * of_rows.max()
    at_random = np.random.default_rng(1).permutation(LENGTHS)[:1984].reshape(-1, 4).sum(axis=1)
    assert at_random.mean() < 0.6 * at_random.max()


def test_rows_are_equally_full_of_every_kind():
    """A long question in a row is not paid for by few steps."""
    sizes_NK = np.stack([LENGTHS, np.random.default_rng(2).gamma(6.0, 5.0, 2000).astype(int)], axis=1)

    def fullness(dealt):
        of_rows = np.where((dealt >= 0)[..., None], sizes_NK[dealt], 0).sum(axis=2)
        return (of_rows.mean(axis=(0, 1)) / of_rows.max(axis=(0, 1))).min()

    assert fullness(deal_epoch(sizes_NK, 31, NUM_ROWS, SEED)) > 0.8
    assert fullness(deal_epoch(sizes_NK.sum(axis=1, keepdims=True), 31, NUM_ROWS, SEED)) < 0.6


def test_a_row_has_as_many_as_always_fit():
    room = 400
    count = most_examples(LENGTHS[:, None], NUM_ROWS, room, SEED)
    assert loads(deal_epoch(LENGTHS[:, None], count, NUM_ROWS, SEED)).max() <= room
    assert loads(deal_epoch(LENGTHS[:, None], count + 1, NUM_ROWS, SEED)).max() > room
    assert count * LENGTHS.mean() > 0.8 * NUM_ROWS * room


@pytest.mark.parametrize("num_examples", [1, 3, 7])
def test_fewer_examples_than_a_step_holds_are_one_step(num_examples):
    dealt = deal_epoch(LENGTHS[:num_examples, None], 31, NUM_ROWS, SEED)
    assert len(dealt) == 1 and sorted(dealt[dealt >= 0]) == list(range(num_examples))
