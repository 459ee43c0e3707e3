"""Our Llama against the recorded forward pass of the published one: rows, packed rows, far positions, and the cache."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden.published import largest_difference, llama_config, published_model, recorded

from colar_jax.decoding.prefill import Feeder, Prefilled, read_questions
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.model import rope
from colar_jax.model.execution import Execution
from colar_jax.model.visibility import packed

TOLERANCE = 1e-5
NUM_CACHED = 4  # the last tokens, which were recorded one at a time on a cache


def real_tokens():
    """The recorded rows without their (left) padding: ids, and where each token stands in the recorded arrays."""
    forward = recorded("forward")
    masks = forward["model/attention_mask"]
    where = [(np.full(mask.sum(), row), np.flatnonzero(mask)) for row, mask in enumerate(masks)]
    return [forward["model/input_ids"][at] for at in where], where


def right_padded(rows, length):
    return np.stack([np.pad(row, (0, length - len(row))) for row in rows])


@functools.partial(jax.jit, static_argnames="scan")
def run(parameters, ids_BT, position_ids_BT, segment_ids_BT, *, scan=True):
    """Final hidden states and logits of rows of tokens."""
    llama = nnx.merge(published_model(pad_row=False)[0], parameters).llama
    compute = Execution(scan_layers=scan)
    hidden_BTD, _ = llama.run(llama.embedding[...][ids_BT], position_ids_BT, packed(segment_ids_BT, compute), compute)
    return hidden_BTD, llama.logits(hidden_BTD)


@pytest.mark.parametrize("scan", [True, False])
def test_right_padded_rows(scan):
    forward, (rows, where) = recorded("forward"), real_tokens()
    length = max(map(len, rows))
    position_ids = np.broadcast_to(np.arange(length), (len(rows), length))
    segment_ids = right_padded([np.ones(len(row), np.int32) for row in rows], length)
    hidden, logits = run(
        published_model(pad_row=False)[1], right_padded(rows, length), position_ids, segment_ids, scan=scan
    )
    for row, at in enumerate(where):
        np.testing.assert_array_equal(forward["model/position_ids"][at], np.arange(len(rows[row])))
        assert largest_difference(hidden[row, : len(rows[row])], forward["model/hidden_2"][at]) < TOLERANCE
        assert largest_difference(logits[row, : len(rows[row])], forward["model/logits"][at]) < TOLERANCE


def test_all_rows_packed_into_one():
    forward, (rows, where) = recorded("forward"), real_tokens()
    ids = np.concatenate(rows)[None]
    at = tuple(np.concatenate(indices) for indices in zip(*where, strict=True))
    position_ids = forward["model/position_ids"][at][None]
    segment_ids = np.repeat(np.arange(1, len(rows) + 1), list(map(len, rows)))[None]
    hidden, logits = run(published_model(pad_row=False)[1], ids, position_ids, segment_ids)
    assert largest_difference(hidden[0], forward["model/hidden_2"][at]) < TOLERANCE
    assert largest_difference(logits[0], forward["model/logits"][at]) < TOLERANCE


def test_far_positions():
    """Positions up to 11,723, where Llama-3's scaling of the low frequencies shows. Angles are float32: 1e-4."""
    forward = recorded("forward")
    ids, position_ids = forward["model/input_ids"][:1], forward["model/stretched_position_ids"]
    hidden, logits = run(published_model(pad_row=False)[1], ids, position_ids, np.ones_like(ids))
    assert largest_difference(hidden, forward["model/stretched_last_hidden"]) < 1e-4
    assert largest_difference(logits, forward["model/stretched_logits"]) < 1e-4


def test_rotation_tables():
    forward, config = recorded("forward"), llama_config(640)
    inverse = rope.inverse_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
    np.testing.assert_allclose(inverse, forward["model/rope_inv_freq"], rtol=TOLERANCE)
    assert forward["model/rope_attention_scaling"] == 1
    positions = forward["model/rope_positions"]
    tables = rope.rotation_tables(positions, config.head_dim, config.rope_theta, config.rope_scaling)
    # A float32 angle of position p is off by up to p * 2**-24 radians, which no implementation can avoid.
    atol = 1e-6 + 2 * positions[..., None] * 2.0**-24
    for ours, name in zip(tables, ("cos", "sin"), strict=True):
        twice = np.concatenate([ours, ours], axis=-1)
        assert np.all(np.abs(twice - forward[f"model/rope_{name}"]) <= atol), name


@jax.jit
def run_cached(parameters, prompts, following_ids_CT):
    """Logits `[T, C, V]` of tokens fed one at a time after a prefilled prompt."""
    model = nnx.merge(published_model(pad_row=False)[0], parameters)
    llama = model.llama
    embedding_VD, lengths_C, compute = llama.embedding[...], prompts.lengths_C, Execution()
    hidden_CD, prefix = read_questions(llama, embedding_VD[prompts.token_ids_RS], prompts, compute)
    feeder = Feeder.of(model, Prefilled(prefix, hidden_CD, lengths_C), compute)
    num_rows, num_fed = following_ids_CT.shape

    def feed(suffix, ids_C):
        is_real_C = jnp.ones(num_rows, bool)
        hidden_CD, suffix = feeder.feed(embedding_VD[ids_C], suffix.num_written, is_real_C, suffix)
        return suffix, llama.logits(hidden_CD)

    return jax.lax.scan(feed, feeder.empty_suffix(num_fed), following_ids_CT.T)[1]


def test_one_token_at_a_time_on_the_cache():
    """Rows of 20, 13 and 7 tokens: the last four follow prefilled prompts of 16, 9 and 3."""
    rows = [row for row in real_tokens()[0] if len(row) > NUM_CACHED]
    assert len(rows) == 3
    prompts = [row[:-NUM_CACHED] for row in rows]
    packed = pack_prompts(prompts, shape_for([np.array(list(map(len, prompts)))]))
    logits_TCV = run_cached(
        published_model(pad_row=False)[1],
        packed,
        np.stack([row[-NUM_CACHED:] for row in rows]),
    )
    expected_CTV = recorded("forward")["model/cached_last4_logits"][: len(rows)]
    assert largest_difference(logits_TCV.transpose(1, 0, 2), expected_CTV) < TOLERANCE
