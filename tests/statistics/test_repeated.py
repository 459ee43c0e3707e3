import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from colar_jax.data.answers import is_right
from colar_jax.statistics import repeated
from colar_jax.statistics.repeated import majority_at_k, pass_at_k, votes_of


def outcomes(rng, samples, questions, chance=0.4):
    """Right answers all alike, wrong ones of three kinds."""
    right_SN = rng.random((samples, questions)) < chance
    votes_SN = np.where(right_SN, 0, rng.integers(1, 4, right_SN.shape))
    return right_SN, votes_SN


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**16))
def test_pass_at_k_is_the_share_of_all_subsets_with_a_right_one(samples, k, seed):
    k = min(k, samples)
    right_SN, _ = outcomes(np.random.default_rng(seed), samples, 4)
    subsets = list(itertools.combinations(range(samples), k))
    share = np.mean([right_SN[list(chosen)].any(axis=0).mean() for chosen in subsets])
    assert pass_at_k(right_SN, k) == pytest.approx(share)


def test_pass_at_k_is_unbiased():
    rng, chance = np.random.default_rng(0), 0.3
    right_SN = rng.random((6, 20_000)) < chance
    for k in (1, 3, 6):
        assert pass_at_k(right_SN, k) == pytest.approx(1 - (1 - chance) ** k, abs=0.01)


def test_pass_and_majority_of_one_sample_are_the_accuracy():
    right_SN, votes_SN = outcomes(np.random.default_rng(1), 5, 30)
    assert pass_at_k(right_SN, 1) == pytest.approx(right_SN.mean())
    assert majority_at_k(right_SN, votes_SN, 1) == pytest.approx(right_SN.mean())


@pytest.mark.parametrize(
    ("votes", "right", "share"),
    [
        ([7, 7, 8, 9, 6], 7, 1.0),  # the most frequent one
        ([7, 8, 8, 9, 6], 7, 0.0),
        ([7, 7, 8, 8, 6], 7, 1 / 2),  # drawn by lot among two
        ([1, 2, 3, 4, 5], 3, 1 / 5),
        ([7, 7, 7, 7, 7], 7, 1.0),
    ],
)
def test_the_most_frequent_answer_is_elected(votes, right, share):
    votes_SN = np.array(votes)[:, None]
    assert majority_at_k(votes_SN == right, votes_SN, 5) == pytest.approx(share)


def test_majority_of_two_in_closed_form():
    # Of two samples a tie is drawn by lot: what is elected is right as often as one sample is.
    right_SN, votes_SN = outcomes(np.random.default_rng(2), 6, 50)
    assert majority_at_k(right_SN, votes_SN, 2) == pytest.approx(right_SN.mean())


def test_many_subsets_are_sampled(monkeypatch):
    right_SN, votes_SN = outcomes(np.random.default_rng(3), 9, 40, chance=0.5)
    exact = majority_at_k(right_SN, votes_SN, 5)
    monkeypatch.setattr(repeated, "MAX_SUBSETS", 100)
    sampled = majority_at_k(right_SN, votes_SN, 5)
    assert sampled != exact and sampled == pytest.approx(exact, abs=0.02)
    assert sampled == majority_at_k(right_SN, votes_SN, 5)


def test_votes_are_equal_where_the_verifier_says_so():
    predictions_SN = [["10", "x", "nan"], ["10.0", "y", "nan"], ["11", "x ", "nan"], ["1,0", "", "2"]]
    votes_SN = votes_of(predictions_SN, is_right)
    assert votes_SN[:, 0].tolist() == [0, 0, 1, 2]
    assert votes_SN[:, 1].tolist() == [0, 1, 0, 2]
    assert votes_SN[0, 2] == votes_SN[1, 2] != votes_SN[3, 2]


def test_more_samples_than_there_are_is_an_error():
    right_SN, votes_SN = outcomes(np.random.default_rng(0), 3, 2)
    for k in (0, 4):
        with pytest.raises(ValueError, match=f"k={k} samples of 3"):
            pass_at_k(right_SN, k)
        with pytest.raises(ValueError, match=f"k={k} samples of 3"):
            majority_at_k(right_SN, votes_SN, k)
    with pytest.raises(ValueError, match="a vote for each sample"):
        majority_at_k(right_SN, votes_SN[:2], 2)
