"""The decoder against recorded generations: thoughts, when they end, and the answer's ids, for 8 prompts in one batch.

Recorded rows are left-padded and prefilled twice; ours are right-padded and share one cache, in which a row that has
stopped thinking sits out while others go on.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden.published import EMBED_STD, EOS_ID, SEPARATOR_ID, largest_difference, published_model, recorded
from jax.experimental import io_callback

from colar_jax.decoding.decoder import decode
from colar_jax.decoding.loops import DecodeLimits
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.decoding.thinking import Thought, greedy_latent_thinker, word_thinker
from colar_jax.model.execution import Execution

LATENT_TOLERANCE = 1e-3  # of the largest value: each latent is fed back, and its rounding with it
GREEDY = DecodeLimits(
    max_thoughts=16,
    min_thoughts=1,  # the published code asks whether to stop only after the first latent
    max_answer_tokens=8,
    greedy=True,
    answer_temperature=1.0,
    answer_top_p=1.0,
    separator_id=SEPARATOR_ID,
    eos_id=EOS_ID,
)
GREEDY_LATENTS = greedy_latent_thinker(SEPARATOR_ID)
GREEDY_WORDS = word_thinker(SEPARATOR_ID, greedy=True, temperature=1.0, top_p=1.0)


def run(prompts: list[np.ndarray], think, limits: DecodeLimits):
    """Decode all prompts in one batch, packed into rows."""
    packed = pack_prompts(prompts, shape_for([np.array(list(map(len, prompts)))]))
    keys = jax.random.split(jax.random.key(0), len(prompts))
    return jax.device_get(_run(published_model()[1], packed, keys, think, limits))


@functools.partial(jax.jit, static_argnames=("think", "limits"))
def _run(parameters, prompts, keys, think, limits):
    model = nnx.merge(published_model()[0], parameters)
    return decode(model, prompts, keys, think, limits, Execution())


def recorded_prompts(name: str) -> list[np.ndarray]:
    generate = recorded("generate")
    rows = zip(generate[f"{name}/question_input_ids"], generate[f"{name}/question_attention_mask"], strict=True)
    prompts = [ids[mask == 1] for ids, mask in rows]
    assert all(prompt[-1] == SEPARATOR_ID for prompt in prompts)
    return prompts


def until(ids: np.ndarray, last_id: int) -> np.ndarray:
    """The ids up to and with the first `last_id`, or all of them."""
    return ids[: np.argmax(ids == last_id) + 1] if last_id in ids else ids


def assert_same_answers(decoded, expected_ids: list[np.ndarray]):
    for row, ids in enumerate(expected_ids):
        assert decoded.num_answer_tokens_B[row] == len(ids), row
        np.testing.assert_array_equal(decoded.answer_ids_BA[row, : len(ids)], ids)


def assert_as_recorded(decoded, name: str):
    """The recorded latents, how many there are, whether the limit cut them off, and the answer."""
    generate = recorded("generate")
    num_latents = generate[f"{name}/n_latent_forward"][:, 0]
    np.testing.assert_array_equal(decoded.num_thoughts_B, num_latents)
    stops = generate[f"{name}/eol_draws"] == SEPARATOR_ID
    np.testing.assert_array_equal(decoded.forced_stop_B, ~stops.any(axis=1))
    for row, count in enumerate(num_latents):
        expected = generate[f"{name}/latents"][row, :count]
        assert largest_difference(decoded.thoughts[row, :count] * EMBED_STD["llama"], expected) < LATENT_TOLERANCE, row
    after_separator = generate[f"{name}/pred_ids_with_sep"][:, 1:]
    assert_same_answers(decoded, [until(ids, EOS_ID) for ids in after_separator])


@pytest.mark.parametrize("name", ["greedy_c5", "greedy_c2"])
def test_greedy_latents(name):
    decoded = run(recorded_prompts(name), GREEDY_LATENTS, GREEDY)
    assert len(set(decoded.num_thoughts_B.tolist())) > 3  # rows really stop at different steps, so some sit out
    assert_as_recorded(decoded, name)


def replay(noise_BLD: np.ndarray, stop_BL: np.ndarray, latent_temperature: float):
    """A way to think that draws nothing: the n-th call takes the n-th recorded noise, and stops as was recorded.

    The decision before a thought was recorded after the thought before it; the first has none.
    """
    num_rows, num_latents, hidden_size = noise_BLD.shape
    calls = iter(range(num_latents + 1))

    def recorded_draws():
        call = next(calls)
        stop_B = stop_BL[:, call - 1] if call else np.zeros(num_rows, bool)
        return noise_BLD[:, min(call, num_latents - 1)], stop_B

    def think(model, hidden_BD, keys_B) -> Thought:
        shapes = (jax.ShapeDtypeStruct((num_rows, hidden_size), jnp.float32), jax.ShapeDtypeStruct((num_rows,), bool))
        noise_BD, stop_B = io_callback(recorded_draws, shapes, ordered=True)
        latent_BD = model.latent_head(hidden_BD).sample(noise_BD, latent_temperature)
        nothing_B = jnp.zeros(num_rows, jnp.float32)
        return Thought(latent_BD * model.latent_head.embed_std[...], latent_BD, nothing_B, stop_B, nothing_B)

    return think


def test_sampled_latents():
    generate = recorded("generate")
    think = replay(generate["sampled/noise"], generate["sampled/eol_draws"] == SEPARATOR_ID, latent_temperature=0.8)
    assert_as_recorded(run(recorded_prompts("sampled"), think, GREEDY), "sampled")


def word_prompts() -> list[np.ndarray]:
    return [recorded("single_problem")[f"p{problem}/r1/question_ids"] for problem in range(8)]


def test_text_without_thinking():
    """The decoder feeds `###` and then continues it: the recorded text of 24 tokens, as an answer."""
    limits = dataclasses.replace(GREEDY, max_thoughts=0, min_thoughts=0, max_answer_tokens=24)
    decoded = run(word_prompts(), GREEDY_WORDS, limits)
    assert_same_answers(decoded, [until(ids, EOS_ID) for ids in recorded("generate")["text_cot/pred_ids"]])


def test_text_as_a_chain_of_thought():
    """The same text in two parts: thought in words up to `###`, and continued after it on the same cache."""
    # One row's chain is of 11 words exactly: it ends at the limit without being cut off. Another's never ends.
    limits = dataclasses.replace(GREEDY, max_thoughts=11, min_thoughts=0, max_answer_tokens=4)
    prompts = [np.append(ids, np.int32(SEPARATOR_ID)) for ids in word_prompts()]
    decoded = run(prompts, GREEDY_WORDS, limits)
    assert sorted(decoded.num_thoughts_B[~decoded.forced_stop_B])[-1] == limits.max_thoughts
    assert decoded.forced_stop_B.any()
    for row, recorded_ids in enumerate(recorded("generate")["text_cot/pred_ids"]):
        text = until(recorded_ids, EOS_ID)
        chain = until(text[: limits.max_thoughts + 1], SEPARATOR_ID)
        assert decoded.forced_stop_B[row] == (chain[-1] != SEPARATOR_ID), row
        assert decoded.num_thoughts_B[row] == len(chain) - 1, row
        np.testing.assert_array_equal(decoded.thoughts[row, : len(chain) - 1], chain[:-1])
        if not decoded.forced_stop_B[row]:
            answer = until(text[len(chain) :][: limits.max_answer_tokens], EOS_ID)
            np.testing.assert_array_equal(decoded.answer_ids_BA[row, : len(answer)], answer)
