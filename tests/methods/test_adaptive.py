"""Adaptive latents: the choice to stop is learned with CODI, decoded as it was trained, and nobody else's business."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.published import largest_difference
from pico_adaptive import METHOD, merged, model, with_stop_rows
from pico_thoughts import COMPUTE, EOS, SEPARATOR, problems, with_answers

from colar_jax.config import DecodeConfig, RlConfig
from colar_jax.data.prompts import AUTO_SPEED
from colar_jax.decoding.decoder import decode
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.errors import UserError
from colar_jax.methods.adaptive import Adaptive, num_choices
from colar_jax.methods.codi import Codi
from colar_jax.methods.method import decode_limits
from colar_jax.methods.thinking import thought_chain
from colar_jax.methods.thinking.staged_loader import Dealt, Room
from colar_jax.model.execution import Execution
from colar_jax.model.stop_choice import StopChoiceConfig
from colar_jax.weights.stop_choice_file import load_stop_choice, save_stop_choice

ENCODED = problems(8)
SAMPLED = DecodeConfig(max_latents=5, min_latents=0, max_answer_tokens=4, stop_temperature=1.5, top_p=1.0)


def decoded(questions=range(8), method=METHOD, decode_config=SAMPLED, greedy=False, parameters=None):
    thinking = method.thinking(decode_config, SEPARATOR, greedy=greedy)
    limits = decode_limits(thinking, decode_config, separator_id=SEPARATOR, eos_id=EOS, greedy=greedy)
    prompts = [np.append(ENCODED.prompt(i, AUTO_SPEED), np.int32(SEPARATOR)) for i in questions]
    rows = pack_prompts(prompts, shape_for([np.array([len(prompt) for prompt in prompts])]))
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(0), jnp.asarray(list(questions)))
    program = jax.jit(lambda: decode(merged(parameters), rows, keys, thinking.think, limits, Execution()))
    return jax.device_get(program())


@functools.cache
def sampled():
    return decoded()


def batch_of(num_latents, encoded=ENCODED):
    """A training batch of all problems in one row, each with so many latents."""
    dealt = [Dealt(i, 0, int(n)) for i, n in enumerate(num_latents)]
    sizes = METHOD.form(encoded).sizes(encoded, encoded.step_lengths).sum(axis=0)
    return METHOD.form(encoded).fill(encoded, [dealt], Room(len(dealt), tuple(sizes.tolist())))


def test_a_chain_has_latents_by_its_steps():
    num_steps = [len(problem.steps) for problem in ENCODED.problems]
    for method, expected in (
        (METHOD, [min(5, 1 + n) for n in num_steps]),
        (Adaptive(), [min(10, 5 + n) for n in num_steps]),
        (Adaptive(num_latents=6, base_latents=6, latents_per_step=0), [6] * 8),
    ):
        loader = method.make_loader(ENCODED, seed=0, rows=1, row_positions=400)
        batch, (row,) = loader.batch(0), loader._rows(0)
        assert [expected[one.example] for one in row] == [one.num_latents for one in row]
        np.testing.assert_array_equal(batch.num_latents_BE[0, : len(row)], [expected[one.example] for one in row])
        assert (batch.first_labels_BE == -1).all()
        assert int(num_choices(batch)) == sum(expected[one.example] + 1 for one in row)


def test_latents_in_training_are_those_in_decoding():
    outcome = sampled()
    lengths = outcome.num_thoughts_B
    assert len(set(lengths.tolist())) > 2 and lengths.min() < 2
    batch = batch_of(lengths)

    @jax.jit
    def trained(batch):
        own = merged()
        trunk = thought_chain.run_trunk(own, batch, COMPUTE)
        return thought_chain.run_latents(own, trunk, batch, 5, METHOD.project, COMPUTE).fed_BLED

    fed = np.asarray(trained(batch))[0].transpose(1, 0, 2)
    for example, length in enumerate(lengths):
        assert not length or largest_difference(fed[example, :length], outcome.thoughts[example, :length]) < 1e-5


def test_the_loss_of_a_decoded_chain_is_its_log_probability():
    """Its choices to go on, the one to stop, and its answer; at temperature 1."""
    plain = dataclasses.replace(SAMPLED, stop_temperature=1.0, max_latents=40)
    outcome = decoded(decode_config=plain)
    lengths = outcome.num_thoughts_B
    kept = np.flatnonzero((lengths <= 5) & ~outcome.forced_stop_B)
    assert len(kept) > 3 and len(set(lengths[kept].tolist())) > 2
    answers = [ids[:n] for ids, n in zip(outcome.answer_ids_BA, outcome.num_answer_tokens_B, strict=True)]
    encoded = with_answers(ENCODED, answers)
    dealt = [[Dealt(int(i), 0, int(lengths[i])) for i in kept]]
    sizes = METHOD.form(encoded).sizes(encoded, encoded.step_lengths)[kept].sum(axis=0)
    batch = METHOD.form(encoded).fill(encoded, dealt, Room(len(kept), tuple(sizes.tolist())))

    @jax.jit
    def metrics(batch):
        keys = jax.random.split(jax.random.key(0), 1)
        return METHOD.objective(merged(), batch, keys, METHOD.count(batch), COMPUTE)

    loss, found = metrics(batch)
    decisions = -sum(outcome.stop_log_probs_BL[i, : lengths[i] + 1].sum() for i in kept)
    words = -sum(outcome.answer_log_probs_BA[i, : outcome.num_answer_tokens_B[i]].sum() for i in kept)
    assert float(found["choice_cross_entropy"].sum) == pytest.approx(decisions, rel=1e-4)
    assert int(found["choice_cross_entropy"].count) == sum(lengths[kept] + 1)
    assert float(found["cross_entropy"].sum) == pytest.approx(words, rel=1e-4)
    # One mean over both kinds of the student's labels, beside the teacher's and the distance.
    num_labels = sum(lengths[kept] + 1) + sum(len(answers[i]) for i in kept)
    teacher = float(found["teacher_cross_entropy"].sum / found["teacher_cross_entropy"].count)
    distance = float(found["distill_loss"].sum / found["distill_loss"].count)
    expected = (decisions + words) / num_labels + teacher + METHOD.distill_weight * distance
    assert float(loss) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_chains_that_never_stop_are_those_of_a_fixed_number():
    """Forced to stop after n latents, the answer is that of CODI with n."""
    never = with_stop_rows(np.zeros((2, 32)))  # one half is no majority
    for number in (1, 3):
        config = dataclasses.replace(SAMPLED, max_latents=number)
        outcome = decoded(decode_config=config, greedy=True, parameters=never)
        fixed = decoded(
            method=Codi(num_latents=number, projection_size=16), decode_config=config, greedy=True, parameters=never
        )
        assert (outcome.num_thoughts_B == number).all() and outcome.forced_stop_B.all()
        assert largest_difference(outcome.thoughts, fixed.thoughts) < 1e-6
        np.testing.assert_array_equal(outcome.answer_ids_BA, fixed.answer_ids_BA)


@pytest.mark.slow
def test_those_that_have_stopped_do_not_change_others():
    together = sampled()
    lengths = together.num_thoughts_B
    for example in (int(lengths.argmax()), int(lengths.argmin())):
        alone = decoded([example])
        assert alone.num_thoughts_B[0] == lengths[example]
        length, num = lengths[example], alone.num_answer_tokens_B[0]
        if length:
            assert largest_difference(alone.thoughts[0, :length], together.thoughts[example, :length]) < 1e-5
        np.testing.assert_array_equal(alone.answer_ids_BA[0, :num], together.answer_ids_BA[example, :num])


@pytest.mark.slow
def test_a_model_that_has_learned_nothing_is_undecided_and_learns_to_stop():
    """Both rows start at zero. The gradient of the choices reaches them, the latents and what makes them."""
    undecided = with_stop_rows(np.zeros((2, 32)))
    outcome = decoded(decode_config=dataclasses.replace(SAMPLED, max_latents=2), parameters=undecided)
    np.testing.assert_allclose(outcome.end_log_prob_B, np.log(0.5), rtol=1e-5)
    batch = jax.tree.map(jnp.asarray, batch_of([2] * 8))
    method = dataclasses.replace(METHOD, teacher_weight=0.0, distill_weight=0.0)

    def loss(parameters):
        keys = jax.random.split(jax.random.key(0), 1)
        return method.objective(merged(parameters), batch, keys, method.count(batch), COMPUTE)

    (_, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(jax.tree.map(jnp.asarray, undecided))
    assert float(metrics["choice_cross_entropy"].sum) == pytest.approx(24 * np.log(2), rel=1e-5)
    assert np.abs(gradient["stop_choice"]["rows"]).max() > 1e-4
    np.testing.assert_allclose(gradient["stop_choice"]["rows"].sum(axis=0), 0, atol=1e-6)
    _, gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(jax.tree.map(jnp.asarray, model()[1]))
    assert np.abs(gradient["projection"]["first"]["kernel"]).max() > 1e-4


@pytest.mark.slow
def test_greedy_stops_where_stopping_is_likelier_and_temperature_flattens():
    config = dataclasses.replace(SAMPLED, max_latents=40)
    outcome = decoded(decode_config=config, greedy=True)
    chosen = np.exp(outcome.stop_log_probs_BL)
    for length, forced, probabilities in zip(outcome.num_thoughts_B, outcome.forced_stop_B, chosen, strict=True):
        assert (probabilities[: length + (not forced)] >= 0.5).all()
    flat = decoded(decode_config=dataclasses.replace(config, stop_temperature=1e4))
    np.testing.assert_allclose(flat.stop_log_probs_BL[:, 0], np.log(0.5), atol=1e-2)


def test_the_choice_is_a_file_of_two_rows(tmp_path):
    rows = model()[1]["stop_choice"]["rows"]
    save_stop_choice({"rows": rows}, StopChoiceConfig(), tmp_path)
    np.testing.assert_array_equal(load_stop_choice(StopChoiceConfig(), tmp_path)["rows"], rows)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(base_latents=-1), "adaptive.base_latents=-1 is negative"),
        (dict(base_latents=0, latents_per_step=0), "leave no latent to learn"),
        (dict(num_latents=0), "num_latents=0 must be positive"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        Adaptive(**settings)


def test_rewards_object_to_what_does_nothing():
    assert not METHOD.objection_to_rewards(RlConfig())
    assert METHOD.objection_to_rewards(RlConfig(rollout_dropout=True)).startswith("rollout_dropout=True")
    assert METHOD.objection_to_rewards(RlConfig(entropy_weight=0.1)).startswith("entropy_weight=0.1")
