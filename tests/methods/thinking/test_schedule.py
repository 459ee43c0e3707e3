"""What a schedule removes when; n epochs are n epochs (the published schedule gives every stage one)."""

import math

import numpy as np
import pytest

from colar_jax.methods.thinking.schedule import EVERYTHING, LatentStages, Phase, TokenRemoval, extra_removed


def test_stages_last_as_many_epochs_as_they_are_given():
    schedule = LatentStages(num_stages=3, latents_per_stage=2, epochs_per_stage=2, final_stage=True)
    phases = [schedule.phase(epoch) for epoch in (0, 1.99, 2, 3.99, 4, 5.99, 6, 100)]
    assert phases == [
        *[Phase(1, 2)] * 2,
        *[Phase(2, 4)] * 2,
        *[Phase(3, 6)] * 2,
        *[Phase(EVERYTHING, 6)] * 2,
    ]
    assert schedule.num_epochs == 6


def test_the_last_stage_may_be_the_one_without_steps():
    schedule = LatentStages(num_stages=3, latents_per_stage=2, epochs_per_stage=2, final_stage=False)
    assert [schedule.phase(epoch).removed for epoch in (0, 2, 4)] == [1, 2, EVERYTHING]
    assert schedule.num_epochs == 4


def test_tokens_go_one_by_one():
    schedule = TokenRemoval("token", removed_per_epoch=8, removed_at_start=0, last=12)
    assert [schedule.phase(n / 8).removed for n in range(14)] == [*range(12), EVERYTHING, EVERYTHING]
    assert schedule.phase(1.1).removed == 8
    assert schedule.num_epochs == 12 / 8 and schedule.phase(schedule.num_epochs).removed == EVERYTHING


def test_everything_goes_beyond_a_number():
    schedule = TokenRemoval("step", removed_per_epoch=0.5, removed_at_start=1, last=3)
    assert [schedule.phase(epoch).removed for epoch in (0, 1.9, 2, 3.9, 4)] == [1, 1, 2, 2, EVERYTHING]
    assert schedule.num_epochs == 4


@pytest.mark.parametrize("smoothing", [0.5, 4.0])
def test_smoothing_is_geometric(smoothing):
    draws = np.array([extra_removed(smoothing, u) for u in np.random.default_rng(0).random(20_000)])
    for number in range(3):
        expected = (1 - math.exp(-smoothing)) * math.exp(-smoothing * number)
        assert np.mean(draws == number) == pytest.approx(expected, abs=0.01)
    assert extra_removed(0.0, 0.999) == 0


def test_stages_are_mixed_as_often_as_is_said():
    schedule = LatentStages(3, 2, epochs_per_stage=2, final_stage=True, uniform_probability=0.3)
    now = schedule.phase(0)
    drawn = [schedule.phase_of(now, 4, np.random.default_rng(seed)) for seed in range(4000)]
    shares = {phase: drawn.count(phase) / len(drawn) for phase in set(drawn)}
    # 0 to 4 steps gone, each as often; beyond three all are, with the latents of three.
    expected = {Phase(0, 0): 0.06, now: 0.76, Phase(2, 4): 0.06, Phase(3, 6): 0.06, Phase(EVERYTHING, 6): 0.06}
    assert shares == pytest.approx(expected, abs=0.02)


def test_latents_for_steps_that_were_there():
    schedule = LatentStages(3, 2, epochs_per_stage=2, final_stage=True, pads_latents=False)
    rng = np.random.default_rng(0)
    at_the_end = [schedule.phase_of(schedule.phase(9), num_steps, rng).num_latents for num_steps in range(6)]
    assert at_the_end == [0, 2, 4, 6, 6, 6]
    assert schedule.phase_of(schedule.phase(2), 1, rng).num_latents == 4  # before, as many as the stage says


def test_tokens_go_at_the_authors_pace():
    """Their loop counts batches since the last removal: of 96 an epoch, with 8 tokens, it removes at every 12th.

    A removal makes a new optimizer; from 39 tokens on all are gone.
    """
    schedule = TokenRemoval("token", 8, 0, last=39, smoothing=4.0, resets_optimizer=True)
    removed, since_last = 0, 0
    for batch in range(8 * 96):
        if since_last == 12:
            removed, since_last = removed + 1, 0
        since_last += 1
        assert schedule.phase(batch / 96).removed == (EVERYTHING if removed >= 39 else removed)


def test_smoothing_takes_more_from_the_first_batch_on_and_never_beyond_everything():
    schedule = TokenRemoval("token", 8, 0, last=39, smoothing=0.5)
    drawn = [schedule.phase_of(schedule.phase(0), 3, np.random.default_rng(seed)).removed for seed in range(200)]
    assert min(drawn) == 0 < max(drawn) and EVERYTHING not in drawn
    assert schedule.phase_of(schedule.phase(9), 3, np.random.default_rng(0)).removed == EVERYTHING
