"""KaVa: what the eviction keeps, what the distance is zero for, and where its gradients go."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from pico_thoughts import COMPUTE, PROJECTION_SIZE, merged, model, problems

from colar_jax.methods.kava import Kava
from colar_jax.methods.pccot import Pccot
from colar_jax.methods.thinking import thought_chain
from colar_jax.methods.thinking.cache_distillation import CacheMatching, cache_distance
from colar_jax.methods.thinking.cache_eviction import chains_of, importance, kept, redundancy, unrotated
from colar_jax.methods.thinking.thought_chain import Latents
from colar_jax.model import rope
from colar_jax.model.presets import PRESETS
from colar_jax.model.rope_scaling import LinearScaling

NUM_LATENTS = 4
METHOD = Kava(num_latents=NUM_LATENTS, num_sweeps=2, projection_size=PROJECTION_SIZE)
MATCHING = CacheMatching("smooth_l1", normalise=True, over_batch=True, importance_share=0.1, keys_before_rope=False)


def batch_of(rows: int = 2, method=METHOD):
    return jax.tree.map(jnp.asarray, method.make_loader(problems(12), seed=0, rows=rows, row_positions=90).batch(0))


BATCH = batch_of()


@functools.cache
def teacher():
    """The trunk of the batch, and its chains."""

    @jax.jit
    def program(batch):
        chains = chains_of(batch)
        return thought_chain.run_trunk(merged(), batch, COMPUTE, probes=True, watched_BT=chains.places_BT), chains

    return program(BATCH)


def examples():
    """(row, number in the row) of each real example."""
    return [(row, slot) for row, slot in zip(*np.nonzero(np.asarray(BATCH.question_lengths_BE)), strict=True)]


def test_chains_and_what_follows_them():
    _, chains = teacher()
    assert len(examples()) >= 4
    for row, slot in examples():
        ids = np.asarray(BATCH.trunk_ids_BP[row])
        places = np.flatnonzero(BATCH.tail_segments_BT[row] == slot + 1)
        in_trunk = np.asarray(chains.places_BT)[row, places]
        np.testing.assert_array_equal(ids[in_trunk], BATCH.tail_ids_BT[row, places])  # ### and answer, both times
        chain = np.flatnonzero(chains.is_chain_BEP[row, slot])
        first = int(BATCH.last_BE[row, slot]) + 1
        np.testing.assert_array_equal(chain, np.arange(first, in_trunk[0]))
        np.testing.assert_allclose(np.asarray(chains.shares_BT)[row, places].sum(), 1, rtol=1e-6)
    lengths = np.asarray(chains.is_chain_BEP).sum(axis=2)[np.asarray(BATCH.question_lengths_BE) > 0]
    assert (lengths == 0).any() and (lengths > NUM_LATENTS).any()  # a teacher without its only step, and long ones


def test_padding_is_never_kept_and_time_is_kept():
    _, chains = teacher()
    scores_BKP = jax.random.normal(jax.random.key(3), (2, 2, BATCH.trunk_ids_BP.shape[1])) + 5
    places, is_kept = (np.asarray(x) for x in kept(scores_BKP, chains.is_chain_BEP, NUM_LATENTS))
    for row in range(2):
        for slot in range(places.shape[2]):
            chain = np.flatnonzero(chains.is_chain_BEP[row, slot])
            for head in range(2):
                found = places[row, head, slot][is_kept[row, head, slot]]
                largest = chain[np.argsort(-np.asarray(scores_BKP)[row, head, chain])[:NUM_LATENTS]]
                assert found.tolist() == sorted(largest.tolist())
                assert is_kept[row, head, slot].tolist() == [i < len(found) for i in range(NUM_LATENTS)]
    more_than_there_are, is_kept = kept(scores_BKP, chains.is_chain_BEP, scores_BKP.shape[2] + 3)
    assert more_than_there_are.shape[3] == scores_BKP.shape[2] + 3
    np.testing.assert_array_equal(is_kept.sum(-1)[:, 0], chains.is_chain_BEP.sum(-1))


def test_a_key_that_others_repeat_is_redundant():
    keys = np.random.default_rng(0).normal(size=(1, 2, 8, 6)).astype(np.float32)
    keys[0, 0, 5] = 3 * keys[0, 0, 2]  # the length does not matter
    is_chain = np.zeros((1, 2, 8), bool)
    is_chain[0, 0, 1:7] = True
    shares = np.asarray(redundancy(keys, is_chain))
    np.testing.assert_allclose(shares.sum(axis=2), 1, rtol=1e-5)
    assert (shares[0, :, [0, 7]] == 0).all()
    unit = keys[0, 0, 1:7] / np.linalg.norm(keys[0, 0, 1:7], axis=-1, keepdims=True)
    likeness = [np.mean([unit[i] @ unit[j] for j in range(6) if j != i]) for i in range(6)]
    np.testing.assert_allclose(
        shares[0, 0, 1:7], np.exp(-np.array(likeness)) / np.exp(-np.array(likeness)).sum(), rtol=1e-5
    )
    same = np.ones((1, 2, 8, 6), np.float32)
    same[0, :, 4] = -1  # five alike, and one that is unlike them
    assert np.asarray(redundancy(same, is_chain))[0, 0, 1:7].argmax() == 3


def attention_of_answer(layer: int, row: int, slot: int):
    """[K, P], from nothing but keys and queries: softmax over all that a query sees."""
    trunk, chains = teacher()
    config = PRESETS["pico"]
    keys, queries = np.asarray(trunk.caches[layer][0])[row], np.asarray(trunk.queries[layer])[row]
    segment = np.asarray(BATCH.trunk_segments_BP)[row]
    of_queries = []
    for place in np.flatnonzero(BATCH.tail_segments_BT[row] == slot + 1):
        seen = np.flatnonzero((segment == slot + 1) & (np.arange(len(segment)) <= chains.places_BT[row, place]))
        out = np.zeros((config.num_kv_heads, len(segment)))
        for head in range(config.num_heads):
            of_head = head // (config.num_heads // config.num_kv_heads)
            scores = keys[of_head, seen] @ queries[place, head] / np.sqrt(config.head_dim)
            weights = np.exp(scores - scores.max())
            out[of_head, seen] = np.maximum(out[of_head, seen], weights / weights.sum())
        of_queries.append(out)
    return np.mean(of_queries, axis=0)


@pytest.mark.parametrize("layer", [0, 1])
def test_with_lambda_one_the_answers_attention_decides(layer):
    trunk, chains = teacher()
    shares = np.asarray(importance(trunk.queries[layer], trunk.caches[layer][0], BATCH, chains))
    places, is_kept = (np.asarray(x) for x in kept(jnp.asarray(shares), chains.is_chain_BEP, NUM_LATENTS))
    for row, slot in examples():
        expected = attention_of_answer(layer, row, slot)
        own = np.asarray(BATCH.trunk_segments_BP)[row] == slot + 1
        np.testing.assert_allclose(shares[row][:, own], expected[:, own], rtol=1e-4, atol=1e-6)
        chain = np.flatnonzero(chains.is_chain_BEP[row, slot])
        for head in range(2):
            top = sorted(chain[np.argsort(-expected[head, chain], kind="stable")[:NUM_LATENTS]].tolist())
            assert places[row, head, slot][is_kept[row, head, slot]].tolist() == top


@pytest.mark.slow
def test_queries_are_kept_where_the_answer_is():
    """In both layers, whether or not the last one is computed everywhere."""
    chains = chains_of(BATCH)
    whole, read = (
        thought_chain.run_trunk(
            merged(), BATCH, dataclasses.replace(COMPUTE, scan_layers=scan), probes=True, watched_BT=chains.places_BT
        ).queries
        for scan in (True, False)
    )
    is_real = np.asarray(BATCH.tail_segments_BT) > 0
    for layer in range(2):
        np.testing.assert_allclose(np.asarray(whole[layer])[is_real], np.asarray(read[layer])[is_real], atol=1e-5)


def in_slots(cache, places):
    """What a cache has at these places, as latents have it: slot `l * E + e` is latent `l` of example `e`."""
    B, K, E, M = places.shape
    own_BKEMH = jnp.take_along_axis(cache[:, :, None], places[..., None], axis=3)
    return own_BKEMH.transpose(0, 1, 3, 2, 4).reshape(B, K, M * E, -1)


def as_latents(how: CacheMatching) -> Latents:
    """Latents whose keys and values are those that the eviction keeps."""
    trunk, chains = teacher()
    caches = []
    for (keys, values), queries in zip(trunk.caches, trunk.queries, strict=True):
        scores = how.importance_share * importance(queries, keys, BATCH, chains)
        scores += (1 - how.importance_share) * redundancy(keys, chains.is_chain_BEP)
        places, _ = kept(scores, chains.is_chain_BEP, NUM_LATENTS)
        caches.append((in_slots(keys, places), in_slots(values, places)))
    return Latents(jnp.zeros(()), jnp.zeros(()), tuple(caches))


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_the_evicted_cache_is_at_distance_zero_from_itself(share):
    trunk, chains = teacher()
    how = dataclasses.replace(MATCHING, importance_share=share)
    latents = as_latents(how)
    zero = cache_distance(trunk, latents, BATCH, chains, how, PRESETS["pico"], COMPUTE)
    np.testing.assert_array_equal(zero, 0)
    moved = dataclasses.replace(latents, caches=jax.tree.map(lambda leaf: leaf + 0.5, latents.caches))
    off = np.asarray(cache_distance(trunk, moved, BATCH, chains, how, PRESETS["pico"], COMPUTE))
    has_chain = np.asarray(chains.is_chain_BEP).any(axis=2)
    assert (off[has_chain] > 0.01).all() and (off[~has_chain] == 0).all()


def test_no_gradient_reaches_the_teacher():
    trunk, chains = teacher()
    latents = as_latents(MATCHING)

    def distance(caches, queries, own):
        given = dataclasses.replace(trunk, caches=caches, queries=queries)
        latents_ = dataclasses.replace(latents, caches=jax.tree.map(lambda leaf: leaf + 0.3, own))
        return jnp.sum(cache_distance(given, latents_, BATCH, chains, MATCHING, PRESETS["pico"], COMPUTE))

    of_cache, of_queries, of_latents = jax.grad(distance, argnums=(0, 1, 2))(
        trunk.caches, trunk.queries, latents.caches
    )
    assert all((leaf == 0).all() for leaf in jax.tree.leaves((of_cache, of_queries)))
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(of_latents))


@functools.cache
def objective(method, rows: tuple[int, ...] = (0, 1)):
    part = jax.tree.map(lambda leaf: leaf[np.array(rows)], BATCH)

    @jax.jit
    def program(parameters):
        def loss(parameters):
            keys = jax.random.split(jax.random.key(0), len(rows))
            own = nnx.merge(model()[0], parameters)
            return method.objective(own, part, keys, method.count(part), COMPUTE)

        return jax.value_and_grad(loss, has_aux=True)(parameters)

    return jax.device_get(program(jax.tree.map(jnp.asarray, model()[1])))


@pytest.mark.slow
def test_it_is_pccot_and_the_distance_of_caches():
    (loss, metrics), _ = objective(METHOD)
    fields = {field.name: getattr(METHOD, field.name) for field in dataclasses.fields(Pccot)}
    (without, host_metrics), _ = objective(Pccot(**fields))
    assert metrics.keys() - host_metrics.keys() == {"cache_distance"}
    distance = metrics["cache_distance"]
    assert loss == pytest.approx(without + distance.sum / distance.count, rel=1e-5)
    assert distance.count == len(examples())
    (double, _), _ = objective(dataclasses.replace(METHOD, cache_weight=2.0))
    assert double - loss == pytest.approx(loss - without, rel=1e-4)


@pytest.mark.slow
def test_the_distance_of_caches_trains_the_latents_alone():
    fields = dict(teacher_weight=0.0, student_weight=0.0, distill_weight=0.0)
    (_, _), gradients = objective(dataclasses.replace(METHOD, **fields))
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradients["projection"]))
    # The tail is not compared: nothing that only an answer goes through has a gradient.
    assert np.all(gradients["llama"]["final_norm"]["scale"] != 0)  # by way of the latents
    answers = np.setdiff1d(
        np.asarray(BATCH.tail_ids_BT), np.asarray(BATCH.trunk_ids_BP)[np.asarray(BATCH.is_question_BP)]
    )
    assert np.all(gradients["llama"]["embedding"][answers] == 0)


@pytest.mark.slow
def test_rows_do_not_know_each_other():
    method = dataclasses.replace(METHOD, spread="example")
    (_, whole), _ = objective(method)
    parts = [objective(method, (row,))[0][1] for row in (0, 1)]
    for name, metric in whole.items():
        assert metric.sum == pytest.approx(sum(part[name].sum for part in parts), rel=1e-5)
    assert objective(METHOD)[0][1]["cache_distance"].sum != pytest.approx(whole["cache_distance"].sum, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"rope_scaling": LinearScaling(4.0)}, {"layers": ("no_rope", "full")}])
def test_keys_before_their_rotary_embedding(settings):
    config = dataclasses.replace(PRESETS["pico"], **settings)
    keys = jax.random.normal(jax.random.key(0), (2, 7, 2, config.head_dim))  # [B, S, K, H]
    places = jnp.tile(3 + jnp.arange(7)[None], (2, 1))
    (cos, sin), which = rope.rotations_of_layers(places, config)
    for layer in range(2):
        own = (cos, sin) if which is None else (cos[which[layer]], sin[which[layer]])
        cached = rope.rotate(keys, *own).transpose(0, 2, 1, 3)
        back = unrotated(cached, places, config, layer).transpose(0, 2, 1, 3)
        np.testing.assert_allclose(back, keys, atol=1e-5)
    other = objective(dataclasses.replace(METHOD, keys_before_rope=True))[0][1]["cache_distance"].sum
    assert other != pytest.approx(objective(METHOD)[0][1]["cache_distance"].sum, rel=1e-3)
