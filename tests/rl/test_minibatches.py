"""Minibatches: every group counts the same, however many of them there are to learn from."""

import numpy as np
import pytest
from rl.test_learning import ask, learner, never, three_of_four

from colar_jax.config import RlConfig, StageConfig
from colar_jax.rl.grpo import row_rooms, rows_of_minibatch
from colar_jax.rl.learner import _parts


def counts_of_chains(**settings) -> list[np.ndarray]:
    """What the chains of each minibatch count in all, by kind of term; minibatches have room for two groups."""
    one = learner(three_of_four, never, **settings)
    return [
        np.concatenate(
            [terms.weights[batch.prompt_lengths_B > 1].sum(axis=-1).ravel() for terms in batch.terms.values()]
        )
        for batch in one._minibatches(ask(one), 0)
    ]


@pytest.mark.slow
def test_a_group_counts_the_same_in_a_small_minibatch():
    """Latents and answers are there in all chains; decisions only where one was taken."""
    full, small = counts_of_chains()
    assert len(full) == 2 * len(small)
    assert {0.125} <= set(full.round(6)) | set(small.round(6)) <= {0, 0.125} and small.max() == pytest.approx(0.125)
    full, small = counts_of_chains(minibatches="filled")
    assert small.max() == pytest.approx(2 * full.max()), "how it was: a group alone counts twice as much"


@pytest.mark.parametrize(
    ("settings", "shards", "rooms"),
    [({}, 1, (8, 12, 16)), ({"minibatches": "filled"}, 1, (16,)), ({}, 4, (8, 12, 16)), ({}, 3, (9, 12, 18)),
     ({"minibatch_size": 8}, 1, (1,)), ({"speeds_per_group": 2}, 1, (16, 24, 32))],
)  # fmt: skip
def test_a_minibatch_has_rows_for_its_groups_and_few_without(settings, shards, rooms):
    stage = StageConfig(method="colar", trainer="grpo", rl=RlConfig(**{"minibatch_size": 128} | settings))
    assert row_rooms(stage, shards) == rooms and rows_of_minibatch(stage, shards) == rooms[-1]


def test_a_small_minibatch_takes_a_small_room():
    one = learner(three_of_four, never)
    one.row_rooms = (1, 2)
    assert [len(batch.share_B) for batch in one._minibatches(ask(one), 0)] == [2, 1]


@pytest.mark.parametrize(("groups", "sizes"), [(0, []), (3, [3]), (16, [16]), (17, [9, 8]), (40, [14, 13, 13])])
def test_groups_are_split_evenly(groups, sizes):
    parts = _parts(np.arange(groups), 16, "even")
    assert [len(part) for part in parts] == sizes
    assert sorted(group for part in parts for group in part) == list(range(groups))
    filled = [len(part) for part in _parts(np.arange(groups), 16, "filled")]
    assert sum(filled) == groups and filled[:-1] == [16] * (len(filled) - 1)
