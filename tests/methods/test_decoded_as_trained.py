"""Methods are decoded exactly as they are trained: the same prompt, cache, positions, number of latents.

What a model is evaluated at is what its loss was about: the latents are the same numbers, and the log-probabilities of
a decoded answer are those that training gives it. The published code evaluates Coconut and Distill without the cache,
so that later latents never see the question, and iCoT with another prompt than it was trained with.
"""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import fast
from golden.published import largest_difference
from pico_thoughts import COMPUTE, EOS, PROJECTION_SIZE, SEPARATOR, merged, problems, with_answers

from colar_jax.config import DecodeConfig
from colar_jax.data.prompts import AUTO_SPEED
from colar_jax.decoding.decoder import decode
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.methods.coconut import Coconut
from colar_jax.methods.codi import Codi
from colar_jax.methods.icot import Icot
from colar_jax.methods.kava import Kava
from colar_jax.methods.method import decode_limits
from colar_jax.methods.pccot import Pccot
from colar_jax.methods.thinking import thought_chain
from colar_jax.methods.thinking.thought_chain import rescaled, unchanged
from colar_jax.model.cache import Prefix
from colar_jax.model.execution import Execution
from colar_jax.model.visibility import packed

NUM_LATENTS = 4
METHODS = {
    "icot": Icot(removed_per_epoch=1e6),
    "coconut": Coconut(num_stages=2, latents_per_stage=2, epochs_per_stage=0.1),
    "rescaled": Coconut(num_stages=2, latents_per_stage=2, epochs_per_stage=0.1, rescale=True),
    "codi": Codi(num_latents=NUM_LATENTS, projection_size=PROJECTION_SIZE),
    "pccot": Pccot(num_latents=NUM_LATENTS, num_sweeps=2, projection_size=PROJECTION_SIZE),
    "pauses": Pccot(num_latents=NUM_LATENTS, num_sweeps=0, projection_size=PROJECTION_SIZE),
    "kava": Kava(num_latents=NUM_LATENTS, num_sweeps=3, projection_size=PROJECTION_SIZE),
}
PROJECTIONS = {"coconut": unchanged, "rescaled": rescaled, "codi": METHODS["codi"].project}
IN_LATENTS = [*PROJECTIONS, "pccot", "kava"]
DECODE = DecodeConfig(max_answer_tokens=6)
LATE = 10**4  # a step after every schedule


@functools.cache
def decoded(name: str):
    """The problems, and what the method does with them, greedily."""
    encoded = problems(6)
    thinking = METHODS[name].thinking(DECODE, SEPARATOR, greedy=True)
    limits = decode_limits(thinking, DECODE, separator_id=SEPARATOR, eos_id=EOS, greedy=True)
    prompts = [np.append(encoded.prompt(i, AUTO_SPEED), np.int32(SEPARATOR)) for i in range(len(encoded))]
    rows = pack_prompts(prompts, shape_for([np.array([len(prompt) for prompt in prompts])]))
    keys = jax.random.split(jax.random.key(0), len(encoded))
    program = jax.jit(lambda: decode(merged(), rows, keys, thinking.think, limits, Execution()))
    return encoded, jax.device_get(program())


def batch_and_order(name: str, encoded):
    """A late training batch of all problems, and which problem is where in it."""
    loader = METHODS[name].make_loader(encoded, seed=0, rows=1, row_positions=1024)
    assert loader.examples_per_step == len(encoded) and loader.num_left_out == 0
    (order,) = loader._plan(LATE // loader.steps_per_epoch)[LATE % loader.steps_per_epoch]
    return loader.batch(LATE), order[order >= 0]


def latents_of(batch, name: str, *, scale_of_cache=1.0):
    """What training feeds, `[E, L, D]` of the examples of the batch's one row."""

    @jax.jit
    def program(batch):
        model = merged()
        trunk = thought_chain.run_trunk(model, batch, COMPUTE)
        caches = jax.tree.map(lambda cache: scale_of_cache * cache, trunk.caches)
        trunk = dataclasses.replace(trunk, caches=caches)
        if isinstance(METHODS[name], Codi):
            return METHODS[name].think_in_training(model, trunk, batch, COMPUTE, None).fed_BLED
        return thought_chain.run_latents(model, trunk, batch, NUM_LATENTS, PROJECTIONS[name], COMPUTE).fed_BLED

    return np.asarray(program(batch))[0].transpose(1, 0, 2)[: batch.num_examples]


@pytest.mark.parametrize("name", fast(IN_LATENTS, "coconut", "codi", "kava"))
def test_latents_in_training_are_those_in_decoding(name):
    encoded, outcome = decoded(name)
    assert (outcome.num_thoughts_B == NUM_LATENTS).all() and not outcome.forced_stop_B.any()
    batch, order = batch_and_order(name, encoded)
    assert (batch.num_latents_BE[batch.question_lengths_BE > 0] == NUM_LATENTS).all()
    trained = latents_of(batch, name)
    assert largest_difference(trained, outcome.thoughts[order]) < 1e-5
    latents = outcome.thoughts.reshape(-1, outcome.thoughts.shape[-1])
    assert (
        np.min(np.ptp(latents, axis=0)) > 0.1 * latents.std()
    )  # they differ, from question to question and step to step


@pytest.mark.parametrize("name", fast(list(PROJECTIONS), "coconut", "codi"))
def test_latents_with_the_cache_are_those_of_whole_passes(name):
    """Question and latents so far are read anew for each next latent, alone in their row."""
    encoded, outcome = decoded(name)

    @jax.jit
    def next_latent(embeds_BTD):
        model, ones_BT = merged(), jnp.ones(embeds_BTD.shape[:2], jnp.int32)
        positions_BT = jnp.cumsum(ones_BT, axis=1) - 1
        hidden_BTD, _ = model.llama.run(embeds_BTD, positions_BT, packed(ones_BT, Execution()), Execution())
        return PROJECTIONS[name](model, hidden_BTD[:, -1])

    embedding_VD = merged().llama.embedding[...]
    for index in (0, 3):
        ids = np.append(encoded.prompt(index, AUTO_SPEED), np.int32(SEPARATOR))
        embeds_BTD = embedding_VD[ids][None]
        for step in range(NUM_LATENTS):
            latent_BD = next_latent(embeds_BTD)
            assert largest_difference(latent_BD[0], outcome.thoughts[index, step]) < 1e-5
            embeds_BTD = jnp.concatenate([embeds_BTD, latent_BD[:, None]], axis=1)


@pytest.mark.parametrize("name", fast(IN_LATENTS, "codi"))
def test_latents_see_the_question_in_the_cache(name, monkeypatch):
    """Without the question's keys and values every latent but the first is another one, in training and decoding."""
    encoded, outcome = decoded(name)
    batch, order = batch_and_order(name, encoded)
    blind = latents_of(batch, name, scale_of_cache=0.0)
    of_rows = Prefix.of_rows

    def forgetful(*arguments):
        prefix = of_rows(*arguments)
        return dataclasses.replace(prefix, layers=jax.tree.map(jnp.zeros_like, prefix.layers))

    with monkeypatch.context() as patch:
        patch.setattr(Prefix, "of_rows", forgetful)
        _, blind_outcome = decoded.__wrapped__(name)
    for those, seen in ((blind, outcome.thoughts[order]), (blind_outcome.thoughts, outcome.thoughts)):
        assert largest_difference(those[:, 0], seen[:, 0]) < 1e-5
        assert all(largest_difference(those[:, step], seen[:, step]) > 0.01 for step in range(1, NUM_LATENTS))


@pytest.mark.parametrize("name", fast(list(PROJECTIONS), "codi"))
def test_without_the_question_a_latent_is_made_of_the_one_before_it_alone(name, monkeypatch):
    """The fault of the published evaluation, as an option."""
    _, outcome = decoded(name)
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[__name__], "DECODE", dataclasses.replace(DECODE, latents_see_question=False))
        _, blind = decoded.__wrapped__(name)
    assert largest_difference(blind.thoughts[:, 0], outcome.thoughts[:, 0]) < 1e-5

    @jax.jit
    def alone(latents_BD):
        model, ones_B1 = merged(), jnp.ones((len(latents_BD), 1), jnp.int32)
        sees = packed(ones_B1, Execution())
        return PROJECTIONS[name](model, model.llama.run(latents_BD[:, None], 0 * ones_B1, sees, Execution())[0][:, 0])

    for step in range(1, NUM_LATENTS):
        assert largest_difference(alone(blind.thoughts[:, step - 1]), blind.thoughts[:, step]) < 1e-5
        assert largest_difference(blind.thoughts[:, step], outcome.thoughts[:, step]) > 0.01


@pytest.mark.parametrize("name", fast(list(METHODS), "icot", "coconut", "codi", "pccot", "kava"))
def test_the_loss_of_a_decoded_answer_is_its_log_probability(name):
    """Prompt, positions and masks of the answer's part: the whole of the training objective, on what was decoded."""
    encoded, outcome = decoded(name)
    answers = [ids[:n] for ids, n in zip(outcome.answer_ids_BA, outcome.num_answer_tokens_B, strict=True)]
    batch, _ = batch_and_order(name, with_answers(encoded, answers))
    expected = -sum(
        log_probs[: len(ids)].sum() for ids, log_probs in zip(answers, outcome.answer_log_probs_BA, strict=True)
    )

    method = METHODS[name]
    if name == "icot":  # the last `###` before the answer is fed, not decided
        labels = batch.label_ids_BM.copy()
        labels[labels == SEPARATOR] = -1
        batch = dataclasses.replace(batch, label_ids_BM=labels)
    else:
        batch = dataclasses.replace(batch, first_labels_BE=np.full_like(batch.first_labels_BE, -1))

    @jax.jit
    def program(batch):
        keys = jax.random.split(jax.random.key(0), 1)
        return method.objective(merged(), batch, keys, method.count(batch), COMPUTE)[1]["cross_entropy"]

    metric = program(batch)
    assert metric.count == sum(map(len, answers))
    assert float(metric.sum) == pytest.approx(expected, rel=1e-5)
