import dataclasses

import numpy as np
import pytest
from rl.pico_policy import PROMPTS, RL, SAMPLING, G, batch_of, rollouts

from colar_jax.config import RlConfig
from colar_jax.rl.credit import term_weights
from colar_jax.rl.tree_batch import latent_rooms, masks_of


def test_forced_stops_and_forced_starts_are_nobodys_decision():
    sampled = rollouts()
    masks = masks_of(sampled, SAMPLING.min_latents, RL)
    for chain, (length, forced) in enumerate(zip(sampled.num_thoughts_B, sampled.forced_stop_B, strict=True)):
        assert forced == (length == SAMPLING.max_latents and not masks["decision"][chain, length])
        assert masks["latent"][chain].sum() == length
        expected = list(range(SAMPLING.min_latents, length + (not forced)))
        assert np.flatnonzero(masks["decision"][chain]).tolist() == expected
        assert masks["answer"][chain].sum() == sampled.num_answer_tokens_B[chain]
    assert sampled.forced_stop_B.any() and not sampled.forced_stop_B.all()


@pytest.mark.parametrize("which", ["best", "best_response"])
def test_one_winner_for_the_first_latent(which):
    """Of the good rollouts the one that was likeliest; where none is good the first latents of all count."""
    sampled = rollouts()
    advantages_BG = np.array([[1, -1, 0.5, -0.5]] * (len(PROMPTS) - 1) + [[-1, -1, -1, 0]])
    everyone = batch_of(sampled, advantages_BG).terms["latent"].weights
    best = batch_of(sampled, advantages_BG, rl=RlConfig(first_latent=which)).terms["latent"].weights
    np.testing.assert_array_equal(best[..., 1:], everyone[..., 1:])
    of_latents, of_answers = (
        [row[:count] for row, count in zip(log_probs, counts, strict=True)]
        for log_probs, counts in (
            (sampled.thought_log_probs_BL, sampled.num_thoughts_B),
            (sampled.answer_log_probs_BA, sampled.num_answer_tokens_B),
        )
    )
    of_responses = [np.concatenate(parts) for parts in zip(of_latents, of_answers, strict=True)]
    means_B = [of_chain.mean() for of_chain in (of_responses if which == "best_response" else of_latents)]
    means_BG = np.reshape(means_B, (-1, G))
    for row in range(len(PROMPTS) - 1):
        winner = 0 if means_BG[row, 0] > means_BG[row, 2] else 2
        assert np.flatnonzero(best[row, :, 0]).tolist() == [winner]
    np.testing.assert_array_equal(best[-1], everyone[-1])


def test_rooms_for_latents():
    assert latent_rooms(64) == [8, 16, 32, 64] and latent_rooms(9) == [2, 3, 5, 9] and latent_rooms(1) == [1]
    sampled = rollouts()
    short = dataclasses.replace(sampled, num_thoughts_B=np.minimum(sampled.num_thoughts_B, 4))
    assert batch_of(short).thoughts_BGLD.shape[2] == 5
    assert batch_of(sampled).thoughts_BGLD.shape[2] == SAMPLING.max_latents


def test_empty_rows_count_for_nothing_and_kinds_are_averaged_by_themselves():
    sampled = rollouts()
    batch = batch_of(sampled, num_rows=6, rl=RlConfig(log_prob_reduction="sum"))
    num_prompts = len(PROMPTS)
    for terms in batch.terms.values():
        assert not terms.mask[num_prompts:].any() and not terms.weights[num_prompts:].any()
        assert not terms.old_log_probs[~terms.mask].any() and not terms.weights[~terms.mask].any()
        mask = terms.mask[:num_prompts]
        np.testing.assert_allclose(terms.weights[:num_prompts], term_weights(mask, RlConfig()))
        assert terms.weights.sum() == pytest.approx(np.mean(mask.any(axis=-1)), rel=1e-5)
    latents, room = batch.terms["latent"], sampled.thoughts.shape[1]
    mask, log_probs = latents.mask[:num_prompts], sampled.thought_log_probs_BL.reshape(num_prompts, G, room)
    np.testing.assert_array_equal(latents.old_log_probs[:num_prompts][mask], log_probs[mask])
    assert batch.advantages_BG.shape == (6, G) and batch.share_B.sum() == pytest.approx(1)
    assert batch.prompt_lengths_B.tolist() == [len(prompt) for prompt in PROMPTS] + [1, 1]
