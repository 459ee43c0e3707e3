"""A speed that the model chooses is an action: drawn, scored again, and moved by the policy gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import fast
from flax import nnx
from rl.pico_policy import COMPUTE, PROMPTS, SAMPLING, SEPARATOR_ID, Ends, policy

from colar_jax.config import RlConfig
from colar_jax.data.encoding import Prompt
from colar_jax.engine import Engine
from colar_jax.errors import UserError
from colar_jax.methods.own_speed import OwnSpeed
from colar_jax.metrics import divide
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.reasoner import abstract
from colar_jax.model.visibility import packed
from colar_jax.parallel.mesh import make_mesh
from colar_jax.rl.lengths import Outcomes, choice_advantages, rollout_advantages
from colar_jax.rl.rescoring import rescore
from colar_jax.rl.rollout import Sampler, ways_to_sample
from colar_jax.rl.tree_batch import CHOICE, KINDS, assemble
from colar_jax.rl.update import policy_loss
from colar_jax.settings.speeds import OWN_NUMBER

METHOD, GRID = OwnSpeed(grid="1,2,4"), (1.0, 2.0, 4.0)
PER_PROMPT, CHOICES = 2, 3  # rollouts of a prompt, and prompts of a question: each chooses for itself
RL = RlConfig(num_generations=6, speeds_per_group=CHOICES, minibatch_size=6, advantage="dr_grpo")


@functools.cache
def chooser():
    """The pico policy with a speed's embedding and a choice that make a difference."""
    llama = nnx.merge(*policy()).llama.config
    graph, shapes = abstract(llama, LatentHeadConfig(llama.hidden_size), modules=METHOD.modules)
    rng = np.random.default_rng(4)
    own = {
        name: jax.tree.map(lambda leaf, size=size: size * rng.normal(size=leaf.shape).astype(np.float32), shapes[name])
        for name, size in {"speed": 0.7, "speed_choice": 0.15}.items()  # so that no choice is certain
    }
    return graph, policy()[1] | own


PROMPTS_THAT_ASK = [Prompt(ids, OWN_NUMBER) for ids in PROMPTS for _ in range(CHOICES)]


@functools.cache
def rollouts(number: int = 5):
    graph, parameters = chooser()
    engine = Engine(graph, make_mesh(jax.devices()[:1]), COMPUTE)
    ways = ways_to_sample(engine, METHOD, SAMPLING, Ends(), num_generations=PER_PROMPT)
    lengths = np.array([len(prompt) for prompt in PROMPTS_THAT_ASK])
    sampler = Sampler(engine, ways, batch_size=len(lengths), prompt_lengths=lengths)
    ((_, sampled),) = sampler.run(parameters, PROMPTS_THAT_ASK, jax.random.key(number))
    return sampled


def batch_of(sampled, *, alone=False, advantages=None, prompts=PROMPTS_THAT_ASK, rl=RL):
    shape = len(prompts), PER_PROMPT
    advantages = np.zeros(shape) if advantages is None else advantages
    room = dict(num_rows=len(prompts) + 1, prompt_room=32, min_thoughts=SAMPLING.min_latents)
    batch = assemble(prompts, sampled, np.zeros(shape), rl, **room)
    return batch.choosing(sampled, advantages, rl, alone=alone)


def rescored(batch):
    graph, parameters = chooser()
    now = jax.jit(lambda tree: rescore(nnx.merge(graph, tree), batch, SEPARATOR_ID, SAMPLING, COMPUTE))(parameters)
    return now.log_probs, now.choice_entropy_B


@pytest.mark.slow
def test_rescored_log_probabilities_are_those_of_the_decoder():
    """Of the choice, alone and beside a chain's actions, and of these under the speed that was chosen."""
    sampled = rollouts()
    speeds = sampled.own_speeds_B.reshape(len(PROMPTS), CHOICES, PER_PROMPT)
    assert (speeds == speeds[..., :1]).all() and set(np.unique(speeds)) == set(GRID)
    assert (speeds.min(axis=1) < speeds.max(axis=1)).any(), "alternatives of one question"
    batch = batch_of(sampled)
    log_probs, entropy_B = rescored(batch)
    for kind in (*KINDS, CHOICE):
        terms = batch.terms[kind]
        assert terms.mask.sum() >= len(PROMPTS_THAT_ASK)
        assert np.abs(log_probs[kind] - terms.old_log_probs)[terms.mask].max() < 1e-4, kind
    alone = batch_of(sampled, alone=True)
    of_choice, entropy_alone_B = rescored(alone)
    assert of_choice.keys() == alone.terms.keys() == {CHOICE}
    mask = alone.terms[CHOICE].mask
    assert np.abs(of_choice[CHOICE] - alone.terms[CHOICE].old_log_probs)[mask].max() < 1e-4
    np.testing.assert_allclose(entropy_B[:-1], entropy_alone_B[:-1], rtol=1e-4)
    assert entropy_B[:-1].min() > 0 and entropy_B[:-1].max() < np.log(3)
    # Told another speed a chain has other log-probabilities.
    other = dataclasses.replace(batch, speeds_B=np.where(batch.speeds_B == 4, 1, 4).astype(np.float32))
    terms = batch.terms["latent"]
    assert np.abs(rescored(other)[0]["latent"] - terms.old_log_probs)[terms.mask].max() > 1e-2


def with_shares(shares_K):
    """Parameters with which the head has just these probabilities, whatever it reads."""
    choice = chooser()[1]["speed_choice"]
    flat = {"second_kernel": np.zeros_like(choice["second_kernel"]), "second_bias": np.log(shares_K, dtype=np.float32)}
    return chooser()[1] | {"speed_choice": choice | flat}


def test_speeds_are_drawn_as_often_as_the_head_says():
    shares_K, count = np.array([0.5, 0.3, 0.2], np.float32), 4000
    head = nnx.merge(chooser()[0], with_shares(shares_K)).speed_choice
    hidden_CD = jnp.ones((count, head.first.kernel.shape[0]))
    speeds_C, log_probs_C = head.drawn(hidden_CD, jax.random.split(jax.random.key(0), count))
    for speed, share in zip(GRID, shares_K, strict=True):
        assert np.mean(np.asarray(speeds_C) == speed) == pytest.approx(share, abs=0.03)
        np.testing.assert_allclose(log_probs_C[speeds_C == speed], np.log(share), rtol=1e-5)
    again_C, entropy_C = head.log_prob(hidden_CD, speeds_C)
    np.testing.assert_allclose(again_C, log_probs_C, rtol=1e-6)
    np.testing.assert_allclose(entropy_C, -np.sum(shares_K * np.log(shares_K)), rtol=1e-5)


def gradient_of(loss, parameters):
    _, of_choice = jax.jit(jax.grad(loss, argnums=(0, 1)))(
        {name: leaf for name, leaf in parameters.items() if name != "speed_choice"}, parameters["speed_choice"]
    )
    return of_choice


@pytest.mark.slow
@pytest.mark.parametrize(("alone", "bonus"), fast([(True, 0.0), (True, 0.3), (False, 0.3)], (False, 0.3)))
def test_the_policy_gradient_is_that_of_the_expected_reward_by_enumeration(alone, bonus):
    """Of one question with a reward for each speed, from rollouts that are spread as the head's probabilities are.

    And of the choice's entropy, as a bonus.
    """
    graph, _ = chooser()
    rewards_K, shares_K, counts_K = np.array([0.2, 1.0, 0.5]), np.array([0.5, 0.25, 0.25]), (2, 1, 1)
    parameters = with_shares(shares_K)
    chosen = np.repeat(np.arange(3), counts_K)
    prompts = [Prompt(PROMPTS[1], OWN_NUMBER)] * len(chosen)
    sampled = jax.tree.map(lambda leaf: leaf[: len(chosen) * PER_PROMPT], rollouts())
    of_rollouts = np.repeat(chosen, PER_PROMPT)
    sampled = dataclasses.replace(
        sampled,
        own_speeds_B=np.array(GRID, np.float32)[of_rollouts],
        own_log_probs_B=np.log(shares_K)[of_rollouts].astype(np.float32),
    )
    advantages = (rewards_K[of_rollouts] - shares_K @ rewards_K).reshape(len(prompts), PER_PROMPT)
    batch = batch_of(sampled, alone=alone, advantages=advantages, prompts=prompts)
    rl = dataclasses.replace(RL, latent_weight=0.0, decision_weight=0.0, answer_weight=0.0, choice_entropy_weight=bonus)

    def loss(rest, of_choice):
        model = nnx.merge(graph, rest | {"speed_choice": of_choice})
        return policy_loss(model, None, batch, SEPARATOR_ID, rl, SAMPLING, COMPUTE)[0]

    def expected(rest, of_choice):
        model = nnx.merge(graph, rest | {"speed_choice": of_choice})
        ids = jnp.asarray(PROMPTS[1][None, :-1])
        hidden_1PD, _ = model.llama.run(
            model.llama.embed(ids, jnp.float32),
            jnp.arange(ids.shape[1])[None],
            packed(jnp.ones_like(ids), COMPUTE),
            COMPUTE,
        )
        log_probs_K = jax.nn.log_softmax(model.speed_choice(hidden_1PD[0, -1]))
        return -jnp.sum(jnp.exp(log_probs_K) * (rewards_K - bonus * log_probs_K))

    actual, wanted = gradient_of(loss, parameters), gradient_of(expected, parameters)
    for (path, ours), theirs in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6, err_msg=jax.tree_util.keystr(path))
    assert np.abs(actual["second_kernel"]).max() > 1e-3


@pytest.mark.slow
def test_the_choice_is_clipped_and_held_as_any_action_is():
    """One term a rollout: its ratio, its clipping and its divergence from the first policy."""
    graph, parameters = chooser()
    batch = batch_of(rollouts(), alone=True, advantages=np.ones((len(PROMPTS_THAT_ASK), PER_PROMPT)))
    terms = batch.terms[CHOICE]
    moved = dataclasses.replace(terms, old_log_probs=terms.old_log_probs - np.float32(0.5))
    batch = dataclasses.replace(batch, terms={CHOICE: moved})
    reference = dict(parameters)
    reference["speed_choice"] = jax.tree.map(lambda leaf: 0.5 * leaf, parameters["speed_choice"])

    def loss(tree, beta):
        models = (nnx.merge(graph, parameters | tree), nnx.merge(graph, reference))
        rl = dataclasses.replace(RL, beta=beta)
        return policy_loss(*models, batch, SEPARATOR_ID, rl, SAMPLING, COMPUTE)

    def of(beta):
        gradient = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
        return gradient({"speed_choice": parameters["speed_choice"]}, beta)

    (_, metrics), gradient = of(0.5)
    values = divide(metrics)
    assert values["ratio/choice"] == pytest.approx(np.exp(0.5), rel=1e-3)
    assert values["clip_fraction/choice"] == 1 and values["kl/choice"] > 0
    assert values["choice_entropy"] > 0 and not any(name.endswith("/latent") for name in values)
    assert np.abs(gradient["speed_choice"]["second_bias"]).max() > 0, "of the divergence alone"
    _, gradient = of(0.0)
    assert np.abs(gradient["speed_choice"]["second_bias"]).max() == 0, "clipped: a good action that is likelier enough"


def outcomes_of(right, lengths):
    right, lengths = np.array(right, bool), np.array(lengths)
    return Outcomes(right.astype(float), right, lengths, np.zeros_like(right), 10, np.full(lengths.shape, 1), 2)


def test_speeds_are_compared_within_the_group_and_chains_within_their_prompt():
    """Two speeds, three rollouts each: the slow one is right more often, the fast one costs less."""
    outcomes = outcomes_of([[1, 1, 0, 0, 0, 1]], [[8, 8, 8, 2, 2, 2]])
    rl = RlConfig(num_generations=6, speeds_per_group=2, minibatch_size=6, advantage="dr_grpo", length_credit="cost")
    np.testing.assert_allclose(outcomes.passes_QG, [[11, 11, 11, 5, 5, 5]])
    of_chains, _ = rollout_advantages(outcomes, rl, 0.5)
    np.testing.assert_allclose(of_chains, [[1 / 3, 1 / 3, -2 / 3, -1 / 3, -1 / 3, 2 / 3]], atol=1e-6)
    for weight, is_slow_better in ((0.0, True), (1.0, False)):
        of_choices = choice_advantages(outcomes, rl, weight)
        # right - weight * passes / max_latents, less the group's mean
        rewards = outcomes.rewards_QG - weight * outcomes.passes_QG / 10
        np.testing.assert_allclose(of_choices, rewards - rewards.mean(), atol=1e-6)
        assert (of_choices[0, :3].mean() > of_choices[0, 3:].mean()) == is_slow_better


def test_a_budget_of_cost_is_one_of_forward_passes():
    outcomes = outcomes_of([[1, 1]], [[3, 5]])
    assert outcomes.mean_spent(RlConfig(length_credit="cost")) == 7
    assert outcomes.mean_spent(RlConfig(length_credit="penalty")) == 4


def test_what_a_stage_trains():
    assert METHOD.trains == ("speed_choice",) and OwnSpeed(grid="1,2,4", learns="choice") == METHOD
    assert OwnSpeed(learns="all").trains == ("llama", "latent_head", "speed", "speed_choice")
    with pytest.raises(UserError, match="own_speed.learns='head'"):
        OwnSpeed(learns="head")
