import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import special, stats

from colar_jax.decoding.sampling import greedy_token, log_prob_of, nucleus, sampled_token

VOCABULARY = 7
LOGITS = np.array([2.0, -1.0, 1.5, 0.0, 1.5, -3.0, 0.5], np.float32)
NUM_DRAWS = 20_000

nucleus_of = jax.jit(nucleus, static_argnames="top_p")
sample = jax.jit(sampled_token, static_argnums=(2, 3))


def inside_by_sorting(logits_V: np.ndarray, top_p: float) -> tuple[np.ndarray, float]:
    """The definition: the most probable tokens until they sum to `top_p`, and all that tie with the last of them.

    Also how near a sum comes to `top_p`: where the two are equal up to rounding, either may be the larger.
    """
    probs_V = special.softmax(logits_V.astype(np.float64))
    order_V = np.argsort(-probs_V)
    sums_V = np.cumsum(probs_V[order_V])
    last = order_V[np.argmax(sums_V >= top_p)]
    return logits_V >= logits_V[last], np.abs(sums_V - top_p).min()


# Multiples of 1/8, so that many tie and none nearly do; 1e4 away from the others there is no probability left.
logit = st.integers(-40, 40).map(lambda n: n / 8) | st.sampled_from([1e4, -1e4, -np.inf])
logit_rows = st.lists(logit, min_size=VOCABULARY, max_size=VOCABULARY).filter(lambda row: max(row) > -np.inf)


@settings(max_examples=300, deadline=None)
@given(logit_rows, st.sampled_from([0.01, 0.3, 0.5, 0.9, 0.99]))
def test_the_nucleus_is_what_sorting_gives(row, top_p):
    logits_V = np.array(row, np.float32)
    inside_V, margin = inside_by_sorting(logits_V, top_p)
    assume(margin > 1e-5)
    np.testing.assert_array_equal(nucleus_of(logits_V[None], top_p=top_p)[0], np.where(inside_V, logits_V, -np.inf))


def test_tokens_that_tie_are_all_inside_or_all_outside():
    probs = np.array([[0.4, 0.2, 0.2, 0.2], [0.25, 0.25, 0.25, 0.25], [0.5, 0.3, 0.1, 0.1]], np.float32)
    kept = np.isfinite(nucleus_of(np.log(probs), top_p=0.7))
    assert kept.tolist() == [[True] * 4, [True] * 4, [True, True, False, False]]


def test_the_least_difference_between_probabilities_decides():
    logits_V = 1 + np.arange(8, dtype=np.float32) * 5e-7
    kept_V = np.isfinite(nucleus_of(logits_V[None], top_p=0.49)[0])
    assert kept_V.tolist() == [False] * 4 + [True] * 4


def test_a_top_p_of_one_keeps_everything_as_it_is():
    np.testing.assert_array_equal(nucleus(LOGITS[None], 1.0)[0], LOGITS)


def test_greedy_is_the_most_probable_token_and_its_probability_at_temperature_one():
    logits_BV = np.stack([LOGITS, np.roll(LOGITS, 3), np.zeros_like(LOGITS)])
    ids_B, log_probs_B = greedy_token(logits_BV)
    assert ids_B.tolist() == [0, 3, 0] and ids_B.dtype == jnp.int32
    expected = [special.log_softmax(LOGITS)[0]] * 2 + [-np.log(VOCABULARY)]
    np.testing.assert_allclose(log_probs_B, expected, rtol=1e-6)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.0, 0.8), (2.0, 0.8)])
def test_frequencies_and_log_probs_are_those_of_the_filtered_tempered_distribution(temperature, top_p):
    tempered_V = special.softmax(LOGITS.astype(np.float64) / temperature)
    inside_V = inside_by_sorting(LOGITS / temperature, top_p)[0] if top_p < 1 else np.ones(VOCABULARY, bool)
    expected_V = np.where(inside_V, tempered_V, 0) / tempered_V[inside_V].sum()

    keys = jax.random.split(jax.random.key(1), NUM_DRAWS)
    ids, log_probs = sample(keys, np.tile(LOGITS, (NUM_DRAWS, 1)), temperature, top_p)
    np.testing.assert_allclose(log_probs, np.log(expected_V[ids]), rtol=2e-5)
    counts_V = np.bincount(ids, minlength=VOCABULARY)
    assert counts_V[~inside_V].sum() == 0 and (counts_V[inside_V] > 0).all()
    assert stats.chisquare(counts_V[inside_V], NUM_DRAWS * expected_V[inside_V]).pvalue > 1e-3


def test_what_a_row_draws_depends_on_its_own_key_and_logits_only():
    keys = jax.random.split(jax.random.key(2), 64)
    logits_BV = np.random.default_rng(0).normal(0, 2, (64, VOCABULARY)).astype(np.float32)
    ids, log_probs = sample(keys, logits_BV, 1.0, 0.9)
    some = np.array([40, 3, 17])
    ids_of_some, log_probs_of_some = sample(keys[some], logits_BV[some], 1.0, 0.9)
    np.testing.assert_array_equal(ids_of_some, ids[some])
    np.testing.assert_allclose(log_probs_of_some, log_probs[some], rtol=1e-6)
    # One key for all rows would draw the same noise for each.
    assert len(set(sample(keys, np.tile(LOGITS, (64, 1)), 1.0, 1.0)[0].tolist())) > 3


@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_extreme_logits(top_p):
    rows = np.array(
        [
            [1e4, 0.0, -1e4],
            [-1e4, -1e4 + 1, -np.inf],
            [3e38, 0.0, -3e38],
            [-np.inf, -np.inf, 5.0],
        ],
        np.float32,
    )
    ids, log_probs = sample(jax.random.split(jax.random.key(0), len(rows)), rows, 1.0, top_p)
    assert ids[0] == 0 and ids[1] in (0, 1) and ids[2] == 0 and ids[3] == 2
    expected = [0.0, special.log_softmax([0.0, 1.0])[int(ids[1])], 0.0, 0.0]
    np.testing.assert_allclose(log_probs, expected, atol=1e-3)  # 1e4 in float32 has steps of 1e-3
    np.testing.assert_array_equal(greedy_token(rows)[0], [0, 1, 0, 2])


def test_log_prob_of_a_token_outside_the_nucleus_is_minus_infinity():
    filtered = nucleus_of(LOGITS[None], top_p=0.5)
    assert log_prob_of(filtered, jnp.array([5])).tolist() == [-np.inf]
