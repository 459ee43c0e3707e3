"""What the update computes again is what the decoder computed when it sampled; and who sees whom in a tree row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import fast
from flax import nnx
from rl.pico_policy import (
    COMPUTE,
    PROMPTS,
    SAMPLING,
    SEPARATOR_ID,
    VOCABULARY,
    G,
    batch_of,
    policy,
    rescored,
    rollouts,
)

from colar_jax.config import RlConfig
from colar_jax.model.execution import Execution
from colar_jax.model.presets import PRESETS
from colar_jax.rl.rescoring import rescore
from colar_jax.rl.tree_batch import KINDS
from colar_jax.rl.update import policy_loss

HIDDEN, PROMPTS_AND_CHAINS = PRESETS["pico"].hidden_size, len(PROMPTS) * G


def gaps(batch, log_probs):
    terms = batch.terms
    return [np.abs(log_probs[kind] - terms[kind].old_log_probs)[terms[kind].mask] for kind in KINDS]


@pytest.mark.parametrize(
    "changes",
    fast(
        [
            {},
            {"min_latents": 0},
            {"top_p": 1.0},
            {"latent_temperature": 1.0, "min_latent_std": 0.0},
            {"max_latents": 5},
            {"stop_odds_temperature": 1.7},
        ],
        {"min_latents": 0},
    ),
    ids=str,
)
def test_rescored_log_probabilities_are_those_of_the_decoder(changes):
    sampling = dataclasses.replace(SAMPLING, **changes)
    sampled = rollouts(sampling)
    lengths = sampled.num_thoughts_B
    assert len(np.unique(lengths)) > 2 and 0 < sampled.forced_stop_B.mean() < 1  # mixed, some of them cut
    assert lengths.min() >= sampling.min_latents
    for kind in gaps(batch := batch_of(sampled, sampling=sampling), rescored(policy()[1], batch, sampling)):
        assert kind.size > 20 and kind.max() < 1e-4, kind.max()


@pytest.mark.parametrize("stop_credit", ["decision", "answer"])
def test_a_forced_stop_that_is_credited_has_the_log_probability_of_the_stop(stop_credit):
    """Which the policy did not choose: the decoder keeps it beside that of going on."""
    sampled = rollouts()
    batch = batch_of(sampled, rl=RlConfig(credit_forced_stops=True, stop_credit=stop_credit))
    last_BGL = np.arange(batch.thoughts_BGLD.shape[2] + 1) == batch.num_thoughts_BG[..., None]
    decisions, forced_BG = batch.terms["decision"], sampled.forced_stop_B.reshape(len(PROMPTS), G)
    assert decisions.mask[last_BGL].all() and forced_BG.any()
    assert (decisions.mask.sum(axis=-1) == 1).all() == (stop_credit == "answer")
    for kind in gaps(batch, rescored(policy()[1], batch)):
        assert kind.max() < 1e-4, kind.max()


@pytest.mark.slow
def test_in_bfloat16_both_are_near():
    sampled = rollouts(dtype="bfloat16")
    batch = batch_of(sampled)
    latents, decisions, answers = gaps(batch, rescored(policy()[1], batch, compute=Execution(dtype="bfloat16")))
    print("largest gaps in bfloat16:", latents.max(), decisions.max(), answers.max())
    # An answer token at the edge of the nucleus may be inside for one of the two only.
    assert latents.max() < 0.05 and decisions.max() < 0.2 and np.median(answers) < 0.1 and answers.max() < 1


@pytest.mark.parametrize(
    "other",
    fast([Execution(scan_layers=False), Execution(remat="full"), Execution(logits_chunk=7)], Execution(logits_chunk=7)),
)
def test_ways_to_compute_agree(other):
    batch = batch_of(rollouts())
    expected, actual = rescored(policy()[1], batch), rescored(policy()[1], batch, compute=other)
    for kind in KINDS:
        np.testing.assert_allclose(actual[kind], expected[kind], rtol=1e-4, atol=1e-4)


def update_of(compute=COMPUTE, sampling=SAMPLING, **rl):
    """The gradient of the loss, jitted, and the batch."""
    rl = RlConfig(min_std=sampling.min_latent_std, **rl)
    batch = batch_of(rollouts(), rl=rl)

    def loss(parameters):
        model = nnx.merge(policy()[0], parameters)
        return policy_loss(model, None, batch, SEPARATOR_ID, rl, sampling, compute)[0]

    return jax.jit(jax.grad(loss))


def flops(**settings) -> float:
    update = update_of(Execution(scan_layers=False), **settings)
    return update.lower(policy()[1]).compile().cost_analysis()["flops"]


@pytest.mark.slow
def test_what_no_term_reads_is_not_computed():
    """Words where nothing is decided; the backward pass of a kind without weight."""
    unread = dataclasses.replace(SAMPLING, min_latents=SAMPLING.max_latents)
    words = 2 * PROMPTS_AND_CHAINS * (SAMPLING.max_latents - SAMPLING.min_latents) * HIDDEN * VOCABULARY
    assert flops() - flops(sampling=unread) > 2.5 * words, "forwards, and twice backwards"
    assert flops() - flops(decision_weight=0.0) > 1.5 * words, "backwards"


@pytest.mark.slow
def test_a_last_layer_that_is_computed_where_it_is_read_has_the_same_gradient():
    """A scan computes all of it."""
    whole, picked = (update_of(Execution(scan_layers=scan))(policy()[1]) for scan in (True, False))
    for expected, actual in zip(jax.tree.leaves(whole), jax.tree.leaves(picked), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_chain_in_a_tree_is_that_chain_alone():
    """Neither the other chains of a row, nor other rows, nor empty rows after them change anything."""
    sampled = rollouts()
    together = rescored(policy()[1], batch_of(sampled, num_rows=6))
    for chain in range(G):
        batch = batch_of(jax.tree.map(lambda leaf, chain=chain: leaf[chain::G], sampled))
        alone = rescored(policy()[1], batch)
        for kind in KINDS:
            size = alone[kind].shape[-1]
            expected = np.asarray(together[kind])[: len(PROMPTS), chain, :size]
            mask = batch.terms[kind].mask[:, 0]
            np.testing.assert_allclose(np.asarray(alone[kind])[:, 0][mask], expected[mask], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_chains_of_a_row_do_not_see_each_other_and_see_what_is_before_them():
    """By gradients with respect to what is fed: latent `i` of a chain moves what comes after it in that chain only."""
    batch = batch_of(rollouts())
    chain, step = 1, 1
    row = int(np.flatnonzero(batch.num_thoughts_BG[:, chain] > step + 1)[0])
    graph, parameters = policy()
    model = nnx.merge(graph, jax.tree.map(jnp.asarray, parameters))

    def fed(embed_shift_D, kind):
        latents = jnp.asarray(batch.thoughts_BGLD)
        shifted = dataclasses.replace(batch, thoughts_BGLD=latents.at[row, chain, step].add(embed_shift_D))
        now = rescore(model, shifted, SEPARATOR_ID, SAMPLING, Execution())
        # Its own density depends on the latent itself, as the value that is scored.
        return now.sampled.mean.sum(axis=-1) if kind == "latent" else now.log_probs[kind]

    zero = jnp.zeros(batch.thoughts_BGLD.shape[-1])
    for kind, terms in batch.terms.items():
        moved = np.abs(jax.jit(jax.jacobian(lambda shift, kind=kind: fed(shift, kind)))(zero)).sum(axis=-1) > 0
        expected = np.zeros_like(terms.mask)
        expected[row, chain] = True if kind == "answer" else np.arange(terms.mask.shape[2]) > step
        assert not (moved & ~expected).any()
        assert moved[terms.mask & expected].all() and (terms.mask & expected).any()


@pytest.mark.slow
def test_no_gradient_flows_through_what_was_fed_and_all_parameters_but_the_scale_get_one():
    batch = batch_of(rollouts())
    graph, parameters = policy()

    def total(parameters):
        now = rescore(nnx.merge(graph, parameters), batch, SEPARATOR_ID, SAMPLING, Execution())
        return sum(jnp.sum(jnp.where(batch.terms[kind].mask, now.log_probs[kind], 0)) for kind in KINDS)

    gradients = jax.grad(total)(parameters)
    assert float(gradients["latent_head"].pop("embed_std")) == 0
    for path, leaf in jax.tree.leaves_with_path(gradients):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


@pytest.mark.slow
def test_a_token_that_left_the_nucleus_keeps_a_log_probability_and_a_gradient():
    """Under another model the recorded tokens are no longer all in the nucleus."""
    batch = batch_of(rollouts())
    other = policy(seed=5)[1]
    graph = policy()[0]

    def answers(parameters):
        now = rescore(nnx.merge(graph, parameters), batch, SEPARATOR_ID, SAMPLING, Execution())
        return now.log_probs["answer"]

    log_probs = np.asarray(answers(other))[batch.terms["answer"].mask]
    assert np.isfinite(log_probs).all() and log_probs.min() < -3
    gradients = jax.grad(lambda parameters: jnp.sum(answers(parameters)))(other)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
