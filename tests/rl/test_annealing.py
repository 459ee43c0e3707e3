"""What changes from iteration to iteration is data to the programs; and noise on one side only."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rl.pico_policy import PROMPTS, SAMPLING, SEPARATOR_ID, Ends, G, batch_of, engine_of, policy, rescored, rollouts
from rl.test_learning import by_turns, counted, learner, never

from colar_jax.config import DecodeConfig, RlConfig
from colar_jax.methods import METHODS
from colar_jax.metrics import divide
from colar_jax.model.execution import Execution
from colar_jax.rl.annealing import Annealed, annealed
from colar_jax.rl.rescoring import rescore
from colar_jax.rl.rollout import Sampler, ways_to_sample
from colar_jax.rl.tree_batch import KINDS

AT = Annealed(np.int32(6), np.float32(0.9), np.float32(1.7))
LATER = Annealed(np.int32(4), np.float32(0.3), np.float32(1.0))


@functools.cache
def annealing_sampler() -> Sampler:
    engine = engine_of()
    ways_at = functools.partial(ways_to_sample, engine, METHODS["colar"](), SAMPLING, Ends(), num_generations=G)
    lengths = np.array([len(prompt) for prompt in PROMPTS])
    return Sampler(engine, ways_at(), batch_size=4, prompt_lengths=lengths, ways_at=lambda at: ways_at(at=at))


def sampled_at(at: Annealed):
    ((_, sampled),) = annealing_sampler().run(policy()[1], PROMPTS, jax.random.key(5), at)
    return sampled


def test_settings_move_evenly_from_the_first_iteration_to_the_last():
    decode = DecodeConfig(max_latents=48)
    rl = RlConfig(final_max_latents=16, final_min_std=0.1, stop_odds_temperature=3.0, final_stop_odds_temperature=1.0)
    ends = [dataclasses.astuple(annealed(rl, decode, iteration, 5)) for iteration in (0, 2, 4, 9)]
    np.testing.assert_allclose(ends, [(48, 0.2, 3), (32, 0.15, 2), (16, 0.1, 1), (16, 0.1, 1)], rtol=1e-6)
    only_odds = annealed(RlConfig(stop_odds_temperature=3.0, final_stop_odds_temperature=1.0), decode, 1, 3)
    np.testing.assert_allclose(dataclasses.astuple(only_odds), (48, 0.2, 2), rtol=1e-6)
    assert annealed(RlConfig(), decode, 3, 5) is None


@pytest.mark.slow
def test_an_iteration_is_sampled_as_if_its_values_were_settings():
    values = dict(
        max_latents=6, min_latent_std=float(AT.min_std), stop_odds_temperature=float(AT.stop_odds_temperature)
    )
    expected, actual = rollouts(dataclasses.replace(SAMPLING, **values)), sampled_at(AT)
    np.testing.assert_array_equal(actual.num_thoughts_B, expected.num_thoughts_B)
    np.testing.assert_array_equal(actual.forced_stop_B, expected.forced_stop_B)
    for row, length in enumerate(expected.num_thoughts_B):
        np.testing.assert_allclose(actual.thoughts[row, :length], expected.thoughts[row, :length], rtol=1e-4, atol=1e-5)
    assert actual.forced_stop_B.any() and actual.num_thoughts_B.max() == 6


@pytest.mark.parametrize("at", [AT, LATER])
def test_rescored_log_probabilities_are_those_of_the_iteration(at):
    batch = batch_of(sampled_at(at)).under(at)
    now = rescored(policy()[1], batch)
    for kind in KINDS:
        terms = batch.terms[kind]
        assert np.abs(now[kind] - terms.old_log_probs)[terms.mask].max() < 1e-4, kind


def test_another_iteration_compiles_nothing():
    for at in (AT, LATER, AT):
        sampled_at(at)
    assert annealing_sampler()._program._cache_size() == 1


def test_an_iteration_asks_and_learns_with_its_own_values():
    """Of a stage of five: chains are cut where each says, and scored with its floor and the temperature of its odds."""
    finals = dict(final_max_latents=3, final_min_std=0.3, final_stop_odds_temperature=2.0, stop_odds_temperature=1.0)
    one = learner(by_turns, never, **finals)
    own = annealing_sampler.__wrapped__()  # prompts that say a speed have a program of their own
    one.questioner = dataclasses.replace(one.questioner, sampler=own)
    one.num_iterations, seen = 5, []

    def update(state, batch):
        seen.append(batch)
        return counted(state, batch)

    for iteration, expected in {0: (9, 0.7, 1.0), 2: (6, 0.5, 1.5), 4: (3, 0.3, 2.0)}.items():
        seen.clear()
        _, metrics, _ = one.iterate(0, lambda state: policy()[1], update, iteration)
        values = divide(metrics)
        annealing = [values[f"annealed/{field.name}"] for field in dataclasses.fields(Annealed)]
        np.testing.assert_allclose(annealing, expected, rtol=1e-6)
        assert max(batch.num_thoughts_BG.max() for batch in seen) == expected[0]
        for batch in seen:
            np.testing.assert_allclose(batch.min_std_B, expected[1], rtol=1e-6)
            np.testing.assert_allclose(batch.stop_odds_temperature_B, expected[2], rtol=1e-6)


ONE_SIDED = dataclasses.replace(SAMPLING, latent_noise="one_sided")


def rescored_one_sided(parameters, batch):
    return rescore(nnx.merge(policy()[0], parameters), batch, SEPARATOR_ID, ONE_SIDED, Execution())


@pytest.mark.slow
def test_one_sided_latents_lie_above_the_mean_and_are_scored_as_they_were_drawn():
    batch = batch_of(rollouts(ONE_SIDED), sampling=ONE_SIDED)
    now = jax.jit(rescored_one_sided)(policy()[1], batch)
    mask = batch.terms["latent"].mask
    above = np.asarray(batch.thoughts_BGLD - now.sampled.mean)[mask]
    assert above.min() > -1e-4 and (above.min(axis=1) < above.max(axis=1)).all()
    gaps = np.abs(now.log_probs["latent"] - batch.terms["latent"].old_log_probs)[mask]
    assert gaps.max() < 1e-4
    # Twice as dense as the whole Gaussian.
    whole = rescored(policy()[1], batch)["latent"]
    np.testing.assert_allclose(np.asarray(now.log_probs["latent"] - whole)[mask], np.log(2), rtol=1e-4)


@pytest.mark.parametrize(("advantage", "signs"), [(-1.0, {1.0}), (1.0, {-1.0, 1.0})])
def test_a_bad_latent_never_draws_the_mean_near(advantage, signs):
    """The mean has moved past some of what was drawn: the density's slope would point down there."""
    batch = batch_of(rollouts(ONE_SIDED), np.full((len(PROMPTS), G), advantage), sampling=ONE_SIDED)
    mask = batch.terms["latent"].mask
    shift = jnp.where(jnp.arange(batch.thoughts_BGLD.shape[-1]) % 2, 5.0, 0.0)
    parameters = jax.tree.map(jnp.asarray, policy()[1])

    def total(shift):
        head = parameters["latent_head"]
        moved = head["mean"] | {"bias": head["mean"]["bias"] + shift}
        now = rescored_one_sided(parameters | {"latent_head": head | {"mean": moved}}, batch)
        return jnp.sum(jnp.where(mask, now.log_probs["latent"], 0.0))

    slope = np.asarray(jax.jit(jax.grad(total))(shift))
    assert set(np.sign(slope)) == signs
