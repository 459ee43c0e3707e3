"""Latent-SFT: noisy labels that are fed and learned, and latents of k tokens that are decoded as they were trained."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.published import largest_difference
from pico_khot import ENCODED, log_probs_after, merged, model
from pico_thoughts import COMPUTE, EOS, SEPARATOR

from colar_jax.config import DecodeConfig
from colar_jax.decoding.decoder import decode
from colar_jax.decoding.khot import clamped_gumbel
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.errors import UserError
from colar_jax.methods.latent_sft import LatentSft, label_noise
from colar_jax.methods.method import decode_limits, supervised_hidden
from colar_jax.methods.ruplar import ColarKhot
from colar_jax.methods.thinking import superposition
from colar_jax.model.execution import Execution

METHOD, K, ROWS = LatentSft(speeds="2,3", top_k=5, weighting="position"), 5, 3


@functools.cache
def batch():
    """One whose latents have a token twice, too."""
    steps = tuple(np.where(np.arange(len(ids)) % 3 == 1, ids[0], ids).astype(np.int32) for ids in ENCODED.steps)
    encoded = dataclasses.replace(ENCODED, steps=steps)
    loaded = METHOD.make_loader(encoded, seed=0, rows=ROWS, row_positions=150).batch(0)
    return jax.tree.map(jnp.asarray, loaded)


def keys(seed: int = 0):
    return jax.random.split(jax.random.key(seed), ROWS)


def latents_of(tokens, row: int) -> dict[int, dict[int, float]]:
    """By where it is predicted, the tokens of a latent with their shares, those that are there twice added."""
    found: dict[int, dict[int, float]] = {}
    for at in np.flatnonzero(tokens.is_part_BT[row]):
        shares = found.setdefault(int(tokens.predicted_at_BT[row, at]), {})
        token = int(batch().token_ids_BT[row, at])
        shares[token] = shares.get(token, 0.0) + float(tokens.shares_BT[row, at])
    return found


def test_noise_is_clamped_and_one_sided_noise_is_not_negative():
    drawn = np.asarray(clamped_gumbel(jax.random.key(0), (100_000,)))
    lifted = np.asarray(clamped_gumbel(jax.random.key(0), (100_000,), one_sided=True))
    assert drawn.min() == -1.5 and drawn.max() == 3.0 and (lifted.min(), lifted.max()) == (0.0, 4.5)
    np.testing.assert_allclose(lifted, drawn + 1.5, rtol=1e-6)
    assert drawn.mean() == pytest.approx(0.55, abs=0.05)  # Euler's constant, less what is cut


def test_labels_have_fresh_noise_within_its_bounds_and_stay_distributions():
    plain, noisy = dataclasses.replace(METHOD, noise=False), METHOD
    before, after, other = (
        method.latent_tokens(batch(), keys(seed)) for method, seed in ((plain, 0), (noisy, 0), (noisy, 1))
    )
    assert largest_difference(after.shares_BT, other.shares_BT) > 0.1
    num_twice = 0
    for row in range(ROWS):
        groups, noisy_groups = latents_of(before, row), latents_of(after, row)
        assert groups.keys() == noisy_groups.keys() and len(groups) > 1
        for at, shares in groups.items():
            assert sum(noisy_groups[at].values()) == pytest.approx(1, abs=1e-5)
            # log p~ = log p + g - a constant: two tokens differ by what their noise does, at most 4.5.
            moved = [np.log(noisy_groups[at][token] / share) for token, share in shares.items()]
            assert np.ptp(moved) <= 4.5 + 1e-4
            num_twice += len(shares) < 1 / min(shares.values()) - 0.5
    assert num_twice > 1


def test_a_token_that_a_group_has_twice_has_one_noise():
    noise = np.asarray(label_noise(batch(), keys()))
    ids, positions = np.asarray(batch().token_ids_BT), np.asarray(batch().token_positions_BT)
    seen: dict[tuple, float] = {}
    repeated = 0
    for row in range(ROWS):
        for at in np.flatnonzero(positions[row] < positions[row].max()):
            where = (row, positions[row, at], ids[row, at])
            repeated += where in seen
            assert seen.setdefault(where, noise[row, at]) == noise[row, at]
    assert repeated > 1 and len(set(seen.values())) > 0.9 * len(seen)


def objective(method):
    def loss(parameters):
        return method.objective(merged(parameters), batch(), keys(), method.count(batch()), COMPUTE)

    return jax.jit(loss)(jax.tree.map(jnp.asarray, model()[1]))


def test_what_is_fed_is_what_is_learned():
    """Both are the noisy labels: KL(p~ || p) over the whole vocabulary, and cross-entropy of `###` and the answer."""
    tokens = METHOD.latent_tokens(batch(), keys())

    @jax.jit
    def passes():
        own = merged()
        embeds = superposition.embed_shares(own, batch(), tokens, jnp.float32)
        hidden = supervised_hidden(own, embeds, batch(), COMPUTE)
        return embeds, jax.nn.log_softmax(own.llama.logits(hidden), axis=-1)

    embeds, log_probs = map(np.asarray, passes())
    embedding, labels = np.asarray(merged().llama.embedding[...]), np.asarray(batch().label_ids_BM)
    kl = 0.0
    for row in range(ROWS):
        for at, shares in latents_of(tokens, row).items():
            kl += sum(share * (np.log(share) - log_probs[row, at, token]) for token, share in shares.items())
            place = batch().supervised_BM[row, at] + 1
            assert largest_difference(embeds[row, place], sum(p * embedding[i] for i, p in shares.items())) < 1e-5
    cross_entropy = -sum(log_probs[row, at, labels[row, at]] for row, at in zip(*np.nonzero(labels >= 0), strict=True))
    loss, metrics = objective(METHOD)
    # A share that is there twice is summed in halves: off by a constant that no gradient sees.
    shares = np.asarray(tokens.shares_BT)[np.asarray(tokens.is_part_BT)]
    whole = [p for row in range(ROWS) for latent in latents_of(tokens, row).values() for p in latent.values()]
    constant = np.sum(shares * np.log(shares)) - np.sum(whole * np.log(whole))
    assert float(metrics["latent_kl"].sum) == pytest.approx(kl + constant, rel=1e-4) and abs(constant) > 0.1
    assert float(metrics["cross_entropy"].sum) == pytest.approx(cross_entropy, rel=1e-4)
    num_latents = int(metrics["latent_kl"].count)
    assert float(loss) == pytest.approx(cross_entropy / (labels >= 0).sum() + (kl + constant) / num_latents, rel=1e-4)
    assert "semantic_kl" not in metrics


def test_without_noise_it_is_what_groups_alike_teach():
    loss, _ = objective(dataclasses.replace(METHOD, noise=False))
    expected, _ = objective(ColarKhot(speeds="2,3", sem_weight=0.0, min_share=0.0, weighting="position"))
    noisy, _ = objective(METHOD)
    assert float(loss) == float(expected) != float(noisy)


DECODE = DecodeConfig(max_latents=4, min_latents=4, max_answer_tokens=3)


def decoded(questions):
    thinking = METHOD.thinking(DECODE, SEPARATOR, greedy=True)
    limits = decode_limits(thinking, DECODE, separator_id=SEPARATOR, eos_id=EOS, greedy=True)
    prompts = [np.append(ENCODED.prompt(i, 2.0), np.int32(SEPARATOR)) for i in questions]
    rows = pack_prompts(prompts, shape_for([np.array([len(prompt) for prompt in prompts])]))
    row_keys = jax.random.split(jax.random.key(0), len(prompts))
    program = jax.jit(lambda: decode(merged(), rows, row_keys, thinking.think, limits, Execution()))
    return prompts, jax.device_get(program())


def test_the_latents_of_one_parallel_pass_are_those_of_decoding():
    """As training computes them: all fed at once, alone or after padding; and next to whatever other question."""
    prompts, outcome = decoded(range(6))
    _, alone = decoded([3])
    assert largest_difference(alone.thoughts[0], outcome.thoughts[3]) < 1e-5
    embedding = np.asarray(merged().llama.embedding[...])
    for question in (0, 3):
        for padding in (0, 5):
            log_probs = log_probs_after(prompts[question], outcome.thoughts[question], padding)
            for step in range(4):
                ids = np.argsort(-log_probs[step])[:K]
                shares = np.exp(log_probs[step, ids]) / np.exp(log_probs[step, ids]).sum()
                assert largest_difference(shares @ embedding[ids], outcome.thoughts[question, step]) < 1e-5
    assert largest_difference(outcome.thoughts[0], outcome.thoughts[3]) > 0.01


@pytest.mark.slow
def test_the_first_latent_in_training_is_the_one_that_is_decoded():
    loader = LatentSft().make_loader(ENCODED, seed=0, rows=6, row_positions=60)
    trained = jax.tree.map(jnp.asarray, loader.batch(0))
    questions = [row[0] for row in loader._plan(0).rows[:6]]
    _, outcome = decoded(questions)
    tokens = LatentSft().latent_tokens(trained, jax.random.split(jax.random.key(0), 6))

    @jax.jit
    def predicted():
        own = merged()
        hidden = supervised_hidden(own, superposition.embed_shares(own, trained, tokens, jnp.float32), trained, COMPUTE)
        return METHOD.thinking(DECODE, SEPARATOR, greedy=True).think(own, hidden[:, 1], None).embed_BD

    assert largest_difference(predicted(), outcome.thoughts[:, 0]) < 1e-5


def thought(method, hidden, greedy=True):
    think = method.thinking(dataclasses.replace(DECODE, min_latents=0), SEPARATOR, greedy=greedy).think
    return think(merged(), hidden, None)


def test_it_stops_where_the_separator_is_most_probable_and_draws_nothing():
    head = np.asarray(merged().llama.head_matrix_VD)
    hidden = jnp.asarray(np.stack([30 * head[SEPARATOR], 30 * head[50]]))
    assert thought(METHOD, hidden).stop_B.tolist() == [True, False]
    assert largest_difference(thought(METHOD, hidden).embed_BD[1], head[50]) < 1e-3  # a certainty is a token
    np.testing.assert_array_equal(thought(METHOD, hidden, greedy=False).embed_BD, thought(METHOD, hidden).embed_BD)


def test_of_the_whole_vocabulary_it_is_the_superposition_of_all():
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(3, 32)), jnp.float32)
    whole = thought(ColarKhot(), hidden)
    assert largest_difference(thought(LatentSft(top_k=500), hidden).embed_BD, whole.embed_BD) < 1e-5
    assert largest_difference(thought(METHOD, hidden).embed_BD, whole.embed_BD) > 1e-2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(speeds="2,11"), "latent_sft.speeds='2,11' has groups of 11 tokens, and a latent has latent_sft.top_k=10"),
        (dict(speeds="1..10.5"), "has groups of 11 tokens"),
        (dict(top_k=0), "latent_sft.top_k=0 must be positive"),
        (dict(auto_probability=2.0), r"latent_sft.auto_probability=2.0 is not in \[0, 1\]"),
        (dict(kl_weight=-1.0), "latent_sft.kl_weight=-1.0 is negative"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        LatentSft(**settings)
