"""Latent-GRPO's policy: drawn mixtures of tokens are rescored as they were decoded, and pushed where they should be."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import fast
from flax import nnx
from rl.pico_policy import COMPUTE, PROMPTS, SAMPLING, SEPARATOR_ID, VOCABULARY, G, batch_of, policy, rescored, rollouts

from colar_jax.config import RlConfig
from colar_jax.decoding.khot import KhotLatents, drawn_khot_thinker, score_log_prob, score_log_prob_of_update
from colar_jax.decoding.sampling import nucleus
from colar_jax.methods.latent_sft import LatentSft
from colar_jax.model.execution import Execution
from colar_jax.rl.rescoring import rescore
from colar_jax.rl.tree_batch import KINDS, assemble
from colar_jax.rl.update import policy_loss

K = 4
METHOD = LatentSft(top_k=K)
ONE_SIDED = dataclasses.replace(SAMPLING, latent_noise="one_sided")


def batch_and_gaps(sampling=ONE_SIDED, dtype="float32", compute=COMPUTE):
    sampled = rollouts(sampling, dtype, METHOD)
    batch = batch_of(sampled, sampling=sampling)
    log_probs = rescored(policy()[1], batch, sampling, compute)
    return batch, {
        kind: np.abs(log_probs[kind] - terms.old_log_probs)[terms.mask] for kind, terms in batch.terms.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    fast(
        [{}, {"latent_noise": "two_sided"}, {"top_p": 1.0}, {"min_latents": 0}, {"max_latents": 5}],
        {"min_latents": 0},
    ),
    ids=str,
)
def test_rescored_log_probabilities_are_those_of_the_decoder(changes):
    sampling = dataclasses.replace(ONE_SIDED, **changes)
    batch, gaps = batch_and_gaps(sampling)
    lengths = batch.num_thoughts_BG
    assert len(np.unique(lengths)) > 1 and lengths.min() >= sampling.min_latents
    assert isinstance(batch.thoughts_BGLD, KhotLatents) and batch.latents_shape[3] == K
    for kind in ("latent", "answer"):
        assert gaps[kind].size > 20 and gaps[kind].max() < 1e-4, kind
    assert not batch.terms["decision"].mask.any()  # `###` ends a chain for certain: nobody chose


@pytest.mark.slow
def test_in_bfloat16_both_are_near():
    _, gaps = batch_and_gaps(dtype="bfloat16", compute=Execution(dtype="bfloat16"))
    print("largest gaps in bfloat16:", gaps["latent"].max(), gaps["answer"].max())
    assert gaps["latent"].max() < 0.2 and np.median(gaps["answer"]) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    fast(
        [Execution(scan_layers=False), Execution(remat="full"), Execution(logits_chunk=7)], Execution(scan_layers=False)
    ),
)
def test_ways_to_compute_agree(other):
    batch = batch_of(rollouts(ONE_SIDED, method=METHOD))
    expected, actual = rescored(policy()[1], batch, ONE_SIDED), rescored(policy()[1], batch, ONE_SIDED, other)
    for kind in KINDS:
        np.testing.assert_allclose(actual[kind], expected[kind], rtol=1e-4, atol=1e-4)


def test_a_chain_in_a_tree_is_that_chain_alone():
    sampled = rollouts(ONE_SIDED, method=METHOD)
    together = rescored(policy()[1], batch_of(sampled, num_rows=6), ONE_SIDED)
    for chain in range(G):
        batch = batch_of(jax.tree.map(lambda leaf, chain=chain: leaf[chain::G], sampled))
        alone = rescored(policy()[1], batch, ONE_SIDED)
        for kind in ("latent", "answer"):
            expected = np.asarray(together[kind])[: len(PROMPTS), chain, : alone[kind].shape[-1]]
            mask = batch.terms[kind].mask[:, 0]
            np.testing.assert_allclose(np.asarray(alone[kind])[:, 0][mask], expected[mask], rtol=1e-4, atol=1e-4)


def drawn(keys, sampling=ONE_SIDED, size: int = 8):
    """Log-probabilities of the vocabulary at some hidden states, and what was drawn there."""
    model = nnx.merge(policy()[0], jax.tree.map(jnp.asarray, policy()[1]))
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(size, model.llama.config.hidden_size)), jnp.float32) / 2
    think = drawn_khot_thinker(SEPARATOR_ID, K, top_p=sampling.top_p, one_sided=sampling.latent_noise == "one_sided")
    thought = jax.device_get(think(model, hidden, keys))
    return np.asarray(jax.nn.log_softmax(model.llama.logits(hidden))), thought, np.asarray(model.llama.embedding[...])


def test_what_is_drawn():
    """The best of noisy scores among the likeliest K and the nucleus; fed by their softmax, never below the mean."""
    sampling = dataclasses.replace(ONE_SIDED, top_p=0.9)
    seen = [drawn(jax.random.split(jax.random.key(seed), 8), sampling) for seed in range(20)]
    log_probs, embedding = seen[0][0], seen[0][2]
    inside = np.isfinite(nucleus(log_probs, 0.9)) | (log_probs >= np.sort(log_probs)[:, -K, None])
    ever = np.zeros_like(inside)
    for _, thought, _ in seen:
        latents = thought.record
        assert inside[np.arange(8)[:, None], latents.ids].all()
        ever[np.arange(8)[:, None], latents.ids] = True
        above = latents.scores - np.take_along_axis(log_probs, latents.ids, axis=1)
        assert above.min() > -1e-5 and above.max() < 4.5 + 1e-5
        np.testing.assert_allclose(thought.log_prob_B, np.mean(-above - np.exp(-above), axis=1), rtol=1e-4, atol=1e-5)
        shares = np.exp(latents.scores) / np.exp(latents.scores).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(
            thought.embed_BD, np.einsum("bk,bkd->bd", shares, embedding[latents.ids]), rtol=1e-4, atol=1e-5
        )
        assert all(len(set(ids)) == K for ids in latents.ids.tolist())
    assert ever.sum() > K * 8, "the nucleus is wider than K, and noise reaches it"
    assert len({thought.record.ids.tobytes() for _, thought, _ in seen}) > 15
    np.testing.assert_array_equal(seen[0][1].stop_B, log_probs.argmax(axis=1) == SEPARATOR_ID)


def gradient_of_score(score: float, is_good: bool) -> float:
    """Of a latent's log-probability at its token's log-probability 0."""
    scores, good = jnp.array([[score]]), jnp.array([is_good])

    def log_prob(log_prob_of_token):
        return score_log_prob_of_update(scores, jnp.full((1, 1), log_prob_of_token), good)[0]

    assert float(log_prob(0.0)) == pytest.approx(float(score_log_prob(scores, jnp.zeros((1, 1)))[0]), rel=1e-6)
    return float(jax.grad(log_prob)(0.0))


def test_a_push_has_the_sign_of_the_advantage():
    """What was good is pulled up, as far as the score that was drawn; what was bad is always pushed away."""
    for score in (0.1, 1.0, 4.0):
        for is_good in (True, False):
            assert gradient_of_score(score, is_good) == pytest.approx(1 - np.exp(-score), rel=1e-4)
    assert gradient_of_score(-0.5, True) == pytest.approx(1 - np.exp(0.5), rel=1e-4)  # it has passed the score
    assert gradient_of_score(-0.5, False) == pytest.approx(1.0)  # and does not come near what was bad


def test_the_surrogate_is_the_density_of_gumbel_noise():
    """Without clamping: the policy gradient of "which token has the best score" is that of its softmax; quadrature."""
    logits = jnp.array([0.3, -0.8])
    grid = np.linspace(-5.0, 18.0, 1600)
    first, second = np.meshgrid(grid, grid, indexing="ij")
    scores = jnp.asarray(np.stack([first.ravel(), second.ravel()], axis=-1), jnp.float32)
    reward = scores[:, 0] > scores[:, 1]
    area = (grid[1] - grid[0]) ** 2

    def log_density(logits):
        return 2 * score_log_prob(scores, jax.nn.log_softmax(logits)[None])

    density = jnp.exp(log_density(logits))
    assert float(density.sum() * area) == pytest.approx(1, abs=1e-3)
    policy_gradient = jax.grad(lambda logits: jnp.sum(density * reward * log_density(logits)) * area)(logits)
    expected = jax.grad(lambda logits: jax.nn.softmax(logits)[0])(logits)
    np.testing.assert_allclose(policy_gradient, expected, atol=2e-3)


def every_answer():
    """One chain of latents of a question, with each token of the vocabulary as its answer: a group of them all."""
    sampling = dataclasses.replace(ONE_SIDED, top_p=1.0, max_answer_tokens=1)
    sampled = rollouts(sampling, method=METHOD)
    one = jax.tree.map(lambda leaf: np.repeat(leaf[:1], VOCABULARY, axis=0), sampled)
    one = dataclasses.replace(one, answer_ids_BA=np.arange(VOCABULARY, dtype=np.int32)[:, None])
    one = dataclasses.replace(one, num_answer_tokens_B=np.ones(VOCABULARY, np.int32))
    return sampling, one


@pytest.mark.slow
def test_the_policy_gradient_is_that_of_the_expected_reward():
    """All answers to a chain of drawn latents, each as often as it comes: the gradient of what they earn on average."""
    sampling, one = every_answer()
    rewards = np.random.default_rng(1).normal(size=VOCABULARY).astype(np.float32)
    rl = RlConfig(
        num_generations=VOCABULARY, minibatch_size=VOCABULARY, latent_weight=0.0, loss_aggregation="chain_mean"
    )
    parameters = jax.tree.map(jnp.asarray, policy()[1])

    def batch_with(advantages, old):
        decoded = dataclasses.replace(one, answer_log_probs_BA=old[:, None])
        rows = dict(num_rows=1, prompt_room=32, min_thoughts=sampling.min_latents)
        return assemble(PROMPTS[:1], decoded, advantages[None], rl, **rows)

    def answer_log_probs(parameters):
        model = nnx.merge(policy()[0], parameters)
        batch = batch_with(rewards, np.zeros(VOCABULARY, np.float32))
        return rescore(model, batch, SEPARATOR_ID, sampling, COMPUTE).log_probs["answer"][0, :, 0]

    old = np.asarray(jax.jit(answer_log_probs)(parameters))
    assert np.exp(old).sum() == pytest.approx(1, abs=1e-4)
    # An answer counts as often as it is drawn: its advantage is what it is better than the mean, times its probability.
    advantages = np.exp(old) * (rewards - np.exp(old) @ rewards) * VOCABULARY
    batch = batch_with(advantages.astype(np.float32), old)

    def loss(parameters):
        return policy_loss(nnx.merge(policy()[0], parameters), None, batch, SEPARATOR_ID, rl, sampling, COMPUTE)[0]

    def earned(parameters):
        return jnp.exp(answer_log_probs(parameters)) @ rewards

    actual, expected = jax.jit(jax.grad(loss))(parameters), jax.jit(jax.grad(earned))(parameters)
    for name in ("embedding", "blocks"):
        for one_leaf, other in zip(
            jax.tree.leaves(actual["llama"][name]), jax.tree.leaves(expected["llama"][name]), strict=True
        ):
            np.testing.assert_allclose(-np.asarray(one_leaf), other, rtol=1e-3, atol=1e-5)


def test_at_unchanged_parameters_ratios_are_one_and_nothing_flows_into_what_was_fed():
    batch = batch_of(rollouts(ONE_SIDED, method=METHOD), sampling=ONE_SIDED)
    rl = RlConfig(latent_ratio="reduced", dual_clip=3.0)
    parameters = jax.tree.map(jnp.asarray, policy()[1])

    def loss(parameters):
        return policy_loss(nnx.merge(policy()[0], parameters), None, batch, SEPARATOR_ID, rl, ONE_SIDED, COMPUTE)

    (_, metrics), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(parameters)
    for kind in ("latent", "answer"):
        assert float(metrics[f"ratio/{kind}"].sum / metrics[f"ratio/{kind}"].count) == pytest.approx(1, abs=1e-4)
    assert float(metrics["ratio/decision"].count) == 0 == float(metrics["loss/decision"].sum)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert np.abs(gradients["llama"]["embedding"]).max() > 0
    assert not any(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients["latent_head"]))


@functools.cache
def pushed(sign: int):
    """How the log-probability of the first latents' scores changes after a step along the update, by advantage."""
    sampled = rollouts(ONE_SIDED, method=METHOD)
    advantages = sign * np.where(np.arange(len(PROMPTS) * G) % 2, 1.0, -1.0).reshape(len(PROMPTS), G)
    batch = batch_of(sampled, advantages, sampling=ONE_SIDED)
    rl = RlConfig(answer_weight=0.0)
    parameters = jax.tree.map(jnp.asarray, policy()[1])

    def loss(parameters):
        return policy_loss(nnx.merge(policy()[0], parameters), None, batch, SEPARATOR_ID, rl, ONE_SIDED, COMPUTE)[0]

    gradients = jax.jit(jax.grad(loss))(parameters)
    moved = jax.tree.map(lambda leaf, gradient: leaf - 1e-3 * gradient, parameters, gradients)
    before, after = (rescored(given, batch, ONE_SIDED)["latent"] for given in (parameters, moved))
    mask = batch.terms["latent"].mask
    change = np.where(mask, after - before, 0).sum(axis=2) / mask.sum(axis=2)
    return change[advantages > 0].mean(), change[advantages < 0].mean()


@pytest.mark.parametrize("sign", [1, -1])
def test_an_update_makes_good_latents_likelier_than_bad_ones(sign):
    good, bad = pushed(sign)
    assert good > bad + 1e-6
