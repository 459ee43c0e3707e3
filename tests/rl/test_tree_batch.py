import dataclasses

import numpy as np
import pytest
from rl.pico_policy import PROMPTS, SAMPLING, G, batch_of, rollouts, terms_of

from colar_jax.rl.policy_loss import term_weights
from colar_jax.rl.tree_batch import latent_rooms, masks_of


def test_forced_stops_and_forced_starts_are_nobodys_decision():
    sampled = rollouts()
    latents, decisions, answers = masks_of(sampled, SAMPLING.min_latents)
    for row, chain in np.ndindex(sampled.num_latents_BG.shape):
        length, forced = sampled.num_latents_BG[row, chain], sampled.forced_stop_BG[row, chain]
        assert forced == (length == SAMPLING.max_latents and not decisions[row, chain, length])
        assert latents[row, chain].sum() == length
        expected = list(range(SAMPLING.min_latents, length + (not forced)))
        assert np.flatnonzero(decisions[row, chain]).tolist() == expected
        assert answers[row, chain].sum() == sampled.num_answer_tokens_BG[row, chain]
    assert sampled.forced_stop_BG.any() and not sampled.forced_stop_BG.all()


def test_rooms_for_latents():
    assert latent_rooms(64) == [8, 16, 32, 64] and latent_rooms(9) == [2, 3, 5, 9] and latent_rooms(1) == [1]
    sampled = rollouts()
    short = dataclasses.replace(sampled, num_latents_BG=np.minimum(sampled.num_latents_BG, 4))
    assert batch_of(short).latents_BGLD.shape[2] == 5
    assert batch_of(sampled).latents_BGLD.shape[2] == SAMPLING.max_latents


def test_empty_rows_count_for_nothing_and_kinds_are_averaged_by_themselves():
    sampled = rollouts()
    batch = batch_of(sampled, num_rows=6, log_prob_scale=2.0)
    num_prompts = len(PROMPTS)
    for terms in terms_of(batch):
        assert not terms.mask[num_prompts:].any() and not terms.weights[num_prompts:].any()
        assert not terms.old_log_probs[~terms.mask].any() and not terms.weights[~terms.mask].any()
        mask = terms.mask[:num_prompts]
        np.testing.assert_allclose(terms.weights[:num_prompts], term_weights(mask, "chain_mean", 1))
        assert terms.weights.sum() == pytest.approx(np.mean(mask.any(axis=-1)), rel=1e-5)
    mask = batch.latents.mask[:num_prompts]
    np.testing.assert_array_equal(
        batch.latents.old_log_probs[:num_prompts][mask], 2 * sampled.latent_log_probs_BGL[mask]
    )
    assert batch.advantages_BG.shape == (6, G) and batch.share_B.sum() == pytest.approx(1)
    assert batch.prompt_lengths_B.tolist() == [len(prompt) for prompt in PROMPTS] + [1, 1]
