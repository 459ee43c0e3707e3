"""Latents on the chain's own timeline: where they stand and what they are told, in training and in decoding."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from model.told_model import DECODE, LLAMA, model, problems
from pico_model import COMPUTE, SEPARATOR

from colar_jax.data.grouping import full_ends, num_groups
from colar_jax.data.loader import Loader
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.decoding.replay import FedThoughts, answer_after
from colar_jax.errors import UserError
from colar_jax.methods import method
from colar_jax.methods.colar import Colar, objective_with_noise
from colar_jax.methods.method import supervised_hidden
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.reasoner import build
from colar_jax.model.rope_scaling import DynamicScaling
from colar_jax.model.timeline import tokens_before
from colar_jax.settings.speeds import ASKED_PHASE, NO_NUMBER

NUM_STEP_TOKENS = 9  # of every problem
NO_EOS = -5  # no token: all answers have as many


def colar(speed: float, **settings) -> Colar:
    return Colar(speeds=f"{speed:g}", conditioning="number", timeline="tokens", random_phase=False, **settings)


def one_problem(number: int, answer=None):
    encoded, one = problems(), slice(number, number + 1)
    answers = encoded.answers[one] if answer is None else (answer,)
    parts = dict(problems=(None,), heads=encoded.heads[one], steps=encoded.steps[one], answers=answers)
    return dataclasses.replace(encoded, **parts)


def training_row(encoded, latent: Colar):
    """A batch of one row, which holds one example."""
    return Loader(encoded, latent.recipe, seed=0, rows=1, row_positions=40).batch(0)


def test_ends_are_those_of_the_grouping():
    numbers = np.arange(1, 200)
    for hundredths in range(100, 801):
        speed = hundredths / 100
        expected = full_ends(len(numbers), speed, ASKED_PHASE)
        np.testing.assert_array_equal(tokens_before(numbers, np.float32(speed)), expected)
    assert tokens_before(np.array([0, 3]), np.float32(2.5)).tolist() == [0, 7]
    assert tokens_before(np.array([0, 3]), np.float32(NO_NUMBER)).tolist() == [0, 3]  # chains in words are told none


def test_a_latent_stands_where_its_last_token_would_and_is_told_the_size_of_the_next():
    encoded = one_problem(0)
    opening = len(encoded.prompt(0, ""))
    batch = training_row(encoded, colar(2.5))
    is_real = batch.segment_ids_BS[0] > 0
    positions, told = batch.position_ids_BS[0, is_real], batch.speeds_BS[0, is_real]
    assert positions[: opening + 1].tolist() == list(range(opening + 1))
    # Groups of 2, 3, 2 tokens, and one of the 3 that has only 2 left; then the closing separator and the answer.
    assert (positions[opening + 1 :] - opening).tolist() == [2, 5, 7, 10, 11, 12, 13]
    assert told.tolist() == [NO_NUMBER] * opening + [2, 3, 2, 3, 2] + [NO_NUMBER] * 3


@pytest.mark.parametrize("speed", [1, 1.5, 2.5, 3, 6])
def test_at_any_speed_the_same_token_has_the_same_place(speed):
    encoded = one_problem(1)
    opening, batch = len(encoded.prompt(0, "")), training_row(encoded, colar(speed))
    of_steps = batch.token_positions_BT[0, opening + 1 : opening + 1 + NUM_STEP_TOKENS]
    of_token = batch.position_ids_BS[0, of_steps]
    ends = full_ends(NUM_STEP_TOKENS, speed, ASKED_PHASE)
    in_words = opening + 1 + np.arange(NUM_STEP_TOKENS)
    assert (of_token >= in_words).all()
    is_last = np.isin(np.arange(1, NUM_STEP_TOKENS + 1), ends)
    np.testing.assert_array_equal(of_token[is_last], in_words[is_last])
    assert is_last.sum() == NUM_STEP_TOKENS // speed


@pytest.mark.slow
@pytest.mark.parametrize("speed", [2.5])
def test_training_is_what_a_replay_of_its_own_groups_gives(speed):
    """Fed the compressed embeddings of training, a decode says its answer with the log-probabilities of training."""
    latent = colar(speed)
    graph, parameters = model("number", timeline="tokens")
    reasoner = nnx.merge(graph, parameters)
    encoded = one_problem(3)
    opening, count = len(encoded.prompt(0, "")), int(num_groups(NUM_STEP_TOKENS, speed, ASKED_PHASE))
    groups_1LD = method.embed(reasoner, training_row(encoded, latent), COMPUTE)[:, opening + 1 :][:, :count]
    said = replayed(reasoner, encoded, latent, groups_1LD)
    answered = training_row(one_problem(3, np.asarray(said.ids_BA[0])), latent)
    trained = log_probs_of_labels(reasoner, answered, latent)[-limits().max_answer_tokens :]
    np.testing.assert_allclose(trained, said.log_probs_BA[0], atol=1e-4)


def limits():
    thinking = colar(2).thinking(DECODE, SEPARATOR, greedy=True)
    return method.decode_limits(thinking, DECODE, separator_id=SEPARATOR, eos_id=NO_EOS, greedy=True)


def replayed(reasoner, encoded, latent, embeds_1LD):
    prompt = encoded.ask(0, latent.recipe.told(float(latent.speeds)))
    packed = pack_prompts([prompt], shape_for([np.array([len(prompt)])]))
    keys, length_1 = jax.random.split(jax.random.key(0), 1), np.array([embeds_1LD.shape[1]])
    return answer_after(reasoner, packed, FedThoughts(embeds_1LD, length_1), keys, limits(), COMPUTE)


def log_probs_of_labels(reasoner, batch, latent):
    """Of the labels of one row, by the hidden states that the objective makes."""
    seen, noise = [], np.zeros((*batch.supervised_BM.shape, reasoner.llama.config.hidden_size), np.float32)

    def spying(*given):
        seen.append(supervised_hidden(*given))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method, "supervised_hidden", spying)
        objective_with_noise(reasoner, batch, noise, method.count(batch), latent, COMPUTE)
    is_label_M = batch.label_ids_BM[0] >= 0
    log_probs_MV = jax.nn.log_softmax(reasoner.llama.logits(seen[0][0, is_label_M]))
    return log_probs_MV[np.arange(is_label_M.sum()), batch.label_ids_BM[0, is_label_M]]


@pytest.mark.slow
def test_the_second_pass_is_told_what_the_first_is():
    """Where predictions are the targets themselves, feeding them changes nothing."""
    latent = colar(2.5, predicted_pass_weight=1.0)
    graph, parameters = model("number", timeline="tokens")
    reasoner, batch = nnx.merge(graph, parameters), training_row(one_problem(2), latent)
    passes = []

    def targets(embeds_BSD, fed_BMD, batch):
        return embeds_BSD

    def spying(model, embeds_BSD, *given):
        passes.append(np.asarray(embeds_BSD))
        return supervised_hidden(model, embeds_BSD, *given)

    noise = np.zeros((*batch.supervised_BM.shape, reasoner.llama.config.hidden_size), np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method, "supervised_hidden", spying)
        patch.setattr("colar_jax.methods.colar._feed_predictions", targets)
        objective_with_noise(reasoner, batch, noise, method.count(batch), latent, COMPUTE)
    np.testing.assert_array_equal(*passes)
    assert np.abs(passes[0] - method.embed(reasoner, batch, COMPUTE)).max(axis=(0, 2)).astype(bool).sum() == 5


@pytest.mark.parametrize("settings", [{"conditioning": "text"}, {"conditioning": "number", "auto_probability": 0.1}])
def test_without_a_number_for_every_example_it_is_refused(settings):
    with pytest.raises(UserError, match="latent.timeline='tokens' has to know the speed of every example"):
        Colar(timeline="tokens", **settings)


def test_rotary_embeddings_that_change_with_positions_have_no_timeline():
    """How far a pass reaches is counted in positions that are fed, and a latent's own may lie beyond."""
    llama = dataclasses.replace(LLAMA, rope_scaling=DynamicScaling(2.0, 64))
    expected = {"tokens": pytest.raises(UserError, match="rope_type dynamic"), "latents": contextlib.nullcontext()}
    for timeline, outcome in expected.items():
        with outcome:
            build(llama, LatentHeadConfig(8), 0, None, dataclasses.replace(colar(2), timeline=timeline).modules)
