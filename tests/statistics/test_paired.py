import numpy as np
import pytest
from scipy import stats

from colar_jax.statistics.paired import fall_p_value, holm, paired_difference, stratified_difference


def seeds_and_questions(shares, seeds=5, questions=200, seed=0):
    """For each share of right answers, how often each question was right over some seeds; some are hard for all."""
    rng = np.random.default_rng(seed)
    hardness_N = rng.normal(0, 0.15, questions)
    chances = (np.clip(share + hardness_N, 0, 1) for share in shares)
    return [(rng.random((seeds, questions)) < chance_N).mean(axis=0) for chance_N in chances]


def test_agrees_with_the_bootstrap_of_scipy():
    a_N, b_N = seeds_and_questions((0.62, 0.55))
    ours = paired_difference(a_N, b_N, resamples=40_000)
    theirs = stats.bootstrap(
        (a_N - b_N,), np.mean, n_resamples=40_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.center == pytest.approx(a_N.mean() - b_N.mean(), abs=1e-12)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.0015)  # means are multiples of 0.001
    assert ours.low < ours.center < ours.high


def test_agrees_with_the_normal_approximation_in_closed_form():
    a_N, b_N = seeds_and_questions((0.7, 0.4), questions=2000)
    half_width = stats.norm.ppf(0.975) * (a_N - b_N).std() / np.sqrt(2000)
    assert paired_difference(a_N, b_N).half_width == pytest.approx(half_width, rel=0.03)


def test_covers_the_truth_95_times_in_100():
    rng = np.random.default_rng(0)
    true_difference, covered = 0.3 - 0.2, 0
    for trial in range(1000):
        luck_N = rng.random(660)  # what both have in common
        a_N, b_N = luck_N < 0.3, luck_N < 0.2
        interval = paired_difference(a_N, b_N, seed=trial, resamples=1000)
        covered += interval.low <= true_difference <= interval.high
    assert 0.93 < covered / 1000 < 0.97


@pytest.mark.parametrize(("num_questions", "share"), [(3, 1.0), (5, 0.6), (8, 0.6), (1000, 0.004)])
def test_few_questions_that_differ_show_nothing(num_questions, share):
    """Two that are equally good, and differ on some questions: how often does the interval say that they are not?"""
    rng, said = np.random.default_rng(0), 0
    for trial in range(400):
        differs_N, is_above_N = rng.random(num_questions) < share, rng.random(num_questions) < 0.5
        interval = paired_difference(differs_N & is_above_N, differs_N & ~is_above_N, seed=trial, resamples=500)
        said += not interval.low <= 0 <= interval.high
    assert said / 400 < 0.06


@pytest.mark.parametrize(
    ("num_different", "confidence", "shows"), [(5, 0.95, False), (6, 0.95, True), (6, 0.99, False)]
)
def test_some_questions_that_all_differ_one_way_show_something(num_different, confidence, shows):
    """Of many questions, of which a bootstrap would say so of four: by chance that happens one time in eight."""
    a_N = np.arange(1319) < num_different
    interval = stratified_difference([(a_N, np.zeros(1319))], confidence=confidence)
    assert (interval.low > 0) == shows


def test_of_several_sets_the_mean_covers_the_truth_and_every_set_weighs_the_same():
    rng, covered, sizes = np.random.default_rng(0), 0, (660, 100, 300)
    for trial in range(500):
        lucks = [rng.random(size) for size in sizes]
        interval = stratified_difference([(x < 0.3, x < 0.2) for x in lucks], seed=trial, resamples=1000)
        covered += interval.low <= 0.1 <= interval.high
    assert 0.92 < covered / 500 < 0.98
    small, large = (np.ones(20), np.zeros(20)), (np.zeros(2000), np.zeros(2000))
    assert stratified_difference([small, large]).center == 0.5
    assert stratified_difference([small, (np.ones(1), np.zeros(1))]).low is None
    with pytest.raises(ValueError, match="at least one set"):
        stratified_difference([])


def test_an_interval_of_more_confidence_holds_the_other():
    pair = tuple(seeds_and_questions((0.62, 0.55)))
    usual, wide = stratified_difference([pair]), stratified_difference([pair], confidence=0.99)
    assert usual == paired_difference(*pair) and wide.low < usual.low < usual.high < wide.high
    half_width = stats.norm.ppf(0.995) * (pair[0] - pair[1]).std() / np.sqrt(200)
    assert wide.half_width == pytest.approx(half_width, rel=0.05)


def test_all_questions_that_differ_alike():
    for num_different, (low, high) in ((2, (0.0, 1.0)), (5, (0.0, 1.0)), (6, (1.0, 1.0))):
        interval = paired_difference(np.ones(num_different), np.zeros(num_different))
        assert (interval.low, interval.center, interval.high) == (low, 1.0, high)
        assert paired_difference(np.zeros(num_different), np.ones(num_different)).high == -low


def test_what_is_hard_for_both_cancels():
    a_N, b_N = seeds_and_questions((0.62, 0.55))
    paired = paired_difference(a_N, b_N)
    shuffled = paired_difference(a_N, np.random.default_rng(0).permutation(b_N))
    assert paired.half_width < 0.95 * shuffled.half_width


def test_the_seed_decides_and_the_order_of_the_two_is_the_sign():
    a_N, b_N = seeds_and_questions((0.62, 0.55))
    assert paired_difference(a_N, b_N, seed=3) == paired_difference(a_N, b_N, seed=3)
    assert paired_difference(a_N, b_N, seed=3) != paired_difference(a_N, b_N, seed=4)
    assert paired_difference(b_N, a_N).center == -paired_difference(a_N, b_N).center


def test_equal_answers_differ_by_nothing_and_one_question_has_no_interval():
    same = paired_difference(np.array([0.2, 1.0, 0.6]), np.array([0.2, 1.0, 0.6]))
    assert (same.center, same.low, same.high) == (0, 0, 0)
    alone = paired_difference(np.array([1.0]), np.array([0.0]))
    assert (alone.center, alone.low, alone.high) == (1.0, None, None)


def test_other_questions_cannot_be_paired():
    for a_N, b_N in ((np.ones(3), np.ones(4)), (np.ones(0), np.ones(0)), (np.ones((2, 3)), np.ones((2, 3)))):
        with pytest.raises(ValueError, match="same questions"):
            paired_difference(a_N, b_N)


def test_the_p_value_of_a_fall_is_that_of_the_binomial_test():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a_N, b_N = rng.random(60) < 0.4, rng.random(60) < 0.5
        below, different = int((a_N < b_N).sum()), int((a_N != b_N).sum())
        expected = stats.binomtest(below, different, alternative="greater").pvalue
        assert fall_p_value(a_N, b_N) == pytest.approx(expected, rel=1e-9)
    assert fall_p_value(a_N, a_N) == 1.0
    assert fall_p_value(np.array([1.0]), np.array([0.0])) == 1.0  # one question that rises
    assert fall_p_value(np.array([0.0]), np.array([1.0])) == 0.5  # one that falls


def test_holm_is_by_steps():
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert holm([0.01, 0.02, 0.03, 0.005]) == [True, True, True, True]
    assert holm([0.013, 0.013, 0.013, 0.013]) == [False] * 4
    assert holm([]) == []
