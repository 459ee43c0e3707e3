"""Rewards, advantages and aggregations by name: one function each, nothing else to edit."""

import sys
import types

import numpy as np
import pytest

from colar_jax.config import RlConfig, defaults, resolve, stage_defaults
from colar_jax.data.answers import is_right
from colar_jax.data.problems import Problem
from colar_jax.errors import UserError
from colar_jax.rl import credit
from colar_jax.rl.credit import advantages_of, term_weights
from colar_jax.rl.lengths import LENGTH_CREDITS, LengthCredit, length_credit
from colar_jax.rl.reward_list import check_credit, make_reward

REWARDS_QG = np.array([[1.0, 0.0, 0.0], [2.0, 4.0, 0.0]])
MASK = np.array([[True, True, False], [True, False, False]])


def all_of(registry) -> str:
    """The names that an error lists, whatever there are."""
    return ", ".join(registry)


@pytest.fixture
def registries():
    """What a test registers is gone after it."""
    all_four = (credit.REWARDS, credit.ADVANTAGES, credit.AGGREGATIONS, LENGTH_CREDITS)
    before = [dict(registry) for registry in all_four]
    yield
    for registry, names in zip(all_four, before, strict=True):
        registry.clear()
        registry.update(names)


def test_a_new_one_is_one_function(registries):
    """A config that names it is resolved, checked and computed with."""

    @credit.advantage("largest")
    def largest(rewards_QG, rl):
        return (rewards_QG == rewards_QG.max(axis=1, keepdims=True)).astype(float)

    @credit.aggregation("sum")
    def plain_sum(num_terms, num_chains, rl):
        return 1.0

    @credit.reward("two")
    def two(config, is_right, max_latents):
        return lambda problems, answers, num_latents: [2.0] * len(answers)

    @length_credit("free")
    def free(outcomes, rl, weight):
        return LengthCredit(reward_QG=weight)

    config = defaults()
    config.run = "rl"
    names = dict(advantage="largest", loss_aggregation="sum", reward="0.5*two", length_credit="free")
    config.stages.rl = stage_defaults(method="colar", trainer="grpo", init_from="somewhere", rl=names)
    rl = resolve(config).stages["rl"].rl
    check_credit(rl)
    np.testing.assert_array_equal(advantages_of(REWARDS_QG, rl), [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(term_weights(MASK, rl), MASK)
    assert make_reward(rl, is_right, 8)([Problem("", (), "")], [""], [1]) == [1.0]


def test_a_name_twice_is_a_bug(registries):
    with pytest.raises(ValueError, match="'group' is registered twice"):
        credit.advantage("group")(lambda rewards_QG, rl: rewards_QG)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("advantage", "drgrpo", rf"rl.advantage='drgrpo' is none of {all_of(credit.ADVANTAGES)}.*'dr_grpo'\?"),
        ("advantage", "", f"rl.advantage='' is none of {all_of(credit.ADVANTAGES)}"),
        ("advantage", "math:pi", "rl.advantage='math:pi' is of type float: it is no function"),
        ("advantage", "nowhere.at_all:f", "cannot be imported: ModuleNotFoundError"),
        ("loss_aggregation", "mean", f"rl.loss_aggregation='mean' is none of {all_of(credit.AGGREGATIONS)}"),
        ("length_credit", "amongright", f"is none of {all_of(LENGTH_CREDITS)}.*Did you mean 'among_right'"),
        ("loss_aggregation", "tokens", "Did you mean 'token'"),
        ("reward", "corectness", "Did you mean 'correctness'"),
    ],
)
def test_a_name_that_does_not_exist(setting, value, message):
    with pytest.raises(UserError, match=message):
        check_credit(RlConfig(**{setting: value}))


@pytest.mark.parametrize(
    "given", [[1.0], REWARDS_QG[:1], np.full((2, 3), np.nan), np.full((2, 3), 1e39), None, "text", [["a"] * 3] * 2]
)
def test_an_advantage_function_of_the_users_that_gives_something_else(monkeypatch, given):
    own = types.SimpleNamespace(mine=lambda rewards_QG, rl: given)
    monkeypatch.setitem(sys.modules, "my_advantages", own)
    with pytest.raises(UserError, match=r"(?s)rl.advantage='my_advantages:mine' gave .* one finite number for each"):
        advantages_of(REWARDS_QG, RlConfig(advantage="my_advantages:mine"))
    own.mine = lambda rewards_QG, rl: rewards_QG / 2
    np.testing.assert_array_equal(advantages_of(REWARDS_QG, RlConfig(advantage="my_advantages:mine")), REWARDS_QG / 2)
