"""A step at a time, and after given thoughts, a rollout is what the whole decode says: on the model of test_decoder."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from cases import fast
from decoding.test_decoder import KEYS, LIMITS, PROMPTS, THINK, packed, random_model, run
from flax import nnx

from colar_jax.decoding.replay import FedThoughts, answer_after
from colar_jax.decoding.streaming import StreamedStart, StreamedThought, StreamedToken, Streamer
from colar_jax.model.execution import Execution


@pytest.mark.parametrize("greedy", fast([True, False], False))
def test_a_stream_says_what_the_decoder_says(greedy):
    graph, parameters = random_model()
    limits = dataclasses.replace(LIMITS, greedy=greedy)
    streamer = Streamer(graph, lambda _: (THINK[greedy], limits), Execution())
    decoded = run(greedy=greedy)
    assert len(set(decoded.num_thoughts_B.tolist())) >= 3 and decoded.forced_stop_B.any()
    for row, prompt in enumerate(PROMPTS):
        start, *events = streamer.run(parameters, packed([prompt]), KEYS[row])
        np.testing.assert_allclose(start.stop_log_prob, decoded.stop_log_probs_BL[row, 0], rtol=1e-3, atol=1e-3)
        thoughts = [event for event in events if isinstance(event, StreamedThought)]
        tokens = events[len(thoughts) :]
        assert all(isinstance(token, StreamedToken) for token in tokens)
        log_probs = decoded.answer_log_probs_BA[row, : len(tokens)]
        np.testing.assert_allclose([token.log_prob for token in tokens], log_probs, rtol=1e-3, atol=1e-3)
        assert [token.token_id for token in tokens] == decoded.answer_ids_BA[
            row, : decoded.num_answer_tokens_B[row]
        ].tolist()
        count = decoded.num_thoughts_B[row]
        assert len(thoughts) == count
        for index, thought in enumerate(thoughts):
            np.testing.assert_allclose(thought.record, decoded.thoughts[row, index], rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(thought.log_prob, decoded.thought_log_probs_BL[row, index], rtol=1e-3, atol=1e-3)
            of_decision = decoded.stop_log_probs_BL[row, index + 1]
            np.testing.assert_allclose(thought.stop_log_prob, of_decision, rtol=1e-3, atol=1e-3)
            assert thought.is_last == (index == count - 1 and not decoded.forced_stop_B[row])


def test_thoughts_come_before_they_are_all_there():
    graph, parameters = random_model()
    row = int(np.argmax(run().num_thoughts_B))
    streamer = Streamer(graph, lambda _: (THINK[True], LIMITS), Execution())
    stream = streamer.run(parameters, packed([PROMPTS[row]]), KEYS[row])
    assert isinstance(next(stream), StreamedStart)
    assert isinstance(next(stream), StreamedThought)
    stream.close()  # a user who has seen enough


@functools.partial(jax.jit, static_argnames="limits")
def replayed(parameters, prompts, embeds_BLD, num_thoughts_B, limits=LIMITS):
    model = nnx.merge(random_model()[0], parameters)
    return answer_after(model, prompts, FedThoughts(embeds_BLD, num_thoughts_B), KEYS, limits, Execution())


def test_after_its_own_thoughts_a_rollout_answers_as_it_did():
    parameters, decoded = random_model()[1], run()
    embeds_BLD = decoded.thoughts * np.asarray(parameters["latent_head"]["embed_std"])
    answering = replayed(parameters, packed(PROMPTS), embeds_BLD, decoded.num_thoughts_B)
    for row, count in enumerate(decoded.num_answer_tokens_B):
        assert answering.num_tokens_B[row] == count
        np.testing.assert_array_equal(answering.ids_BA[row, :count], decoded.answer_ids_BA[row, :count])

    # What stands after a chain's end is not fed; what stands before it is.
    behind = np.arange(embeds_BLD.shape[1])[None, :, None] >= decoded.num_thoughts_B[:, None, None]
    same = replayed(parameters, packed(PROMPTS), np.where(behind, 7.0, embeds_BLD), decoded.num_thoughts_B)
    np.testing.assert_array_equal(same.ids_BA, answering.ids_BA)
    other = replayed(parameters, packed(PROMPTS), -embeds_BLD, decoded.num_thoughts_B)
    changed = (np.asarray(other.ids_BA) != np.asarray(answering.ids_BA)).any(axis=1)
    assert changed[decoded.num_thoughts_B > 0].any() and not changed[decoded.num_thoughts_B == 0].any()
