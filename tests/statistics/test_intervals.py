import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from colar_jax.statistics.intervals import Interval, mean_over_seeds, wilson


def test_half_width_is_half_of_the_interval_and_none_without_one():
    assert Interval(0.5, 0.4, 0.8).half_width == pytest.approx(0.2)
    assert Interval(0.5, None, None).half_width is None


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 20])
def test_t_interval_agrees_with_scipy(num_seeds):
    values_S = np.random.default_rng(num_seeds).normal(40, 3, num_seeds)
    interval = mean_over_seeds(values_S)
    low, high = stats.t.interval(0.95, num_seeds - 1, loc=values_S.mean(), scale=stats.sem(values_S))
    assert interval.center == pytest.approx(values_S.mean(), rel=1e-12)
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-12)


def test_t_interval_of_two_seeds_in_closed_form():
    # With one degree of freedom t is Cauchy: its 97.5 % point is tan(0.475 pi), and s / sqrt(2) is |a - b| / 2.
    interval = mean_over_seeds(np.array([1.0, 3.0]))
    assert interval.center == 2.0
    assert interval.half_width == pytest.approx(math.tan(0.475 * math.pi), rel=1e-9)


def test_t_interval_covers_the_truth_95_times_in_100():
    values_ES = np.random.default_rng(0).normal(7.0, 2.0, (6000, 5))
    intervals = [mean_over_seeds(values_S) for values_S in values_ES]
    coverage = np.mean([interval.low <= 7.0 <= interval.high for interval in intervals])
    assert 0.94 < coverage < 0.96

    # What the docstring says of the published interval, 1.96 x population std / sqrt(5).
    published_E = 1.96 * values_ES.std(axis=1) / math.sqrt(5)
    assert 0.83 < np.mean(np.abs(values_ES.mean(axis=1) - 7.0) <= published_E) < 0.86


def test_equal_seeds_have_no_width_and_one_seed_has_no_interval():
    assert mean_over_seeds(np.array([0.5, 0.5, 0.5])) == Interval(0.5, 0.5, 0.5)
    assert mean_over_seeds(np.array([0.5])) == Interval(0.5, None, None)


@pytest.mark.parametrize("values", [np.zeros(0), np.zeros((2, 3))])
def test_seeds_of_a_wrong_shape_are_refused(values):
    with pytest.raises(ValueError, match="values_S"):
        mean_over_seeds(values)


@pytest.mark.parametrize("num_questions", [1, 7, 100, 1319])
def test_wilson_agrees_with_scipy(num_questions):
    for num_right in {0, 1, num_questions // 3, num_questions - 1, num_questions}:
        interval = wilson(num_right, num_questions)
        expected = stats.binomtest(num_right, num_questions).proportion_ci(0.95, method="wilson")
        assert interval.center == num_right / num_questions
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_at_none_and_all_right_in_closed_form():
    z_squared = stats.chi2.ppf(0.95, 1)
    none, everything = wilson(0, 50), wilson(50, 50)
    assert none.low == 0.0 and none.high == pytest.approx(z_squared / (50 + z_squared), rel=1e-9)
    assert everything.high == 1.0 and everything.low == pytest.approx(50 / (50 + z_squared), rel=1e-9)


@given(st.integers(1, 5000), st.floats(0, 1))
def test_wilson_ends_are_the_shares_whose_z_test_just_rejects(num_questions, share):
    # Its definition, also for a fractional number of right answers (a mean over seeds).
    interval = wilson(share * num_questions, num_questions)
    assert 0 <= interval.low <= interval.center <= interval.high <= 1
    for end in (interval.low, interval.high):
        if 1e-6 < end < 1 - 1e-6:
            z = abs(interval.center - end) / math.sqrt(end * (1 - end) / num_questions)
            assert z == pytest.approx(stats.norm.ppf(0.975), rel=1e-4)


@pytest.mark.parametrize(
    ("num_right", "num_questions", "name"), [(0, 0, "num_questions"), (3, 2, "num_right"), (-1, 2, "num_right")]
)
def test_wilson_refuses_impossible_counts(num_right, num_questions, name):
    with pytest.raises(ValueError, match=name):
        wilson(num_right, num_questions)
