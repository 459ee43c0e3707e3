"""The decoder in chunks: the same as in one program, and as one that was cut where the host ended a chain."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from rl.pico_policy import EOS_ID, PROMPTS, SEPARATOR_ID, engine_of, policy

from colar_jax.decoding import chunks
from colar_jax.decoding.loops import DecodeLimits
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.decoding.thinking import word_thinker

LIMIT, NO_END = 12, np.iinfo(np.int32).max
LIMITS = DecodeLimits(
    max_thoughts=LIMIT, min_thoughts=0, max_answer_tokens=5, greedy=False, answer_temperature=1.5, answer_top_p=0.9,
    separator_id=SEPARATOR_ID, eos_id=EOS_ID,
)  # fmt: skip
THINK = word_thinker(SEPARATOR_ID, greedy=False, temperature=2.0, top_p=0.9)
CUE = (5, 17)


@functools.cache
def programs(cue=()):
    engine, room = engine_of(), dataclasses.replace(LIMITS, max_answer_tokens=LIMITS.max_answer_tokens + len(cue))

    def until(what):
        return dataclasses.replace(room, cut_at=what)

    whole = engine.compile_decode(lambda cut_at: (THINK, until(cut_at)), keeps_thoughts=True)
    begin = engine.compile_rows(lambda model, compute, p, k, _: chunks.begin(model, p, k, THINK, room, compute))
    go_on = engine.compile_rows(lambda model, compute, p, e, at: chunks.go_on(model, p, e, THINK, until(at), compute))
    answer = engine.compile_rows(lambda model, compute, p, e, _: chunks.answer(model, p, e, cue, LIMITS, compute))
    return engine, whole, begin, go_on, answer


def rows():
    prompts = PROMPTS * 4
    shape = shape_for([np.array([len(prompt) for prompt in prompts])])
    return pack_prompts(prompts, shape), jax.random.split(jax.random.key(7), len(prompts))


@functools.cache
def whole(cut_at: int = LIMIT):
    engine, decode, *_ = programs()
    return jax.device_get(decode(policy()[1], *engine.put_rows(rows()), np.int32(cut_at)))


def in_chunks(size: int, ends_B=None, cue=()):
    """Chunk after chunk; the host ends chains before the last chunk and after it, by turns."""
    engine, _, begin, go_on, answer = programs(cue)
    parameters, given = policy()[1], engine.put_rows(rows())
    nowhere = np.full(len(given[1]), NO_END, np.int32)
    ends_B = nowhere if ends_B is None else ends_B
    paused, glimpse = begin(parameters, given), None
    for stop in range(size, LIMIT + size, size):
        is_last = stop >= LIMIT
        early = np.where(np.arange(len(ends_B)) % 2 == 0, ends_B, NO_END).astype(np.int32)
        put = engine.put_rows(early if is_last else nowhere)
        paused, glimpse = go_on(parameters, (paused, put), np.int32(min(stop, LIMIT)))
    decoded = answer(parameters, (paused, engine.put_rows(ends_B)))
    return jax.device_get((decoded, glimpse))


@pytest.mark.parametrize("size", [1, 5, 40])
def test_chunks_are_the_decode(size):
    expected, (decoded, glimpse) = whole(), in_chunks(size)
    assert len(set(expected.num_thoughts_B.tolist())) > 3 and expected.forced_stop_B.any()
    for name in ("num_thoughts_B", "forced_stop_B", "answer_ids_BA", "num_answer_tokens_B", "answer_log_probs_BA"):
        np.testing.assert_array_equal(getattr(decoded, name), getattr(expected, name), err_msg=name)
    for words, thoughts, count in zip(glimpse.words_BL, expected.thoughts, expected.num_thoughts_B, strict=True):
        np.testing.assert_array_equal(words[:count], thoughts[:count])
    np.testing.assert_array_equal(glimpse.done_B, ~expected.forced_stop_B)


def test_a_chain_that_is_ended_answers_as_if_it_had_been_cut_there():
    """Also where it had thought on, whatever it thought: as after the other decode's shorter chain."""
    cut_at = 4
    short = whole(cut_at)
    is_cut_B = short.forced_stop_B
    assert 3 < is_cut_B.sum() < len(is_cut_B)
    decoded, _ = in_chunks(5, np.where(is_cut_B, cut_at, NO_END).astype(np.int32))
    for name in ("num_thoughts_B", "answer_ids_BA", "num_answer_tokens_B"):
        np.testing.assert_array_equal(getattr(decoded, name)[is_cut_B], getattr(short, name)[is_cut_B], err_msg=name)
        np.testing.assert_array_equal(getattr(decoded, name)[~is_cut_B], getattr(whole(), name)[~is_cut_B])
    np.testing.assert_allclose(decoded.answer_log_probs_BA[is_cut_B], short.answer_log_probs_BA[is_cut_B], atol=1e-5)
    assert not decoded.forced_stop_B[is_cut_B].any()


def test_what_is_ended_is_fed_the_cue_and_nothing_else_is():
    ends_B = np.where(np.arange(16) % 3 == 0, 2, NO_END).astype(np.int32)
    without, _ = in_chunks(5, ends_B)
    with_cue, _ = in_chunks(5, ends_B, CUE)
    is_ended_B = ends_B < NO_END
    np.testing.assert_array_equal(with_cue.num_thoughts_B, without.num_thoughts_B)
    np.testing.assert_array_equal(with_cue.answer_ids_BA[~is_ended_B], without.answer_ids_BA[~is_ended_B])
    assert (with_cue.answer_log_probs_BA[is_ended_B, 0] != without.answer_log_probs_BA[is_ended_B, 0]).all()
