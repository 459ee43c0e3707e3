"""Reinforcement learning of chains in words: what a rollout said, that it is scored as it was drawn, that it learns."""

import dataclasses

import jax
import numpy as np
import pytest
from rl.pico_policy import EOS_ID, PROMPTS, SAMPLING, SEPARATOR_ID, Ends, G, engine_of, policy, rescored

from colar_jax.config import OptimizerConfig, RlConfig, StageConfig
from colar_jax.data.encoding import Prompt
from colar_jax.decoding.decoder import Decoded
from colar_jax.methods import METHODS
from colar_jax.parallel.mesh import put_rows, replicate
from colar_jax.rl.credit import advantages_of
from colar_jax.rl.grpo import make_policy_step, rollout_sampling
from colar_jax.rl.rollout import Sampler, ways_to_sample
from colar_jax.rl.tree_batch import assemble
from colar_jax.rl.words import (
    SaidInWords,
    as_answers,
    thinks_in_words,
    without_separator,
    without_thoughts,
)
from colar_jax.training.optimizer import make_optimizer
from colar_jax.training.state import initial_state, join, partition

COT = METHODS["cot"]()
CHAIN = 6
DECODE = dataclasses.replace(SAMPLING, max_step_tokens=CHAIN, min_latent_std=0.0)
STAGE = StageConfig(method="cot", trainer="grpo", rl=RlConfig(num_generations=G, minibatch_size=4 * G))
ANSWER = 3
SAID = SaidInWords(SEPARATOR_ID, EOS_ID, CHAIN, ANSWER)
ASKED = [without_separator(Prompt(prompt, 0.0)) for prompt in PROMPTS]


def words_sampler(generations=G) -> Sampler:
    method, sampling = as_answers(COT, rollout_sampling(COT, DECODE, STAGE))
    ways = ways_to_sample(engine_of(), method, sampling, Ends(), num_generations=generations)
    lengths = np.array([len(prompt) for prompt in ASKED])
    return Sampler(engine_of(), ways, batch_size=4, prompt_lengths=lengths)


def rollouts(parameters, seed: int = 5, sampler=None) -> Decoded:
    ((_, sampled),) = (sampler or words_sampler()).run(parameters, ASKED, jax.random.key(seed))
    return sampled


def batch_of(sampled: Decoded, advantages_QG):
    rows = dict(num_rows=len(ASKED), prompt_room=32, min_thoughts=1)
    return assemble(ASKED, without_thoughts(sampled), advantages_QG, STAGE.rl, **rows)


def test_which_chains_are_words():
    assert thinks_in_words(COT, DECODE)
    for method in ("colar", "no_cot"):
        assert not thinks_in_words(METHODS[method](), DECODE)
        assert as_answers(METHODS[method](), DECODE) == (METHODS[method](), DECODE)


def test_what_a_rollout_said():
    ids = np.array(
        [
            [1, 2, SEPARATOR_ID, 7, EOS_ID, 0, 0, 0],
            [SEPARATOR_ID, 7, SEPARATOR_ID, EOS_ID, 0, 0, 0, 0],  # no chain; a second ### is part of the answer
            [1, 2, 3, 4, 5, 6, 7, 8],  # cut
            [1, EOS_ID, SEPARATOR_ID, 7, 0, 0, 0, 0],  # ended without an answer
            [1, 2, 3, 4, 5, 6, 7, SEPARATOR_ID],  # beyond the limit, where a decode ends it
            [1, 2, 3, 4, 5, 6, SEPARATOR_ID, 7],  # at the limit, with as much of its answer as there is room for
            [1, SEPARATOR_ID, 7, 7, 7, 7, EOS_ID, 0],  # an answer that is cut wherever it is not learned
        ]
    )
    nothing, lengths_B = np.zeros((7, 0)), np.array([5, 4, 8, 2, 8, 8, 7])
    decoded = Decoded(nothing, nothing, nothing, np.zeros(7), np.zeros(7, bool), ids, ids, lengths_B)
    said = SAID(decoded)
    assert said.lengths_B.tolist() == [2, 0, CHAIN, 2, CHAIN, CHAIN, 1]
    assert said.forced_B.tolist() == [False, False, True, False, True, False, False]
    assert said.num_answer_tokens_B.tolist() == [2, 3, 0, 0, 0, 1, ANSWER]
    assert said.answer_ids_BA[0, :2].tolist() == [7, EOS_ID]
    assert said.answer_ids_BA[1, :3].tolist() == [7, SEPARATOR_ID, EOS_ID]


def test_it_is_scored_as_it_was_drawn():
    """Every token of chain, end and answer: at unchanged parameters the ratio is 1."""
    sampled = rollouts(policy()[1])
    said = SAID(sampled)
    assert len(set(said.lengths_B.tolist())) > 3 and said.forced_B.any() and not said.forced_B.all()
    batch = batch_of(sampled, np.ones((4, G)))
    sampling = rollout_sampling(COT, DECODE, STAGE)
    log_probs = rescored(policy()[1], batch, sampling=sampling)["answer"]
    terms = batch.terms["answer"]
    assert terms.mask.sum() == sampled.num_answer_tokens_B.sum()
    np.testing.assert_allclose(np.where(terms.mask, log_probs, 0), terms.old_log_probs, atol=2e-5)
    assert not batch.terms["decision"].mask.any() and batch.terms["latent"].mask.size == 0


def test_the_prompt_is_read_as_a_chain_of_thought_reads_it():
    """The first drawn token has the distribution that the word after `q ###` has."""
    engine = engine_of()
    plain = ways_to_sample(engine, COT, DECODE, Ends(), num_generations=G)
    prompts = [Prompt(prompt, 0.0) for prompt in PROMPTS]
    lengths = np.array([len(prompt) for prompt in PROMPTS])
    ((_, chains),) = Sampler(engine, plain, batch_size=4, prompt_lengths=lengths).run(
        policy()[1], prompts, jax.random.key(1)
    )
    by_token = {}
    for row in range(4 * G):
        if chains.num_thoughts_B[row]:
            by_token[row // G, int(chains.thoughts[row, 0])] = chains.thought_log_probs_BL[row, 0]
    sampled, num_same = rollouts(policy()[1]), 0
    for row in range(4 * G):
        key = row // G, int(sampled.answer_ids_BA[row, 0])
        if key in by_token:
            num_same += 1
            assert sampled.answer_log_probs_BA[row, 0] == pytest.approx(by_token[key], abs=1e-4)
    assert num_same > 1


@pytest.mark.slow
def test_chains_become_short_where_short_ones_are_rewarded():
    engine, sampling = engine_of(), rollout_sampling(COT, DECODE, STAGE)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=3e-3, schedule="constant", weight_decay=0.0), 1)
    step = make_policy_step(engine, STAGE, sampling, SEPARATOR_ID, optimizer)
    trainable, frozen = partition(policy()[1], COT.trains)
    state = replicate(initial_state(jax.tree.map(np.array, trainable), optimizer), engine.mesh)
    lengths, sampler = [], words_sampler()
    for iteration in range(6):
        sampled = rollouts(join(state.trainable, frozen), iteration, sampler)
        said = SAID(sampled)
        lengths.append(said.lengths_B.mean())
        advantages_QG = advantages_of(-said.lengths_B.reshape(4, G).astype(float), STAGE.rl)
        batch = put_rows(batch_of(sampled, advantages_QG), engine.mesh)
        state, _ = step(state, frozen, batch, jax.random.key(0))
    assert np.mean(lengths[-3:]) < lengths[0] - 1
