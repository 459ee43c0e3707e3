"""The trainer of reinforcement learning: what an iteration is handed."""

import types

import jax
import numpy as np
import optax
import pytest

from colar_jax.config import DecodeConfig, OptimizerConfig, RlConfig
from colar_jax.metrics import Metric
from colar_jax.rl.grpo import GrpoTrainer, most_updates
from colar_jax.rl.health import Collapsed
from colar_jax.training.optimizer import at_update, learning_rate_schedule, make_optimizer
from colar_jax.training.state import initial_state

CONFIG = OptimizerConfig(learning_rate=0.1, weight_decay=0.0, clip_norm=1e9, warmup_steps=2, schedule="cosine")
PARAMETERS = {"a": np.array([1.0, -2.0], np.float32)}
RL = RlConfig(num_questions=4, num_generations=2, minibatch_size=4, num_iterations=3)  # 2 minibatches, 3 times


def counts(state) -> list[int]:
    """The optimizer's counters: AdamW's own, and the schedule's."""
    return [int(count) for _, count in optax.tree.get_all_with_path(state.optimizer, "count")]


def test_the_learning_rate_of_any_update():
    optimizer = make_optimizer(CONFIG, num_steps=6)
    moved = at_update(initial_state(PARAMETERS, optimizer), 4)
    assert counts(moved) == [0, 4], "the moments' bias goes by the steps taken"
    updates, _ = optimizer.update({"a": np.array([3.0, -0.5], np.float32)}, moved.optimizer, PARAMETERS)
    rate = float(learning_rate_schedule(CONFIG, 6)(4))
    np.testing.assert_allclose(updates["a"], [-rate, rate], rtol=1e-5)  # the first step of Adam is the sign


def test_the_learning_rate_goes_by_iterations():
    """Also where few groups have anything to tell apart, so that there are few updates: a cosine ends with the run."""
    seen = []

    def iterate(state, parameters_of, update, iteration):
        seen.append(counts(state)[1])
        return state, {}, 8  # no update at all

    remembers = types.SimpleNamespace(memory=dict, look=lambda iteration, values: None)
    learner = types.SimpleNamespace(config=RL, iterate=iterate, memory=dict)
    trainer = GrpoTrainer(None, learner, remembers, step=None)
    state = initial_state(PARAMETERS, make_optimizer(CONFIG, num_steps=4 * most_updates(RL)))
    list(trainer.steps(state, {}, jax.random.key(0), start=1, stop=4))
    assert most_updates(RL) == 6 and seen == [6, 12, 18]


def nan_from(bad: int):
    """An iteration as a policy leaves it that is not finite from iteration `bad` on: one bad loss, then none at all."""

    def iterate(state, parameters_of, update, iteration):
        loss = {"loss": Metric(np.float32(np.nan if iteration == bad else 1.0), np.float32(1.0))}
        learner.last_batch = {"iteration": np.int32(iteration)}
        return state, loss if iteration <= bad else {}, 8

    learner = types.SimpleNamespace(config=RL, iterate=iterate, memory=dict, last_batch=None)
    return learner


def test_what_made_a_policy_not_finite_is_kept_until_someone_looks():
    """Iterations after it have no loss, for all rollouts are as bad, and would end the run for another reason."""
    looked = []
    health = types.SimpleNamespace(memory=dict, look=lambda iteration, values: looked.append(iteration))
    trainer = GrpoTrainer(None, nan_from(3), health, step=None)
    state = initial_state(PARAMETERS, make_optimizer(CONFIG, num_steps=10 * most_updates(RL)))
    list(trainer.steps(state, {}, jax.random.key(0), start=0, stop=8))
    assert trainer.evidence(8) == {"iteration": 3} and looked == [1, 2, 3]


def test_a_collapse_has_its_own_metrics_with_it():
    def look(iteration, values):
        raise Collapsed("accuracy fell")

    trainer = GrpoTrainer(None, nan_from(9), types.SimpleNamespace(memory=dict, look=look), step=None)
    state = initial_state(PARAMETERS, make_optimizer(CONFIG, num_steps=10 * most_updates(RL)))
    with pytest.raises(Collapsed) as collapsed:
        list(trainer.steps(state, {}, jax.random.key(0), start=0, stop=8))
    assert collapsed.value.metrics["loss"].sum == 1


@pytest.mark.parametrize("price", [0.0, 0.5])
def test_the_checkpoint_is_chosen_by_rewards_less_the_price_of_right_answers(price):
    """`rl.length_price`: a right answer of the longest chain there may be loses so much, and a wrong one nothing."""
    questioner = types.SimpleNamespace(
        reward=lambda problems, answers, num_latents: [float(answer) for answer in answers],
        config=RlConfig(length_price=price),
        sampling=DecodeConfig(max_latents=10),
    )
    learner = types.SimpleNamespace(config=RL, memory=dict, questioner=questioner)
    trainer = GrpoTrainer(None, learner, types.SimpleNamespace(memory=dict), step=None)
    outcome = types.SimpleNamespace(
        predictions=["1", "0.2", "1"], lengths_N=np.array([2, 7, 10]), right_N=np.array([True, False, True])
    )
    values = trainer.appraise([None] * 3, outcome)
    assert values == {"reward": pytest.approx((1 - price * 0.2 + 0.2 + 1 - price) / 3)}
