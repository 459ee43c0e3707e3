"""Latents that are functions of the question: only stops and answers are drawn, and updates see through the latents."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import fast
from flax import nnx
from pico_adaptive import METHOD, model
from rl.pico_policy import COMPUTE, PROMPTS, SEPARATOR_ID, VOCABULARY, Ends, G, batch_of

from colar_jax.config import DecodeConfig, RlConfig
from colar_jax.decoding.decoder import Decoded
from colar_jax.decoding.thinking import Determined
from colar_jax.engine import Engine
from colar_jax.model.execution import Execution
from colar_jax.model.visibility import packed
from colar_jax.parallel.mesh import make_mesh
from colar_jax.rl.rescoring import rescore
from colar_jax.rl.rollout import Sampler, ways_to_sample
from colar_jax.rl.tree_batch import assemble
from colar_jax.rl.update import policy_loss

SAMPLING = DecodeConfig(
    max_latents=6, min_latents=0, max_answer_tokens=5, stop_temperature=2.0, answer_temperature=1.5, top_p=0.8
)


@functools.cache
def rollouts(sampling=SAMPLING, dtype="float32") -> Decoded:
    graph, parameters = model(VOCABULARY)
    engine = Engine(graph, make_mesh(jax.devices()[:1]), Execution(dtype=dtype))
    ways = ways_to_sample(engine, METHOD, sampling, Ends(), num_generations=G)
    lengths = np.array([len(prompt) for prompt in PROMPTS])
    ((_, sampled),) = Sampler(engine, ways, batch_size=4, prompt_lengths=lengths).run(
        parameters, PROMPTS, jax.random.key(5)
    )
    return sampled


@functools.partial(jax.jit, static_argnames=("sampling", "compute"))
def rescored(parameters, batch, sampling=SAMPLING, compute=COMPUTE):
    model_now = nnx.merge(model(VOCABULARY)[0], parameters)
    return rescore(model_now, batch, SEPARATOR_ID, sampling, compute).log_probs


@pytest.mark.parametrize(
    "changes",
    fast(
        [{}, {"min_latents": 2}, {"top_p": 1.0}, {"max_latents": 3}, {"stop_odds_temperature": 1.7}], {"min_latents": 2}
    ),
    ids=str,
)
@pytest.mark.parametrize("scan", [True, False])
def test_rescored_log_probabilities_are_those_of_the_decoder(changes, scan):
    sampling = dataclasses.replace(SAMPLING, **changes)
    sampled = rollouts(sampling)
    assert isinstance(sampled.thoughts, Determined) and len(np.unique(sampled.num_thoughts_B)) > 1
    batch = batch_of(sampled, sampling=sampling)
    log_probs = rescored(model(VOCABULARY)[1], batch, sampling, Execution(scan_layers=scan))
    for kind in ("decision", "answer"):
        terms = batch.terms[kind]
        assert terms.mask.sum() > 10
        assert np.abs(log_probs[kind] - terms.old_log_probs)[terms.mask].max() < 1e-4, kind
    assert not batch.terms["latent"].mask.any()  # nobody chose them


@pytest.mark.slow
def test_an_annealed_temperature_of_the_odds_is_that_of_its_row():
    batch = batch_of(rollouts())
    of_rows = dataclasses.replace(batch, stop_odds_temperature_B=np.float32([1.7] * len(PROMPTS)))
    expected = rescored(model(VOCABULARY)[1], batch, dataclasses.replace(SAMPLING, stop_odds_temperature=1.7))
    np.testing.assert_allclose(
        rescored(model(VOCABULARY)[1], of_rows)["decision"], expected["decision"], rtol=1e-5, atol=1e-6
    )


@pytest.mark.slow
def test_a_chain_in_a_row_is_that_chain_alone():
    """Neither the other rollouts of a prompt, nor how far they think, nor empty rows change anything."""
    sampled = rollouts()
    together = rescored(model(VOCABULARY)[1], batch_of(sampled, num_rows=6))
    for chain in range(G):
        batch = batch_of(jax.tree.map(lambda leaf, chain=chain: leaf[chain::G], sampled))
        alone = rescored(model(VOCABULARY)[1], batch)
        for kind in ("decision", "answer"):
            expected = np.asarray(together[kind])[: len(PROMPTS), chain, : alone[kind].shape[-1]]
            mask = batch.terms[kind].mask[:, 0]
            np.testing.assert_allclose(np.asarray(alone[kind])[:, 0][mask], expected[mask], rtol=1e-4, atol=1e-4)


TOY = dataclasses.replace(SAMPLING, max_latents=2, max_answer_tokens=1, top_p=1.0)
NUM_OUTCOMES = 3 * VOCABULARY  # 0, 1 or 2 latents, and each token as the answer


def log_probs_of_outcomes(parameters):
    """Of all that one question can come to, by whole passes without a cache: `[3, V]`."""
    own = nnx.merge(model(VOCABULARY)[0], parameters)
    separator_1D = own.llama.embedding[...][jnp.array([SEPARATOR_ID])]
    embeds_TD = own.llama.embedding[...][jnp.asarray(PROMPTS[0])]

    def last_hidden(embeds_TD):
        positions_1T = jnp.arange(len(embeds_TD))[None]
        hidden, _ = own.llama.run(embeds_TD[None], positions_1T, packed(jnp.ones_like(positions_1T), COMPUTE), COMPUTE)
        return hidden[0, -1]

    gone_on, outcomes = 0.0, []
    for length in range(3):
        hidden_D = last_hidden(embeds_TD)
        log_odds = METHOD.stop_log_odds(own, hidden_D) / TOY.stop_temperature
        stop = jax.nn.log_sigmoid(log_odds) if length < 2 else 0.0
        answer_D = last_hidden(jnp.concatenate([embeds_TD, separator_1D]))
        outcomes.append(gone_on + stop + jax.nn.log_softmax(own.llama.logits(answer_D) / TOY.answer_temperature))
        if length < 2:
            gone_on += jax.nn.log_sigmoid(-log_odds)
            embeds_TD = jnp.concatenate([embeds_TD, METHOD.project(own, hidden_D)[None]])
    return jnp.stack(outcomes)


@pytest.mark.slow
def test_the_policy_gradient_is_that_of_the_expected_reward():
    """Every length and every answer, each as often as it comes: gradients of all weights, through the latents, too."""
    parameters = jax.tree.map(jnp.asarray, model(VOCABULARY)[1])
    rewards = np.random.default_rng(1).normal(size=(3, VOCABULARY)).astype(np.float32)
    log_probs = np.asarray(jax.jit(log_probs_of_outcomes)(parameters))
    probabilities = np.exp(log_probs)
    assert probabilities.sum() == pytest.approx(1, abs=1e-4) and probabilities.sum(axis=1).min() > 0.01
    lengths = np.repeat(np.arange(3, dtype=np.int32), VOCABULARY)
    decoded = Decoded(
        thoughts=Determined(np.zeros((NUM_OUTCOMES, 2, 1), np.float32), METHOD),
        thought_log_probs_BL=np.zeros((NUM_OUTCOMES, 2), np.float32),
        stop_log_probs_BL=np.zeros((NUM_OUTCOMES, 3), np.float32),
        num_thoughts_B=lengths,
        forced_stop_B=lengths == 2,
        answer_ids_BA=np.tile(np.arange(VOCABULARY, dtype=np.int32), 3)[:, None],
        answer_log_probs_BA=np.zeros((NUM_OUTCOMES, 1), np.float32),
        num_answer_tokens_B=np.ones(NUM_OUTCOMES, np.int32),
    )
    rl = RlConfig(
        num_generations=NUM_OUTCOMES, minibatch_size=NUM_OUTCOMES, loss_aggregation="configured_length",
        configured_length=1, epsilon=0.9, epsilon_high=9.0,
    )  # fmt: skip

    def batch_with(advantages):
        return assemble(PROMPTS[:1], decoded, advantages[None], rl, num_rows=1, prompt_room=16, min_thoughts=0)

    advantages = NUM_OUTCOMES * probabilities * (rewards - np.sum(probabilities * rewards))
    batch = batch_with(advantages.reshape(-1).astype(np.float32))
    now = rescored(parameters, batch, TOY)
    terms = {
        kind: dataclasses.replace(of_kind, old_log_probs=np.where(of_kind.mask, now[kind], 0).astype(np.float32))
        for kind, of_kind in batch.terms.items()
    }
    batch = dataclasses.replace(batch, terms=terms)

    def loss(parameters):
        own = nnx.merge(model(VOCABULARY)[0], parameters)
        return policy_loss(own, None, batch, SEPARATOR_ID, rl, TOY, COMPUTE)[0]

    def earned(parameters):
        return jnp.sum(jnp.exp(log_probs_of_outcomes(parameters)) * rewards)

    actual, expected = jax.jit(jax.grad(loss))(parameters), jax.jit(jax.grad(earned))(parameters)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for path, leaf in jax.tree.leaves_with_path(expected):
        found = functools.reduce(lambda tree, key: tree[key.key], path, actual)
        np.testing.assert_allclose(-np.asarray(found), leaf, rtol=1e-3, atol=1e-4 * largest, err_msg=str(path))
    for part in ("projection", "stop_choice"):
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected[part])) > 1e-3 * largest
