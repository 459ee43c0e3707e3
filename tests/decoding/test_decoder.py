"""The decoder on a small model with random weights, against the same model run over whole sequences without a cache.

Its weights are large, so that rollouts differ: of eight questions some stop thinking at once, some late, some never.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import fast
from flax import nnx
from jax.experimental import io_callback
from scipy import special, stats

from colar_jax.data import layout, packing
from colar_jax.decoding import decoder
from colar_jax.decoding.decoder import Decoded, decode
from colar_jax.decoding.loops import DecodeLimits
from colar_jax.decoding.prompt_rows import PromptShape, pack_prompts
from colar_jax.decoding.sampling import nucleus
from colar_jax.decoding.thinking import Thought, greedy_latent_thinker, latent_thinker
from colar_jax.methods import method
from colar_jax.model.execution import Execution
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import build, calibrate
from colar_jax.model.visibility import packed as packed_rows

SEPARATOR_ID, EOS_ID, VOCABULARY = 60, 61, 64
LATENT_TEMPERATURE, STOP_TEMPERATURE, ANSWER_TEMPERATURE, TOP_P = 0.8, 1.5, 1.2, 0.9
LIMITS = DecodeLimits(
    max_thoughts=10,
    min_thoughts=0,
    max_answer_tokens=8,
    greedy=True,
    answer_temperature=ANSWER_TEMPERATURE,
    answer_top_p=TOP_P,
    separator_id=SEPARATOR_ID,
    eos_id=EOS_ID,
)
THINK = {
    True: greedy_latent_thinker(SEPARATOR_ID),
    False: latent_thinker(SEPARATOR_ID, latent_temperature=LATENT_TEMPERATURE, stop_temperature=STOP_TEMPERATURE),
}
PROMPTS = [
    np.append(np.random.default_rng(length).integers(0, SEPARATOR_ID, length), SEPARATOR_ID).astype(np.int32)
    for length in (3, 9, 5, 7, 4, 8, 6, 2)
]
WIDTH = 10
KEYS = jax.random.split(jax.random.key(0), len(PROMPTS))


@functools.cache
def random_model(seed: int = 37):
    """Graph and parameters. `###` and eos have large embeddings, which makes each the likeliest word now and then."""
    config = dataclasses.replace(PRESETS["pico"], vocab_size=VOCABULARY)
    graph, parameters = build(config, LatentHeadConfig(config.hidden_size), seed=0)
    rng = np.random.default_rng(seed)

    def large(path, leaf):
        values = rng.normal(size=leaf.shape).astype(np.float32)
        if path[1].key == "log_std":
            return 0.05 * values  # standard deviations near 1
        match path[-1].key:
            case "scale" | "norm_scale":
                return 1 + 0.3 * values
            case "embedding":
                return 0.4 * values * np.where(np.isin(np.arange(VOCABULARY), (SEPARATOR_ID, EOS_ID)), 1.5, 1)[:, None]
        return 0.2 * values

    parameters = jax.tree_util.tree_map_with_path(large, parameters)
    return graph, calibrate(jax.tree.map(jnp.float32, parameters), config)


def packed(prompts: list[np.ndarray], width: int = WIDTH):
    """The prompts in rows of twice the width, so that most share one, with cache slots for `width` tokens each."""
    shape = PromptShape(rows=len(prompts), positions=2 * width, width=width)
    return pack_prompts(prompts, shape)


@functools.partial(jax.jit, static_argnames=("think", "limits", "dtype"))
def _decode(parameters, prompts, keys, think, limits, dtype):
    return decode(
        nnx.merge(random_model()[0], parameters), prompts, keys, think, limits, Execution(dtype=jnp.dtype(dtype).name)
    )


def run(prompts=PROMPTS, keys=KEYS, *, greedy=True, width=WIDTH, think=None, dtype="float32", **limits) -> Decoded:
    """Decode, with `limits` that differ from `LIMITS`."""
    limits = dataclasses.replace(LIMITS, greedy=greedy, **limits)
    prompts = packed(prompts, width)
    return jax.device_get(_decode(random_model()[1], prompts, keys, think or THINK[greedy], limits, dtype))


@functools.partial(jax.jit, static_argnames="dtype")
def forward(parameters, embeds_BSD, lengths_B, dtype):
    """Language logits, and the latent Gaussian, at every position of whole sequences."""
    model = nnx.merge(random_model()[0], parameters)
    positions = jnp.broadcast_to(jnp.arange(embeds_BSD.shape[1]), embeds_BSD.shape[:2])
    segments = (positions < lengths_B[:, None]).astype(jnp.int32)
    compute = Execution()
    hidden, _ = model.llama.run(embeds_BSD.astype(dtype), positions, packed_rows(segments, compute), compute)
    return model.llama.logits(hidden), model.latent_head(hidden)


def whole_sequences(prompts, decoded: Decoded) -> list[np.ndarray]:
    """What was fed, from the question to the last answer token but one, as embeddings `[S, D]` for each rollout."""
    parameters = random_model()[1]
    embedding, embed_std = (
        np.asarray(a) for a in (parameters["llama"]["embedding"], parameters["latent_head"]["embed_std"])
    )
    sequences = []
    for row, prompt in enumerate(prompts):
        thoughts = decoded.thoughts[row, : decoded.num_thoughts_B[row]]
        answer_ids = decoded.answer_ids_BA[row, : decoded.num_answer_tokens_B[row] - 1]
        parts = embedding[prompt], thoughts * embed_std, embedding[[SEPARATOR_ID, *answer_ids]]
        sequences.append(np.concatenate(parts))
    return sequences


def assert_as_without_a_cache(decoded: Decoded, prompts, *, greedy, min_thoughts=0, dtype="float32", tolerance=1e-5):
    """Every latent, word and decision of every rollout: what it was, and how probable."""
    sequences = whole_sequences(prompts, decoded)
    length = WIDTH + LIMITS.max_thoughts + LIMITS.max_answer_tokens
    embeds = np.stack([np.pad(sequence, ((0, length - len(sequence)), (0, 0))) for sequence in sequences])
    lengths = np.array([len(sequence) for sequence in sequences])
    logits_BSV, gaussian_BSD = jax.device_get(forward(random_model()[1], embeds, lengths, dtype))
    close = functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)

    for row, prompt in enumerate(prompts):
        num_thoughts, forced = decoded.num_thoughts_B[row], decoded.forced_stop_B[row]
        deciding = slice(len(prompt) - 1, len(prompt) + num_thoughts)  # the positions after which to stop, or think on
        thinking = slice(len(prompt) - 1, len(prompt) - 1 + num_thoughts)
        answering = slice(len(prompt) + num_thoughts, lengths[row])

        stops = np.arange(num_thoughts + 1) == (-1 if forced else num_thoughts)
        logits_V = logits_BSV[row, deciding]
        if greedy:
            is_likeliest = logits_V.argmax(axis=-1) == SEPARATOR_ID
            np.testing.assert_array_equal(stops[min_thoughts:], is_likeliest[min_thoughts:])
        stop_log_probs = special.log_softmax(logits_V / (1 if greedy else STOP_TEMPERATURE), axis=-1)[:, SEPARATOR_ID]
        expected = np.where(stops, stop_log_probs, np.log1p(-np.exp(stop_log_probs)))
        expected[:min_thoughts] = 0
        close(decoded.stop_log_probs_BL[row, : num_thoughts + 1], expected)

        thoughts, mean, std = decoded.thoughts[row, :num_thoughts], gaussian_BSD.mean, gaussian_BSD.std
        if greedy:
            close(thoughts, mean[row, thinking])
            np.testing.assert_array_equal(decoded.thought_log_probs_BL[row, :num_thoughts], 0)
        else:
            densities = stats.norm.logpdf(thoughts, mean[row, thinking], LATENT_TEMPERATURE * std[row, thinking])
            close(decoded.thought_log_probs_BL[row, :num_thoughts], densities.mean(axis=-1))

        logits_AV = logits_BSV[row, answering]
        ids_A = decoded.answer_ids_BA[row, : len(logits_AV)]
        if greedy:
            np.testing.assert_array_equal(ids_A, logits_AV.argmax(axis=-1))
        else:
            logits_AV = np.asarray(nucleus(logits_AV / ANSWER_TEMPERATURE, TOP_P))
        log_probs_AV = special.log_softmax(logits_AV.astype(np.float64), axis=-1)
        close(decoded.answer_log_probs_BA[row, : len(ids_A)], log_probs_AV[np.arange(len(ids_A)), ids_A])


def rollout(decoded: Decoded, row: int) -> dict:
    """What a rollout did, without what is meaningless."""
    num_thoughts, num_answer_tokens = decoded.num_thoughts_B[row], decoded.num_answer_tokens_B[row]
    return {
        "thoughts": decoded.thoughts[row, :num_thoughts],
        "thought_log_probs": decoded.thought_log_probs_BL[row, :num_thoughts],
        "stop_log_probs": decoded.stop_log_probs_BL[row, : num_thoughts + 1],
        "forced_stop": decoded.forced_stop_B[row],
        "answer_ids": decoded.answer_ids_BA[row, :num_answer_tokens],
        "answer_log_probs": decoded.answer_log_probs_BA[row, :num_answer_tokens],
    }


def assert_same_rollout(actual: dict, expected: dict):
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-3, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("greedy", fast([True, False], False))
def test_cached_is_uncached(greedy):
    decoded = run(greedy=greedy)
    assert len(set(decoded.num_thoughts_B.tolist())) >= 3 and len(set(decoded.num_answer_tokens_B.tolist())) >= 3
    assert_as_without_a_cache(decoded, PROMPTS, greedy=greedy)


@pytest.mark.slow
def test_cached_is_uncached_in_bfloat16():
    decoded = run(greedy=False, dtype="bfloat16")
    assert decoded.thoughts.dtype == decoded.answer_log_probs_BA.dtype == np.float32
    assert_as_without_a_cache(decoded, PROMPTS, greedy=False, dtype="bfloat16", tolerance=0.1)


def test_no_stop_before_min_thoughts():
    free, decoded = run(), run(min_thoughts=4)
    assert free.num_thoughts_B.min() == 0 and decoded.num_thoughts_B.min() >= 4
    assert_as_without_a_cache(decoded, PROMPTS, greedy=True, min_thoughts=4)
    for row in np.flatnonzero(free.num_thoughts_B >= 4):  # where nothing was forbidden, nothing changes
        np.testing.assert_array_equal(decoded.num_thoughts_B[row], free.num_thoughts_B[row])
        np.testing.assert_array_equal(rollout(decoded, row)["answer_ids"], rollout(free, row)["answer_ids"])


def test_without_thoughts_the_answer_follows_at_once_and_nothing_was_cut():
    decoded = run(max_thoughts=0)
    assert not decoded.num_thoughts_B.any() and not decoded.forced_stop_B.any()
    # There was no decision either; what is left to compare is the answer.
    decoded = dataclasses.replace(decoded, stop_log_probs_BL=np.zeros((len(PROMPTS), 1)))
    assert_as_without_a_cache(decoded, PROMPTS, greedy=True, min_thoughts=1)


@pytest.mark.slow
@pytest.mark.parametrize("greedy", [True, False])
def test_a_rollout_does_not_depend_on_its_batch(greedy):
    together = run(greedy=greedy)
    assert len(set(together.num_thoughts_B.tolist())) >= 3, "some must sit out while others think"
    backwards = run(PROMPTS[::-1], KEYS[::-1], greedy=greedy)
    for row in range(len(PROMPTS)):
        assert_same_rollout(rollout(backwards, len(PROMPTS) - 1 - row), rollout(together, row))
    if not greedy:
        wide = run(greedy=False, width=19)
        for row in range(len(PROMPTS)):
            alone = run(PROMPTS[row : row + 1], KEYS[row : row + 1], greedy=False)
            assert_same_rollout(rollout(alone, 0), rollout(together, row))
            assert_same_rollout(rollout(wide, row), rollout(together, row))


def test_rollouts_of_a_group_are_copies_of_the_question_each_with_its_key():
    group = run(PROMPTS[:4], greedy=False, num_rollouts=2)
    copies = run([prompt for prompt in PROMPTS[:4] for _ in range(2)], greedy=False)
    for row in range(len(KEYS)):
        assert_same_rollout(rollout(group, row), rollout(copies, row))
    assert len({tuple(rollout(group, row)["answer_ids"]) for row in range(len(KEYS))}) == len(KEYS)


def test_every_draw_has_a_key_of_its_own(monkeypatch):
    def think(model, hidden_BD, keys_B) -> Thought:
        draws_B = jax.vmap(jax.random.uniform)(keys_B)
        return Thought(jnp.zeros_like(hidden_BD), draws_B, draws_B, draws_B > 1, draws_B)

    def word(keys_B, *others):
        return jnp.zeros(len(keys_B), jnp.int32), jax.vmap(jax.random.uniform)(keys_B)

    monkeypatch.setattr(decoder, "sampled_token", word)
    decoded = run(think=think, greedy=False, max_thoughts=3, max_answer_tokens=4)
    draws = np.concatenate([decoded.thoughts, decoded.answer_log_probs_BA], axis=1)
    assert draws.shape == (len(PROMPTS), 3 + 4) and len(np.unique(draws)) == draws.size


def test_both_loops_end_with_the_last_rollout(monkeypatch):
    calls = {"think": 0, "word": 0}

    def counted(name, function):
        def count():
            calls[name] += 1

        def counting(*arguments):
            io_callback(count, None, ordered=True)
            return function(*arguments)

        return counting

    everyone = run()
    monkeypatch.setattr(decoder, "greedy_token", counted("word", decoder.greedy_token))
    early = (everyone.num_thoughts_B < 10) & (everyone.num_answer_tokens_B < 8)
    assert early.sum() >= 2
    chosen = [prompt for prompt, is_early in zip(PROMPTS, early, strict=True) if is_early]
    decoded = run(chosen, KEYS[: len(chosen)], think=counted("think", THINK[True]))
    np.testing.assert_array_equal(decoded.num_thoughts_B, everyone.num_thoughts_B[early])
    assert calls == {"think": decoded.num_thoughts_B.max() + 1, "word": decoded.num_answer_tokens_B.max()}


def scripted(embeds_NBD, stops_NB):
    """A way to think that feeds and decides what is written, at its n-th call; it notes the hidden states it is given.

    The state before a thought that is fed is the thought's record, and of each state the sum stands in the place of
    the log-probability of the decision after it.
    """
    calls = iter(range(len(stops_NB)))
    shapes = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape[1:], array.dtype), (embeds_NBD, stops_NB))

    def next_line():
        call = next(calls)
        return embeds_NBD[call], stops_NB[call]

    def think(model, hidden_BD, keys_B) -> Thought:
        embed_BD, stop_B = io_callback(next_line, shapes, ordered=True)
        return Thought(embed_BD, hidden_BD, jnp.zeros_like(stop_B, jnp.float32), stop_B, jnp.sum(hidden_BD, axis=-1))

    return think


def test_a_stop_is_for_good_and_only_the_limit_forces_one():
    decisions = ["S...", ".S..", "..SS", "...S", "...."]  # of each rollout: before its first thought, its second, ...
    stops_NB = np.array([[decision[n] == "S" for decision in decisions] for n in range(4)])
    think = scripted(np.zeros((4, 5, 32), np.float32), stops_NB)
    decoded = run(PROMPTS[:5], KEYS[:5], think=think, max_thoughts=3)
    assert decoded.num_thoughts_B.tolist() == [0, 1, 2, 3, 3]
    assert decoded.forced_stop_B.tolist() == [False, False, False, False, True]


def test_answers_end_with_eos():
    for greedy in (True, False):
        decoded = run(greedy=greedy)
        for ids, count in zip(decoded.answer_ids_BA, decoded.num_answer_tokens_B, strict=True):
            assert EOS_ID not in ids[: count - 1]
            assert ids[count - 1] == EOS_ID or count == LIMITS.max_answer_tokens
        assert 1 <= decoded.num_answer_tokens_B.min() < decoded.num_answer_tokens_B.max() == LIMITS.max_answer_tokens


def test_decisions_come_as_often_as_their_probabilities_say():
    num_rollouts = 300
    keys = jax.random.split(jax.random.key(3), 2 * num_rollouts)
    decoded = run(PROMPTS[2:4], keys, greedy=False, num_rollouts=num_rollouts)
    num_thoughts_B1 = decoded.num_thoughts_B[:, None]
    step_L = np.arange(LIMITS.max_thoughts + 1)
    was_decided = step_L <= num_thoughts_B1
    stopped = (step_L == num_thoughts_B1) & ~decoded.forced_stop_B[:, None]
    of_decision = np.exp(decoded.stop_log_probs_BL)
    of_stop = np.where(stopped, of_decision, 1 - of_decision)
    surplus, variance = (stopped - of_stop)[was_decided].sum(), (of_stop * (1 - of_stop))[was_decided].sum()
    assert variance > 50 and abs(surplus) < 4 * np.sqrt(variance)


def test_hidden_states_in_training_are_those_of_decoding():
    """Packed rows of compressed steps, against a decode in which the same compressed steps are the thoughts."""
    graph, parameters = random_model()
    model, compute = nnx.merge(graph, parameters), Execution()
    rng = np.random.default_rng(0)
    prompts, speeds, num_steps = PROMPTS[:5], (1.0, 2.0, 3.5, 5.0, 2.0), (6, 11, 7, 3, 1)
    steps = [rng.integers(0, SEPARATOR_ID, count) for count in num_steps]
    rows, shape = [[0, 1, 2], [3, 4]], packing.RowShape(positions=64, tokens=72, supervised=48)

    def batch_with(answers):
        learned = layout.Supervision(latents=True)
        layouts = [
            layout.lay_out(prompt[:-1], ids, answer, SEPARATOR_ID, speed, rng.random(len(ids)), learned)
            for prompt, ids, answer, speed in zip(prompts, steps, answers, speeds, strict=True)
        ]
        return layouts, packing.fill([[layouts[i] for i in row] for row in rows], shape)

    def of_examples(values_BM, layouts):
        """Split what belongs to supervised positions into the examples."""
        for values_M, row in zip(np.asarray(values_BM), rows, strict=True):
            yield from np.split(values_M, np.cumsum([len(layouts[i].label_ids_M) for i in row]))[:-1]

    layouts, batch = batch_with([np.array([EOS_ID])] * 5)
    embeds = method.embed(model, batch, compute)
    num_groups = [len(example.label_ids_M) - 3 for example in layouts]
    next_embeds = method.gather_positions(embeds, batch.supervised_BM + 1)
    embeds_NBD = np.zeros((max(num_groups) + 1, 5, 32), np.float32)
    for example, (count, embeds_MD) in enumerate(zip(num_groups, of_examples(next_embeds, layouts), strict=True)):
        embeds_NBD[:count, example] = embeds_MD[1 : 1 + count]
    stops_NB = np.arange(len(embeds_NBD))[:, None] >= np.array(num_groups)
    decoded = run(prompts, KEYS[:5], think=scripted(embeds_NBD, stops_NB), max_answer_tokens=4)
    assert decoded.num_thoughts_B.tolist() == num_groups == [6, 6, 2, 1, 1]

    answers = [ids[:count] for ids, count in zip(decoded.answer_ids_BA, decoded.num_answer_tokens_B, strict=True)]
    layouts, batch = batch_with(answers)
    hidden_BMD = method.supervised_hidden(model, method.embed(model, batch, compute), batch, compute)
    log_probs_BMV = jax.nn.log_softmax(model.llama.logits(hidden_BMD))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    examples = zip(num_groups, of_examples(hidden_BMD, layouts), of_examples(log_probs_BMV, layouts), strict=True)
    for row, (count, hidden_MD, log_probs_MV) in enumerate(examples):
        close(decoded.thoughts[row, :count], hidden_MD[1 : 1 + count])
        close(decoded.stop_log_probs_BL[row, : count + 1], hidden_MD[1 : 2 + count].sum(axis=-1), rtol=1e-4)
        labels = answers[row]
        assert labels.tolist() == layouts[row].label_ids_M[2 + count :].tolist()
        close(
            decoded.answer_log_probs_BA[row, : len(labels)],
            log_probs_MV[2 + count + np.arange(len(labels)), labels],
        )
