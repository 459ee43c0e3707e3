"""RuPLaR and CoLaR's groups as mixtures: what is fed, what is learned, and that one pass is what decoding does."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.published import largest_difference
from pico_khot import ENCODED, log_probs_after, merged, model
from pico_thoughts import COMPUTE, EOS, SEPARATOR, VOCABULARY

from colar_jax.config import DecodeConfig
from colar_jax.data.prompts import AUTO_SPEED
from colar_jax.data.step_targets import step_shares
from colar_jax.decoding.decoder import decode
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.methods.colar import Colar
from colar_jax.methods.method import decode_limits, supervised_hidden
from colar_jax.methods.ruplar import ColarKhot, Ruplar, _noisy
from colar_jax.methods.thinking import superposition
from colar_jax.model.execution import Execution

POSITION = dict(weighting="position")  # sums and counts over all latents
METHODS = {"ruplar": Ruplar(**POSITION), "khot": ColarKhot(speeds="2,3", **POSITION)}


@functools.cache
def loader(name: str):
    return METHODS[name].make_loader(ENCODED, seed=0, rows=2, row_positions=150)


def batch_of(name: str, step: int = 0):
    return jax.tree.map(jnp.asarray, loader(name).batch(step))


def tokens_of(name: str, batch):
    if name == "ruplar":
        return superposition.latent_tokens(batch, batch.shares_BT)
    scale = np.pad(np.asarray(batch.scale_BS), ((0, 0), (0, 1)))
    return superposition.latent_tokens(batch, np.take_along_axis(scale, np.asarray(batch.token_positions_BT), 1))


def objective(name: str, batch, method=None, parameters=None):
    method = METHODS[name] if method is None else method

    def loss(parameters):
        keys = jax.random.split(jax.random.key(0), len(batch.row_ids_B))
        return method.objective(merged(parameters), batch, keys, method.count(batch), COMPUTE)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(
        jax.tree.map(jnp.asarray, model()[1] if parameters is None else parameters)
    )


def latents_of_row(name: str, row: int, batch) -> list[list[tuple[int, float]]]:
    """The tokens of each latent of a row with their shares, one that a group has twice with two."""
    if name == "ruplar":
        examples = [one.example for one in loader(name)._rows(0)[row]]
        steps = [step for example in examples for step in step_shares(ENCODED, example, "mix")]
        return [list(zip(ids.tolist(), shares.tolist(), strict=True)) for ids, shares in steps]
    found, positions = [], np.asarray(batch.token_positions_BT)[row]
    feeds = np.asarray(superposition.feeds_latent(batch))[row]
    for at in np.asarray(batch.supervised_BM)[row][feeds] + 1:
        ids = np.asarray(batch.token_ids_BT)[row][positions == at].tolist()
        found.append([(i, 1 / len(ids)) for i in ids])
    return found


@pytest.mark.parametrize("name", list(METHODS))
def test_a_latent_is_fed_as_the_mixture_that_it_should_be(name):
    batch = batch_of(name)
    tokens, embedding = tokens_of(name, batch), np.asarray(merged().llama.embedding[...])
    embeds = np.asarray(superposition.embed_shares(merged(), batch, tokens, jnp.float32))
    feeds = np.asarray(superposition.feeds_latent(batch))
    for row in range(2):
        latents = latents_of_row(name, row, batch)
        places = np.asarray(batch.supervised_BM)[row][feeds[row]] + 1
        assert len(places) == len(latents) > 0
        for place, shares in zip(places, latents, strict=True):
            expected = sum(share * embedding[i] for i, share in shares)
            assert largest_difference(embeds[row, place], expected) < 1e-5
        is_token = ~np.isin(np.asarray(batch.token_positions_BT)[row], places)
        is_token &= np.asarray(batch.token_positions_BT)[row] < embeds.shape[1]
        positions = np.asarray(batch.token_positions_BT)[row][is_token]
        np.testing.assert_allclose(embeds[row, positions], embedding[np.asarray(batch.token_ids_BT)[row][is_token]])


@pytest.mark.parametrize("name", list(METHODS))
def test_the_losses_are_what_they_say(name):
    """KL over the whole vocabulary where no share is cut, the cross-entropy of `###` and the answer, and SEM."""
    batch = batch_of(name)
    tokens = tokens_of(name, batch)

    @jax.jit
    def hidden_and_logits():
        own = merged()
        embeds = superposition.embed_shares(own, batch, tokens, jnp.float32)
        hidden = supervised_hidden(own, embeds, batch, COMPUTE)
        return hidden, jax.nn.log_softmax(own.llama.logits(hidden), axis=-1), jax.nn.log_softmax(hidden, axis=-1)

    hidden, log_probs, log_hidden = map(np.asarray, hidden_and_logits())
    feeds, labels = np.asarray(superposition.feeds_latent(batch)), np.asarray(batch.label_ids_BM)
    kl = semantic = cross_entropy = 0.0
    for row in range(2):
        at = np.flatnonzero(feeds[row])
        for number, shares in zip(at, latents_of_row(name, row, batch), strict=True):
            kl += sum(share * (np.log(share) - log_probs[row, number, i]) for i, share in shares)
            segment = np.asarray(batch.segment_ids_BS)[row, np.asarray(batch.supervised_BM)[row]]
            first = np.flatnonzero(segment == segment[number])[0]
            p, q = log_hidden[row, first], log_hidden[row, number + 1]
            semantic += np.sum(np.exp(p) * (p - q))
        for number in np.flatnonzero(labels[row] >= 0):
            cross_entropy -= log_probs[row, number, labels[row, number]]
    (loss, metrics), _ = objective(name, batch)
    assert float(metrics["cross_entropy"].sum) == pytest.approx(cross_entropy, rel=1e-4)
    assert float(metrics["semantic_kl"].sum) == pytest.approx(semantic, rel=1e-3)
    assert float(metrics["latent_kl"].sum) == pytest.approx(kl, rel=1e-4)
    assert int(metrics["latent_kl"].count) == feeds.sum() > 0
    expected = cross_entropy / (labels >= 0).sum() + (kl + semantic) / feeds.sum()
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert hidden.shape[:2] == labels.shape


def test_a_latent_of_one_token_is_an_ordinary_token():
    """At speed 1 a mixture is a token, fed as CoLaR's group of one is; the divergence is its cross-entropy."""
    khot = ColarKhot(speeds="1", sem_weight=0.0, **POSITION)
    batch = jax.tree.map(jnp.asarray, khot.make_loader(ENCODED, seed=0, rows=2, row_positions=150).batch(0))
    words = Colar(speeds="1").make_loader(ENCODED, seed=0, rows=2, row_positions=150).batch(0)
    np.testing.assert_array_equal(batch.token_ids_BT, words.token_ids_BT)
    (_, metrics), _ = objective("khot", batch, khot)
    (_, of_words), _ = objective("khot", jax.tree.map(jnp.asarray, words), Colar(speeds="1", weighting="position"))
    total = float(metrics["cross_entropy"].sum) + float(metrics["latent_kl"].sum)
    assert total == pytest.approx(float(of_words["cross_entropy"].sum), rel=1e-5)


def test_small_shares_are_fed_and_not_learned():
    batch = batch_of("ruplar")
    tokens, cut = tokens_of("ruplar", batch), 0.4
    shares = np.asarray(tokens.shares_BT)
    assert ((shares > 0) & (shares <= cut)).any() and (shares > cut).any()
    (_, whole), _ = objective("ruplar", batch)
    (_, metrics), _ = objective("ruplar", batch, Ruplar(min_share=cut, **POSITION))
    without = dataclasses.replace(batch, shares_BT=jnp.where(shares > cut, shares, 0.0))
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(*batch.supervised_BM.shape, 32)), jnp.float32)
    words = superposition.predicted_words(merged(), hidden, COMPUTE)

    def divergence(tokens, min_share):
        return float(superposition.divergence(merged(), hidden, words, batch.token_ids_BT, tokens, min_share))

    assert divergence(tokens, cut) == pytest.approx(divergence(tokens_of("ruplar", without), 0.0), rel=1e-5)
    assert float(metrics["latent_kl"].sum) != pytest.approx(float(whole["latent_kl"].sum), rel=1e-3)
    assert float(metrics["cross_entropy"].sum) == pytest.approx(float(whole["cross_entropy"].sum), rel=1e-5)


def test_as_many_latents_as_steps():
    batch = batch_of("ruplar")
    for row, dealt in enumerate(loader("ruplar")._rows(0)):
        steps = sum(len(ENCODED.step_starts[one.example]) for one in dealt)
        assert int(superposition.feeds_latent(batch)[row].sum()) == steps


def test_noise_keeps_shares_a_distribution_and_is_drawn_anew():
    batch = batch_of("ruplar")
    tokens = superposition.latent_tokens(batch, batch.shares_BT)
    one, other = (_noisy(tokens, jax.random.split(jax.random.key(seed), 2)) for seed in (0, 1))
    assert largest_difference(one.shares_BT, other.shares_BT) > 0.1
    for row in range(2):
        part, at = np.asarray(tokens.is_part_BT)[row], np.asarray(tokens.predicted_at_BT)[row]
        sums = np.bincount(at[part], np.asarray(one.shares_BT)[row][part])
        assert np.all(np.isclose(sums, 0) | np.isclose(sums, 1, atol=1e-5)) and (sums > 0.5).sum() > 3


def test_the_noise_is_of_scores_at_their_temperature():
    """Shares are `softmax((score + Gumbel noise) / 0.5)`, so the log-odds of two tokens are logistic, of scale 2."""
    shares = [0.5, 0.2, 0.3]
    one = superposition.LatentTokens(jnp.full((1, 3), True), jnp.zeros((1, 3), jnp.int32), jnp.array([shares]))
    tokens = jax.tree.map(lambda leaf: jnp.repeat(leaf, 20_000, axis=0), one)
    noisy = np.asarray(jax.jit(_noisy)(tokens, jax.random.split(jax.random.key(0), 20_000)).shares_BT, np.float64)
    log_odds = np.log(noisy[:, 0] / noisy[:, 1]) - np.log(shares[0] / shares[1])
    quantiles = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
    np.testing.assert_allclose(np.quantile(log_odds, quantiles), 2 * np.log(quantiles / (1 - quantiles)), atol=0.2)


def test_no_gradient_into_the_embeddings_of_mixtures():
    batch = batch_of("ruplar")
    tokens = superposition.latent_tokens(batch, batch.shares_BT)

    def total(embedding):
        parameters = model()[1]
        parameters = parameters | {"llama": parameters["llama"] | {"embedding": embedding}}
        return jnp.sum(superposition.embed_shares(merged(parameters), batch, tokens, jnp.float32))

    gradient = np.asarray(jax.grad(total)(jnp.asarray(model()[1]["llama"]["embedding"])))[:, 0]
    real = np.asarray(batch.token_positions_BT) < batch.segment_ids_BS.shape[1]
    outside = np.asarray(batch.token_ids_BT)[real & ~np.asarray(tokens.is_part_BT)]
    np.testing.assert_array_equal(gradient, np.bincount(outside, minlength=VOCABULARY))


DECODE = DecodeConfig(max_latents=4, min_latents=4, max_answer_tokens=3)


@functools.cache
def decoded():
    thinking = METHODS["ruplar"].thinking(DECODE, SEPARATOR, greedy=True)
    limits = decode_limits(thinking, DECODE, separator_id=SEPARATOR, eos_id=EOS, greedy=True)
    prompts = [np.append(ENCODED.prompt(i, AUTO_SPEED), np.int32(SEPARATOR)) for i in range(6)]
    rows = pack_prompts(prompts, shape_for([np.array([len(prompt) for prompt in prompts])]))
    keys = jax.random.split(jax.random.key(0), 6)
    return prompts, jax.device_get(jax.jit(lambda: decode(merged(), rows, keys, thinking.think, limits, Execution()))())


def test_one_parallel_pass_is_the_loop():
    """With the latents that were decoded fed at once, the next ones are the same, whatever stands before them."""
    prompts, outcome = decoded()
    embedding = np.asarray(merged().llama.embedding[...])
    for question in (0, 3):
        latents = outcome.thoughts[question]
        for padding in (0, 5):
            found = np.exp(log_probs_after(prompts[question], latents, padding)) @ embedding
            assert largest_difference(found[:4], latents) < 1e-5
    assert largest_difference(outcome.thoughts[0], outcome.thoughts[3]) > 0.01


def test_the_first_latent_in_training_is_the_one_that_is_decoded():
    prompts, outcome = decoded()
    rows = [[loader("ruplar")._rows(0)[0][0]._replace(example=example)] for example in range(6)]
    room = loader("ruplar")._room_at(loader("ruplar").phase(0))
    batch = jax.tree.map(jnp.asarray, loader("ruplar").form.fill(ENCODED, rows, room))
    tokens = superposition.latent_tokens(batch, batch.shares_BT)

    @jax.jit
    def predicted():
        own = merged()
        hidden = supervised_hidden(own, superposition.embed_shares(own, batch, tokens, jnp.float32), batch, COMPUTE)
        shares = jax.nn.softmax(own.llama.logits(hidden[:, 1]), axis=-1)
        return shares @ own.llama.embedding[...]

    assert largest_difference(predicted(), outcome.thoughts[:, 0]) < 1e-5
    assert len(prompts) == 6


def test_it_stops_where_the_separator_is_most_probable():
    decode_config = dataclasses.replace(DECODE, min_latents=0)
    think = METHODS["ruplar"].thinking(decode_config, SEPARATOR, greedy=False).think
    own = merged()
    head = np.asarray(own.llama.head_matrix_VD)
    hidden = jnp.asarray(np.stack([30 * head[SEPARATOR], 30 * head[50]]))
    thought = think(own, hidden, None)
    assert thought.stop_B.tolist() == [True, False]
    assert largest_difference(thought.embed_BD[1], head[50]) < 1e-3  # a certainty is an ordinary token


@pytest.mark.parametrize("weighting", ["example", "position"])
def test_problems_without_steps_teach_words_alone(weighting):
    """A step may hold nothing else: its divergences are 0, and not 0 / 0."""
    nothing = (np.zeros(0, np.int32),) * len(ENCODED)
    encoded = dataclasses.replace(ENCODED, steps=nothing, step_starts=nothing, step_ends=nothing)
    method = Ruplar(weighting=weighting)
    batch = jax.tree.map(jnp.asarray, method.make_loader(encoded, seed=0, rows=2, row_positions=150).batch(0))
    (loss, metrics), _ = objective("ruplar", batch, method)
    words = metrics["cross_entropy"]
    assert float(loss) == pytest.approx(float(words.sum) / float(words.count), rel=1e-6)
    assert int(metrics["latent_kl"].count) == int(metrics["semantic_kl"].count) == 0
