import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from colar_jax.decoding.decisions import decision_log_prob, draw_stop, stop_log_odds

SEPARATOR_ID, VOCABULARY = 3, 100


def logits(separator_logit: float) -> np.ndarray:
    """Of the size that a trained model has, where a float32 is rounded by 1e-6."""
    logits_V = np.random.default_rng(0).normal(12.0, 3.0, VOCABULARY)
    logits_V[SEPARATOR_ID] = separator_logit
    return logits_V.astype(np.float32)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("separator_logit", [-10.0, 10.0, 20.0, 30.0, 40.0])
def test_both_decisions_are_exact_however_certain_one_is(separator_logit, temperature):
    logits_V = logits(separator_logit)
    others_V = np.delete(logits_V.astype(np.float64), SEPARATOR_ID)
    log_odds = (np.float64(logits_V[SEPARATOR_ID]) - special.logsumexp(others_V)) / temperature
    found = jax.jit(stop_log_odds, static_argnums=1)(logits_V, SEPARATOR_ID) / temperature
    for stop, expected in ((True, special.log_expit(log_odds)), (False, special.log_expit(-log_odds))):
        np.testing.assert_allclose(decision_log_prob(found, stop), expected, rtol=1e-6, atol=1e-5)


def test_each_row_may_have_a_separator_of_its_own():
    rows_BV = np.stack([logits(10.0), logits(20.0)])
    alone = [stop_log_odds(rows_BV[0], SEPARATOR_ID), stop_log_odds(rows_BV[1], 7)]
    np.testing.assert_allclose(stop_log_odds(rows_BV, np.array([SEPARATOR_ID, 7])), alone, rtol=1e-6)


def test_the_gradient_of_a_decision_is_that_of_its_probability():
    """`d log P(stop) / d odds = P(go on)`, and of going on `-P(stop)`: next to certain as anywhere."""
    for log_odds in (-15.0, 0.5, 15.0):
        for stop, expected in ((True, special.expit(-log_odds)), (False, -special.expit(log_odds))):
            np.testing.assert_allclose(jax.grad(decision_log_prob)(log_odds, stop), expected, rtol=1e-5)


def test_stops_are_drawn_with_their_probability():
    keys = jax.random.split(jax.random.key(0), 4000)
    share = float(jnp.mean(draw_stop(keys, jnp.full(4000, np.float32(special.logit(0.3))))))
    assert share == pytest.approx(0.3, abs=0.03)
