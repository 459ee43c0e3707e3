import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from colar_jax.decoding.thinking import Thought, greedy_latent_thinker, latent_thinker, word_thinker
from colar_jax.model.latent_head import Gaussian

SEPARATOR_ID = 3
EMBED_STD = 0.5
NUM_ROWS = 4_000
LOGITS = np.array([0.5, -1.0, 2.0, 1.0, 0.0], np.float32)  # of `###`: 1.0, which is not the largest
MEAN = np.array([0.3, -2.0, 0.0, 5.0], np.float32)
STD = np.array([0.1, 1.0, 2.0, 0.5], np.float32)
EMBEDDING = np.arange(20, dtype=np.float32).reshape(5, 4)


class Head:
    """Predicts the same Gaussian everywhere."""

    embed_std = np.array(EMBED_STD, np.float32)

    def __init__(self, std):
        self.std = std

    def __call__(self, hidden_BD):
        return Gaussian(jnp.tile(MEAN, (len(hidden_BD), 1)), jnp.tile(self.std, (len(hidden_BD), 1)))


def model(logits=LOGITS, std=STD):
    llama = types.SimpleNamespace(
        logits=lambda hidden_BD: jnp.tile(logits, (len(hidden_BD), 1)),
        embed=lambda ids, dtype: jnp.array(EMBEDDING)[ids].astype(dtype),
    )
    return types.SimpleNamespace(llama=llama, latent_head=Head(std))


def think_once(think, model, dtype=jnp.float32) -> Thought:
    """The thoughts of many rows that differ in nothing but their keys."""
    keys = jax.random.split(jax.random.key(0), NUM_ROWS)
    return jax.device_get(jax.jit(lambda keys: think(model, jnp.zeros((NUM_ROWS, len(MEAN)), dtype), keys))(keys))


def sampling_thinker(latent_temperature=1.0, stop_temperature=1.0, **options):
    return latent_thinker(
        SEPARATOR_ID, latent_temperature=latent_temperature, stop_temperature=stop_temperature, **options
    )


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_latents_are_draws_from_the_tempered_gaussian_with_its_log_density(temperature):
    thought = think_once(sampling_thinker(latent_temperature=temperature), model())
    std_D = STD.astype(np.float64) * temperature
    densities_BD = stats.norm.logpdf(thought.record.astype(np.float64), MEAN, std_D)
    np.testing.assert_allclose(thought.log_prob_B, densities_BD.mean(axis=1), rtol=1e-4, atol=1e-4)
    for dimension in range(len(MEAN)):
        drawn_B = (thought.record[:, dimension] - MEAN[dimension]) / std_D[dimension]
        assert stats.kstest(drawn_B, "norm").pvalue > 1e-3, dimension
    assert np.abs(np.corrcoef(thought.record.T) - np.eye(len(MEAN))).max() < 0.06  # a draw of its own for each


def test_what_is_fed_is_the_latent_in_the_scale_of_embeddings():
    # Operation by operation: in one program the compiler may compute a latent twice, and round it in two ways.
    with jax.disable_jit():
        thought = think_once(sampling_thinker(), model())
        half = think_once(sampling_thinker(), model(), dtype=jnp.bfloat16)
    np.testing.assert_allclose(thought.embed_BD, thought.record * EMBED_STD, rtol=1e-6)
    # The latent is kept as it was drawn: its log-probability is computed again from it.
    assert (half.embed_BD.dtype, half.record.dtype) == (jnp.bfloat16, np.float32)
    np.testing.assert_allclose(half.record, thought.record, rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_thinking_stops_with_the_tempered_probability_of_the_separator(temperature):
    thought = think_once(sampling_thinker(stop_temperature=temperature), model())
    stop_probability = special.softmax(LOGITS.astype(np.float64) / temperature)[SEPARATOR_ID]
    assert stats.binomtest(int(thought.stop_B.sum()), NUM_ROWS, stop_probability).pvalue > 1e-3
    expected_B = np.where(thought.stop_B, np.log(stop_probability), np.log1p(-stop_probability))
    np.testing.assert_allclose(thought.stop_log_prob_B, expected_B, rtol=1e-5)
    of_stop, of_go_on = (thought.stop_log_prob_B[thought.stop_B == decision][0] for decision in (True, False))
    assert np.exp(of_stop) + np.exp(of_go_on) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_the_odds_of_stopping_have_a_temperature_of_their_own(temperature):
    thought = think_once(sampling_thinker(stop_temperature=2.0, stop_odds_temperature=temperature), model())
    probability = special.softmax(LOGITS.astype(np.float64) / 2)[SEPARATOR_ID]
    tempered = special.expit(special.logit(probability) / temperature)
    assert stats.binomtest(int(thought.stop_B.sum()), NUM_ROWS, tempered).pvalue > 1e-3
    expected_B = np.where(thought.stop_B, np.log(tempered), np.log1p(-tempered))
    np.testing.assert_allclose(thought.stop_log_prob_B, expected_B, rtol=1e-5)


def test_whether_to_stop_is_drawn_apart_from_the_latent():
    thought = think_once(sampling_thinker(), model())
    for dimension in range(len(MEAN)):
        stopped, went_on = (thought.record[thought.stop_B == decision, dimension] for decision in (True, False))
        assert stats.ks_2samp(stopped, went_on).pvalue > 1e-3


@pytest.mark.parametrize(("separator_logit", "stops"), [(100.0, True), (-100.0, False), (2.5, True), (1.5, False)])
def test_greedy_takes_the_mean_and_stops_where_the_separator_is_most_probable(separator_logit, stops):
    logits = LOGITS.copy()
    logits[SEPARATOR_ID] = separator_logit
    greedy = greedy_latent_thinker(SEPARATOR_ID)
    thought = think_once(greedy, model(logits))
    np.testing.assert_array_equal(thought.record, np.tile(MEAN, (NUM_ROWS, 1)))
    np.testing.assert_array_equal(thought.embed_BD, thought.record * EMBED_STD)
    np.testing.assert_array_equal(thought.log_prob_B, 0)
    assert (thought.stop_B == stops).all()
    stop_log_prob = special.log_softmax(logits.astype(np.float64))[SEPARATOR_ID]
    expected = stop_log_prob if stops else np.log1p(-np.exp(stop_log_prob))
    np.testing.assert_allclose(thought.stop_log_prob_B, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("separator_logit", "at_half", "at_argmax"), [(2.1, False, True), (2.6, True, True)])
def test_greedy_stops_at_one_half(separator_logit, at_half, at_argmax):
    """And not where `###` is merely the likeliest of many: with c labels in a group that comes at 1 / (c + 1)."""
    logits = LOGITS.copy()
    logits[SEPARATOR_ID] = separator_logit
    assert logits.argmax() == SEPARATOR_ID
    assert (special.softmax(logits.astype(np.float64))[SEPARATOR_ID] >= 0.5) == at_half
    assert (think_once(greedy_latent_thinker(SEPARATOR_ID), model(logits)).stop_B == at_argmax).all()
    thought = think_once(greedy_latent_thinker(SEPARATOR_ID, stops_at_half=True), model(logits))
    assert (thought.stop_B == at_half).all()
    stop_log_prob = special.log_softmax(logits.astype(np.float64))[SEPARATOR_ID]
    expected = stop_log_prob if at_half else np.log1p(-np.exp(stop_log_prob))
    np.testing.assert_allclose(thought.stop_log_prob_B, expected, rtol=1e-5)


def test_a_certain_decision_has_a_log_probability_of_zero():
    logits = np.where(np.arange(5) == SEPARATOR_ID, 200, 0).astype(np.float32)
    always, never = think_once(sampling_thinker(), model(logits)), think_once(sampling_thinker(), model(-logits))
    assert always.stop_B.all() and not never.stop_B.any()
    for thought in (always, never):
        np.testing.assert_allclose(thought.stop_log_prob_B, 0, atol=1e-6)


def test_a_deterministic_head_thinks_its_mean_and_has_no_density():
    thought = think_once(sampling_thinker(latent_temperature=2.0), model(std=np.zeros_like(STD)))
    np.testing.assert_array_equal(thought.record, np.tile(MEAN, (NUM_ROWS, 1)))
    np.testing.assert_array_equal(thought.log_prob_B, 0)
    assert 0.1 < thought.stop_B.mean() < 0.5  # to stop is still a draw


@pytest.mark.parametrize("greedy", [True, False])
def test_words_are_fed_as_their_embedding_and_end_with_the_separator(greedy):
    logits = LOGITS + np.where(np.arange(5) == SEPARATOR_ID, 0.5, 0).astype(np.float32)
    think = word_thinker(SEPARATOR_ID, greedy=greedy, temperature=0.5, top_p=0.9)
    thought = think_once(think, model(logits), jnp.bfloat16)
    np.testing.assert_array_equal(thought.embed_BD.astype(np.float32), EMBEDDING[thought.record])
    assert thought.embed_BD.dtype == jnp.bfloat16
    np.testing.assert_array_equal(thought.stop_B, thought.record == SEPARATOR_ID)
    if greedy:
        assert (thought.record == 2).all()
        np.testing.assert_allclose(thought.log_prob_B, special.log_softmax(logits)[2], rtol=1e-5)
    else:
        inside = [2, 3]  # 0.69, 0.25 and then 0.03 of the tempered probability
        probs = special.softmax(logits[inside].astype(np.float64) / 0.5)
        assert stats.chisquare(np.bincount(thought.record)[inside], NUM_ROWS * probs).pvalue > 1e-3
        np.testing.assert_allclose(thought.log_prob_B, np.log(probs)[thought.record - 2], rtol=1e-4)


def test_a_thought_depends_on_its_own_key_only():
    think = sampling_thinker()
    keys = jax.random.split(jax.random.key(0), NUM_ROWS)[7:9]
    two = think(model(), jnp.zeros((2, len(MEAN))), keys)
    many = think_once(think, model())
    for name in (field.name for field in dataclasses.fields(Thought)):
        np.testing.assert_allclose(getattr(two, name), getattr(many, name)[7:9], rtol=1e-6, err_msg=name)
