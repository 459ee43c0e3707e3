"""How the loss is put together: what each kind of action counts, the entropy bonus, and the gaps that are reported."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx
from rl.pico_policy import COMPUTE, SAMPLING, SEPARATOR_ID, batch_of, policy, rollouts

from colar_jax.config import RlConfig
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.rl.rescoring import rescore
from colar_jax.rl.tree_batch import KINDS
from colar_jax.rl.update import policy_loss


@functools.cache
def program(rl: RlConfig):
    """Loss and metrics by parameters (those of a reference, too) of the rollouts' minibatch, and that minibatch.

    Its advantages are random.
    """
    batch = batch_of(rollouts(), rl=rl)

    @jax.jit
    def loss(parameters, reference, batch):
        models = (None if tree is None else nnx.merge(policy()[0], tree) for tree in (parameters, reference))
        return policy_loss(*models, batch, SEPARATOR_ID, rl, SAMPLING, COMPUTE)

    def of_parameters(parameters, reference=None):
        loss_sum, metrics = loss(parameters, reference, batch)
        return float(loss_sum), {name: float(metric.sum / metric.count) for name, metric in metrics.items()}

    return of_parameters, batch


def settings(**rl) -> RlConfig:
    return RlConfig(min_std=SAMPLING.min_latent_std, loss_aggregation="token", **rl)


def moved(by: float):
    """Other parameters than those that sampled."""
    return jax.tree.map(lambda leaf: leaf * np.float32(by), policy()[1])


@functools.cache
def of(**rl):
    """Loss and metrics of the rollouts' minibatch, with other parameters than sampled."""
    return program(settings(**rl))[0](moved(1.01))


@jax.jit
def scored(parameters, batch):
    """Log-probabilities by kind, and the standard deviations that the head predicts."""
    now = rescore(nnx.merge(policy()[0], parameters), batch, SEPARATOR_ID, SAMPLING, COMPUTE)
    return now.log_probs, now.raw.std


def test_each_kind_counts_its_weight():
    loss, metrics = of()
    of_kinds = np.array([metrics[f"loss/{kind}"] for kind in KINDS])
    assert np.abs(of_kinds).min() > 1e-4 and loss == pytest.approx(of_kinds.sum(), rel=1e-5)
    weighed, _ = of(latent_weight=16.0, decision_weight=0.0, answer_weight=0.5)
    assert weighed == pytest.approx(of_kinds @ [16.0, 0.0, 0.5], rel=1e-5)


@pytest.mark.parametrize("latent_weight", [0.0, 16.0])
def test_the_entropy_bonus_is_its_own(latent_weight):
    """Not the latents' weight: with `token` aggregation it is the mean entropy of all latents."""
    without, metrics = of(latent_weight=latent_weight)
    with_bonus, _ = of(latent_weight=latent_weight, entropy_weight=0.5)
    assert without - with_bonus == pytest.approx(0.5 * metrics["latent_entropy"], rel=1e-4)


def test_gaps_do_not_depend_on_the_reduction():
    """A latent's is of the mean over its dimensions, so that one bound serves both reductions."""
    mean, total = (of(log_prob_reduction=reduction)[1] for reduction in ("mean", "sum"))
    assert mean["gap/latent"] > 1e-4
    for kind in KINDS:
        assert total[f"gap/{kind}"] == pytest.approx(mean[f"gap/{kind}"], rel=1e-4)


WEIGHTS = {"latent": 3.0, "decision": 0.5, "answer": 0.25}
BY_ROOT = {f"{kind}_weight": weight for kind, weight in WEIGHTS.items()}
BY_ROOT |= {"latent_ratio": "reduced", "log_prob_reduction": "root"}


def test_what_holds_a_policy_is_its_divergence_from_the_first_one():
    """`beta * weight * (exp(d) - d - 1)`, `d` the reference's log-probability less the policy's, of every term."""
    (held, batch), (free, _) = program(settings(beta=0.5, **BY_ROOT)), program(settings(**BY_ROOT))
    policy_now, first = moved(1.01), moved(1.05)
    (own, _), (of_first, _) = (scored(parameters, batch) for parameters in (policy_now, first))
    expected = 0.0
    loss, metrics = held(policy_now, first)
    for kind in KINDS:
        mask, scale = batch.terms[kind].mask, batch.latents_shape[-1] ** 0.5 if kind == "latent" else 1.0
        difference = scale * np.asarray(of_first[kind] - own[kind], np.float64)[mask]
        divergence = np.exp(difference) - difference - 1
        expected += WEIGHTS[kind] * np.sum(batch.terms[kind].weights[mask] * divergence)
        assert metrics[f"kl/{kind}"] == pytest.approx(divergence.mean(), rel=1e-3) and divergence.mean() > 1e-3
    assert loss - free(policy_now)[0] == pytest.approx(0.5 * expected, rel=1e-3)
    assert held(policy_now, policy_now)[0] == pytest.approx(free(policy_now)[0], abs=1e-5), "none from itself"


def test_how_far_terms_moved_is_of_a_latent_as_a_whole():
    """What ends a run (`rl.health`): a latent's log-probability is a mean, and its density the product."""
    of_parameters, batch = program(settings(**BY_ROOT))
    policy_now, size = moved(1.1), batch.latents_shape[-1]
    _, metrics = of_parameters(policy_now)
    log_probs, _ = scored(policy_now, batch)
    shares = {}
    for name, scale in {"latent": size, "latent_reduced": size**0.5, "decision": 1, "answer": 1}.items():
        terms = batch.terms[name.removesuffix("_reduced")]
        gaps = scale * np.abs(log_probs[name.removesuffix("_reduced")] - terms.old_log_probs)[terms.mask]
        assert metrics[f"log_ratio/{name}"] == pytest.approx(gaps.mean(), rel=1e-3)
        assert metrics[f"lost/{name}"] == pytest.approx(np.mean(gaps > 2), abs=1e-6)
        shares[name] = np.mean(gaps > 2)
    assert shares["latent"] > 2 * shares["latent_reduced"] > 0.1


def test_which_standard_deviations_are_at_a_bound():
    """At the floor, or at the largest that the head predicts: nothing moves them there."""
    of_parameters, batch = program(settings())
    bias_D = np.zeros(batch.latents_shape[-1], np.float32)
    bias_D[:2] = 9.0, -9.0  # two dimensions at the bounds of the head, of which the lower is below the floor
    head = policy()[1]["latent_head"]
    widened = head["log_std"] | {"bias": head["log_std"]["bias"] + bias_D}
    parameters = policy()[1] | {"latent_head": head | {"log_std": widened}}
    _, metrics = of_parameters(parameters)
    std = np.asarray(scored(parameters, batch)[1])[batch.terms["latent"].mask]
    largest = np.exp(LatentHeadConfig(1).max_log_std)
    at_floor, at_largest = std <= SAMPLING.min_latent_std, np.isclose(std, largest)
    assert at_largest.mean() == pytest.approx(1 / len(bias_D)) and at_floor[:, 2:].any() and not at_floor.all()
    assert metrics["latent_std_at_bound"] == pytest.approx(np.mean(at_floor | at_largest), abs=2e-3)
    assert metrics["latent_std"] == pytest.approx(std.mean(), rel=1e-4)
