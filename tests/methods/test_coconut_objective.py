"""Coconut's loss: without latents that of a chain of thought; with them, gradients through all of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.published import largest_difference
from pico_thoughts import COMPUTE, SEPARATOR, merged, problems

from colar_jax.methods.coconut import Coconut
from colar_jax.methods.codi import Codi
from colar_jax.methods.colar import Colar
from colar_jax.methods.cot import Cot
from colar_jax.methods.thinking import thought_chain
from colar_jax.methods.thinking.thought_chain import rescaled, unchanged

ENCODED = problems(12)
COCONUT = Coconut(num_stages=2, latents_per_stage=2, epochs_per_stage=1.0)


def metrics_of(method, batch):
    @jax.jit
    def program(batch):
        keys = jax.random.split(jax.random.key(0), len(batch.row_ids_B))
        return method.objective(merged(), batch, keys, method.count(batch), COMPUTE)[1]

    return program(jax.tree.map(jnp.asarray, batch))


def test_in_stage_0_it_is_a_chain_of_thought():
    """Where mixing draws stage 0, nothing is gone and nothing stands in its place."""
    loader = COCONUT.make_loader(ENCODED, seed=0, rows=1, row_positions=900)
    nothing_gone = dataclasses.replace(COCONUT, epochs_per_stage=1e-9, uniform_probability=0.999999)
    drawn = nothing_gone.make_loader(ENCODED, seed=0, rows=1, row_positions=900)
    rows = [[one._replace(removed=0, num_latents=0) for one in row] for row in loader._rows(0)]
    batch = loader.form.fill(ENCODED, rows, drawn._room_at(drawn.phase(0)))
    words = dataclasses.replace(ENCODED, tails=ENCODED.tails | {"1": ENCODED.tails["auto"]})
    of_words = Cot().make_loader(words, seed=0, rows=1, row_positions=900).batch(0)
    # Of words the `###` that opens the steps is a label, too.
    segments_BM = np.take_along_axis(of_words.segment_ids_BS, of_words.supervised_BM, axis=1)
    opens_BM = np.diff(segments_BM, axis=1, prepend=0) > 0
    assert (of_words.label_ids_BM[opens_BM] == SEPARATOR).all() and opens_BM.sum() == len(ENCODED)
    without = dataclasses.replace(of_words, label_ids_BM=np.where(opens_BM, -1, of_words.label_ids_BM))
    actual, expected = metrics_of(COCONUT, batch), metrics_of(Cot(), without)
    for name in ("cross_entropy", "label_accuracy"):
        assert float(actual[name].sum) == pytest.approx(float(expected[name].sum), rel=1e-5), name
        assert int(actual[name].count) == int(expected[name].count) == (of_words.label_ids_BM >= 0).sum() - len(ENCODED)
    assert float(actual["latents"].sum) == 0


def test_the_answers_gradient_reaches_the_first_latent():
    batch = jax.tree.map(jnp.asarray, COCONUT.make_loader(ENCODED, seed=0, rows=2, row_positions=120).batch(10**3))
    assert set(np.asarray(batch.num_latents_BE[batch.question_lengths_BE > 0]).tolist()) == {4}

    @jax.jit
    def gradient(batch):
        model = merged()
        trunk = thought_chain.run_trunk(model, batch, COMPUTE)

        def loss(hidden_BED):
            start = dataclasses.replace(trunk, last_hidden_BED=hidden_BED)
            latents = thought_chain.run_latents(model, start, batch, 4, unchanged, COMPUTE)
            hidden_BTD, _ = thought_chain.run_tail(model, start, latents, batch, COMPUTE)
            return thought_chain.tail_loss(model, latents, hidden_BTD, batch, COMPUTE)[0]

        return jax.grad(loss)(trunk.last_hidden_BED)

    sizes_BE = np.abs(np.asarray(gradient(batch))).max(axis=-1)
    assert (sizes_BE[np.asarray(batch.question_lengths_BE) > 0] > 1e-4).all()


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_a_rescaled_state_has_the_size_of_an_embedding(scale):
    model = merged()
    hidden = scale * np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)
    fed = rescaled(model, jnp.asarray(hidden))
    sizes = np.sqrt(np.mean(np.square(fed), axis=-1))
    np.testing.assert_allclose(sizes, float(model.latent_head.embed_std[...]), rtol=1e-5)
    assert largest_difference(fed / sizes[:, None], hidden / np.sqrt(np.mean(hidden**2, -1, keepdims=True))) < 1e-5


def test_only_what_reads_the_scale_of_embeddings_measures_it_anew():
    assert dataclasses.replace(COCONUT, rescale=True).calibrates and Colar().calibrates
    assert not COCONUT.calibrates and not Codi().calibrates
