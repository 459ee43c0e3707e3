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
