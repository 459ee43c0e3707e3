"""PCCoT: what its sweeps make, that as many as latents are CODI, and how it is decoded, streamed and refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import fast
from pico_thoughts import COMPUTE, EOS, PROJECTION_SIZE, SEPARATOR, merged, model, problems

from colar_jax.config import DecodeConfig
from colar_jax.data.prompts import AUTO_SPEED
from colar_jax.decoding.decoder import decode
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.decoding.replay import FedThoughts, answer_after
from colar_jax.decoding.streaming import StreamedStart, StreamedThought, Streamer
from colar_jax.errors import UserError
from colar_jax.evaluation.cost import CostModel, cost_of
from colar_jax.methods.codi import Codi
from colar_jax.methods.kava import Kava
from colar_jax.methods.method import decode_limits
from colar_jax.methods.pccot import Pccot
from colar_jax.model.execution import Execution
from colar_jax.model.presets import PRESETS
from colar_jax.model.visibility import packed

NUM_LATENTS = 5
CODI = Codi(num_latents=NUM_LATENTS, projection_size=PROJECTION_SIZE)
DECODE = DecodeConfig(max_answer_tokens=6)
ENCODED = problems(7)
PROMPTS = [np.append(ENCODED.prompt(i, AUTO_SPEED), np.int32(SEPARATOR)) for i in range(len(ENCODED))]


def swept(num_sweeps: int, **settings) -> Pccot:
    return Pccot(num_latents=NUM_LATENTS, num_sweeps=num_sweeps, projection_size=PROJECTION_SIZE, **settings)


def packed_rows(prompts):
    return pack_prompts(prompts, shape_for([np.array([len(prompt) for prompt in prompts])]))


def ways(method, decode_config=DECODE, num_rollouts: int = 1):
    thinking = method.thinking(decode_config, SEPARATOR, greedy=True)
    limits = decode_limits(
        thinking, decode_config, separator_id=SEPARATOR, eos_id=EOS, greedy=True, num_rollouts=num_rollouts
    )
    return thinking.think, limits


@functools.cache
def decoded(method, prompts: tuple[int, ...] = tuple(range(len(PROMPTS))), num_rollouts: int = 1):
    rows = packed_rows([PROMPTS[i] for i in prompts])
    keys = jax.random.split(jax.random.key(0), len(prompts) * num_rollouts)
    return jax.device_get(
        jax.jit(lambda: decode(merged(), rows, keys, *ways(method, num_rollouts=num_rollouts), Execution()))()
    )


@functools.cache
def metrics_of(method, **settings):
    batch = jax.tree.map(jnp.asarray, method.make_loader(problems(12), seed=0, rows=2, row_positions=110).batch(0))
    compute = dataclasses.replace(COMPUTE, **settings)

    @jax.jit
    def program():
        keys = jax.random.split(jax.random.key(0), 2)
        return method.objective(merged(), batch, keys, method.count(batch), compute)

    loss, metrics = program()
    return float(loss), {name: float(metric.sum) for name, metric in metrics.items()}


@pytest.mark.slow
def test_as_many_sweeps_as_latents_are_codi():
    method = swept(NUM_LATENTS, distill_embedding=True)
    ours, expected = decoded(method), decoded(CODI)
    np.testing.assert_allclose(ours.thoughts, expected.thoughts, atol=1e-5)
    np.testing.assert_array_equal(ours.answer_ids_BA, expected.answer_ids_BA)
    np.testing.assert_allclose(ours.answer_log_probs_BA, expected.answer_log_probs_BA, atol=1e-5)
    loss, metrics = metrics_of(method)
    expected_loss, expected_metrics = metrics_of(CODI)
    assert loss == pytest.approx(expected_loss, rel=1e-5) and metrics == pytest.approx(expected_metrics, rel=1e-5)


@pytest.mark.parametrize("num_sweeps", [1, 3])
def test_after_t_sweeps_the_first_t_latents_are_those_of_the_recurrence(num_sweeps):
    """The last one that is fed was made of the sweep before; the latents after them are others."""
    ours, expected = decoded(swept(num_sweeps)).thoughts, decoded(CODI).thoughts
    np.testing.assert_allclose(ours[:, :num_sweeps], expected[:, :num_sweeps], atol=1e-5)
    assert (np.abs(ours - expected)[:, num_sweeps:].max(axis=(0, 2)) > 0.05).all()


@pytest.mark.parametrize("num_sweeps", [0, 1, 2])
def test_latents_are_those_of_whole_passes(num_sweeps):
    """Each pass over question and all latents, one question a row, nothing kept; `###` is everywhere in the first."""

    @jax.jit
    def whole_pass(embeds_TD):
        ones_1T = jnp.ones((1, len(embeds_TD)), jnp.int32)
        places_1T = jnp.arange(len(embeds_TD))[None]
        return merged().llama.run(embeds_TD[None], places_1T, packed(ones_1T, Execution()), Execution())[0][0]

    embedding = merged().llama.embedding[...]
    for index in (0, 4):
        question = embedding[PROMPTS[index]]
        fed = jnp.tile(embedding[SEPARATOR][None], (NUM_LATENTS, 1))
        for _ in range(num_sweeps):
            hidden = whole_pass(jnp.concatenate([question, fed]))
            fed = merged().projection(hidden[len(question) - 1 : -1])
        np.testing.assert_allclose(decoded(swept(num_sweeps)).thoughts[index], fed, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("num_sweeps", fast([0, 2], 2))
def test_a_question_is_thought_about_as_if_it_were_alone(num_sweeps):
    """Whatever is beside it in the batch, whatever padding its row has, and in each of its rollouts."""
    together = decoded(swept(num_sweeps))
    for index in (1, 3):
        alone = decoded(swept(num_sweeps), (index,), 2)
        for rollout in range(2):
            np.testing.assert_allclose(alone.thoughts[rollout], together.thoughts[index], atol=1e-5)
            np.testing.assert_array_equal(alone.answer_ids_BA[rollout], together.answer_ids_BA[index])


def test_answers_see_what_the_last_sweep_fed():
    """A position at a time from the thoughts that were recorded, the same answers come."""
    outcome, rows = decoded(swept(2)), packed_rows(PROMPTS)
    keys = jax.random.split(jax.random.key(0), len(PROMPTS))
    limits = ways(swept(2))[1]

    def replayed(thoughts):
        return answer_after(merged(), rows, FedThoughts(thoughts, outcome.num_thoughts_B), keys, limits, Execution())

    same, other = jax.jit(replayed)(outcome.thoughts), jax.jit(replayed)(-outcome.thoughts)
    np.testing.assert_array_equal(same.ids_BA, outcome.answer_ids_BA)
    np.testing.assert_allclose(same.log_probs_BA, outcome.answer_log_probs_BA, atol=1e-5)
    assert (np.asarray(other.ids_BA) != outcome.answer_ids_BA).any()


@pytest.mark.slow
def test_a_stream_says_what_the_decoder_says():
    graph, parameters = model()
    streamer = Streamer(graph, lambda _: ways(swept(2)), Execution())
    outcome = decoded(swept(2))
    assert (outcome.num_thoughts_B == NUM_LATENTS).all() and not outcome.forced_stop_B.any()
    for row in (0, 2):
        start, *events = streamer.run(
            jax.tree.map(jnp.asarray, parameters), packed_rows([PROMPTS[row]]), jax.random.key(0)
        )
        thoughts = [event for event in events if isinstance(event, StreamedThought)]
        assert isinstance(start, StreamedStart) and [thought.is_last for thought in thoughts] == [False] * 4 + [True]
        np.testing.assert_allclose([thought.record for thought in thoughts], outcome.thoughts[row], atol=1e-5)
        said = [event.token_id for event in events[NUM_LATENTS:]]
        assert said == outcome.answer_ids_BA[row, : outcome.num_answer_tokens_B[row]].tolist()


@pytest.mark.slow
def test_without_the_question_a_latent_is_made_of_the_one_before_it_alone():
    blind_ways = ways(swept(2), dataclasses.replace(DECODE, latents_see_question=False))
    rows, keys = packed_rows(PROMPTS), jax.random.split(jax.random.key(0), len(PROMPTS))
    blind = jax.jit(lambda: decode(merged(), rows, keys, *blind_ways, Execution()))().thoughts

    @jax.jit
    def alone(latents_BD):
        ones_B1 = jnp.ones((len(latents_BD), 1), jnp.int32)
        hidden = merged().llama.run(latents_BD[:, None], 0 * ones_B1, packed(ones_B1, Execution()), Execution())[0]
        return merged().projection(hidden[:, 0])

    seen = decoded(swept(2)).thoughts
    np.testing.assert_allclose(blind[:, 0], seen[:, 0], atol=1e-5)
    np.testing.assert_allclose(blind[:, 1], alone(blind[:, 0]), atol=1e-5)
    of_separator = alone(jnp.tile(merged().llama.embedding[...][SEPARATOR][None], (len(PROMPTS), 1)))
    np.testing.assert_allclose(blind[:, 2], alone(of_separator), atol=1e-5)


@pytest.mark.slow
def test_a_sweep_is_a_pass():
    """The gradient of the answer's loss reaches every latent's pass, and no sweep is detached."""
    method = swept(2, teacher_weight=0.0, distill_weight=0.0)
    batch = jax.tree.map(jnp.asarray, method.make_loader(problems(6), seed=0, rows=1, row_positions=300).batch(0))

    def loss(scale, number):
        own, calls = merged(), []

        def project(model, hidden):
            calls.append(None)
            return method.project(model, hidden) * (scale if len(calls) == number else 1.0)

        from colar_jax.methods.thinking import thought_chain
        from colar_jax.methods.thinking.thought_sweeps import Sweeps, run_sweeps

        trunk = thought_chain.run_trunk(own, batch, COMPUTE)
        latents = run_sweeps(own, trunk, batch, Sweeps(NUM_LATENTS, 2, project), COMPUTE)
        hidden, _ = thought_chain.run_tail(own, trunk, latents, batch, COMPUTE)
        return thought_chain.tail_loss(own, latents, hidden, batch, COMPUTE)[0]

    for number in (1, 2):  # the first latent, and the others (of both sweeps: one traced call)
        assert abs(float(jax.jit(jax.grad(loss), static_argnums=1)(1.0, number))) > 1e-3


def test_costs_of_sweeps():
    sizes = dict(llama=PRESETS["pico"], latent_head_size=0, bytes_per_value=4, reads_words=False)
    in_turn, at_once = CostModel(**sizes), CostModel(**sizes, sweeps=3)
    outcome = type("D", (), dict(
        prompt_tokens_N=np.array([10, 12]), lengths_N=np.array([24, 24]), answer_tokens_N=np.array([3, 5]), seconds=1.0,
        measured={},
    ))()  # fmt: skip
    costs = [cost_of(model, [outcome]) for model in (in_turn, at_once)]
    assert [cost.forward_passes for cost in costs] == [1 + 24 + 4, 1 + 4 + 4]
    assert costs[0].kv_bytes == costs[1].kv_bytes
    # Layers run over the latents four times.
    layers = 2 * (32 * (32 + 16 + 16) + 32 * 32 + 3 * 32 * 64)
    attention = 4 * 2 * 4 * 8 * 3 * 24 * (11 + 25 / 2)
    assert costs[1].flops - costs[0].flops == pytest.approx(3 * 24 * 2 * layers + attention)


@pytest.mark.slow
@pytest.mark.parametrize("method", [swept(2), Kava(num_latents=NUM_LATENTS, projection_size=PROJECTION_SIZE)])
@pytest.mark.parametrize(
    "settings", fast([{"scan_layers": False}, {"scan_layers": False, "remat": "full"}], {"scan_layers": False})
)
def test_how_it_is_computed_does_not_matter(method, settings):
    """Without a scan the last layer has queries only where it is read."""
    loss, metrics = metrics_of(method)
    other_loss, other_metrics = metrics_of(method, **settings)
    assert other_loss == pytest.approx(loss, rel=1e-5) and other_metrics == pytest.approx(metrics, rel=1e-5)


def test_settings():
    for settings, message in (
        ({"num_sweeps": 25}, "pccot.num_sweeps=25 must be between 0 and num_latents=24"),
        ({"num_sweeps": -1}, "pccot.num_sweeps=-1"),
        ({"num_latents": 0}, "pccot.num_latents=0 must be positive"),
        ({"spread": "rows"}, "pccot.spread"),
    ):
        with pytest.raises(UserError, match=message):
            Pccot(**settings)
    for settings, message in (
        ({"num_sweeps": 0}, "kava.num_sweeps=0"),
        ({"importance_share": 1.5}, "kava.importance_share=1.5 is not in"),
        ({"cache_distance": "l1"}, "kava.cache_distance"),
        ({"cache_weight": -1.0}, "kava.cache_weight=-1.0 is negative"),
    ):
        with pytest.raises(UserError, match=message):
            Kava(**settings)
