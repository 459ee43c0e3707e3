"""Which parameters are trained, and how an optimizer moves them."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from pico_model import EMBED_STD, assert_close, model, parts

from colar_jax.config import OptimizerConfig
from colar_jax.training.optimizer import learning_rate_schedule, make_optimizer, without_moments
from colar_jax.training.state import initial_state, join


@pytest.mark.parametrize("method", ["cot", "no_cot"])
def test_words_train_the_language_model_alone(method):
    trainable, frozen = parts(method)
    assert trainable.keys() == {"llama"} and frozen.keys() == {"latent_head"}
    trainable, frozen = parts("colar")
    assert trainable.keys() == {"llama", "latent_head"} and frozen == {"latent_head": {"embed_std": EMBED_STD}}
    assert_close(join(trainable, frozen), model()[1], tolerance=0)


def test_schedules_are_pinned():
    cosine = OptimizerConfig(learning_rate=0.8, warmup_steps=4, final_fraction=0.25)
    rate = learning_rate_schedule(cosine, num_steps=12)
    rates = [rate(step) for step in (0, 1, 3, 4, 6, 8, 12, 100)]
    at_a_quarter = 0.8 * (0.25 + 0.75 * (1 + np.cos(np.pi / 4)) / 2)
    np.testing.assert_allclose(rates, [0, 0.2, 0.6, 0.8, at_a_quarter, 0.5, 0.2, 0.2], rtol=1e-6)
    constant = learning_rate_schedule(dataclasses.replace(cosine, schedule="constant"), num_steps=12)
    np.testing.assert_allclose([constant(step) for step in (0, 2, 4, 12, 100)], [0, 0.4, 0.8, 0.8, 0.8], rtol=1e-6)
    at_once = learning_rate_schedule(OptimizerConfig(learning_rate=0.8), num_steps=4)
    np.testing.assert_allclose([at_once(step) for step in (0, 2, 4)], [0.8, 0.4, 0], atol=1e-7)


def test_clipping_then_adamw():
    """Three steps against the textbook, clipped by the norm over all parameters (the published code clips nothing)."""
    config = OptimizerConfig(
        learning_rate=0.1, weight_decay=0.2, b1=0.7, b2=0.9, clip_norm=1.0, schedule="constant", warmup_steps=2
    )
    optimizer = make_optimizer(config, num_steps=10)
    parameters = {"a": np.array([1.0, -2.0], np.float32), "b": np.array([[3.0]], np.float32)}
    gradients = [(np.array([3.0, 0.0]), 4.0), (np.array([0.3, 0.1]), 0.2), (np.array([0.0, -30.0]), 40.0)]
    state, flat = optimizer.init(parameters), np.array([1.0, -2.0, 3.0])
    mean, square = np.zeros(3), np.zeros(3)
    for step, (a, b) in enumerate(gradients, start=1):
        tree = {"a": a.astype(np.float32), "b": np.full((1, 1), b, np.float32)}
        updates, state = optimizer.update(tree, state, parameters)
        parameters = optax.apply_updates(parameters, updates)

        clipped = np.append(a, b) * min(1, 1 / np.linalg.norm(np.append(a, b)))
        mean = 0.7 * mean + 0.3 * clipped
        square = 0.9 * square + 0.1 * clipped**2
        direction = mean / (1 - 0.7**step) / (np.sqrt(square / (1 - 0.9**step)) + 1e-8)
        flat = flat - 0.1 * min((step - 1) / 2, 1) * (direction + 0.2 * flat)
        np.testing.assert_allclose(np.append(parameters["a"], parameters["b"]), flat, rtol=1e-5)


def test_weight_decay_is_that_of_adamw():
    """Decoupled, of every parameter: what optax itself does below the clipping norm."""
    config = OptimizerConfig(learning_rate=0.01, weight_decay=0.3, clip_norm=1e9, schedule="constant")
    trainable, _ = parts()
    gradients = jax.tree.map(np.ones_like, trainable)
    ours, plain = make_optimizer(config, 10), optax.adamw(config.learning_rate, weight_decay=0.3)
    without = make_optimizer(dataclasses.replace(config, weight_decay=0.0), 10)

    @jax.jit
    def updates():
        return [opt.update(gradients, opt.init(trainable), trainable)[0] for opt in (ours, plain, without)]

    decayed, expected, undecayed = updates()
    assert_close(decayed, expected, tolerance=1e-6)
    decay = jax.tree.map(np.subtract, decayed, undecayed)
    assert_close(decay, jax.tree.map(lambda p: -0.01 * 0.3 * p, trainable), tolerance=1e-3)


def test_forgetting_the_moments_keeps_the_place_in_the_schedule():
    """As if Adam began anew, at the learning rate of now: what is reset where a phase of a schedule begins."""
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.0, clip_norm=1e9, warmup_steps=2, schedule="cosine")
    optimizer = make_optimizer(config, num_steps=6)
    parameters = {"a": np.array([1.0, -2.0], np.float32)}
    state = initial_state(parameters, optimizer)
    for _ in range(3):
        _, moved = optimizer.update({"a": np.array([1.0, 1.0], np.float32)}, state.optimizer, parameters)
        state = dataclasses.replace(state, optimizer=moved)
    forgotten = without_moments(state)
    assert float(np.abs(optax.tree.get(forgotten.optimizer, "mu")["a"]).max()) == 0
    updates, _ = optimizer.update({"a": np.array([3.0, -0.5], np.float32)}, forgotten.optimizer, parameters)
    rate = float(learning_rate_schedule(config, 6)(3))
    np.testing.assert_allclose(updates["a"], [-rate, rate], rtol=1e-5)  # the first step of Adam is the sign
