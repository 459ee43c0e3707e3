"""How the loss is put together: what each kind of action counts, the entropy bonus, and the gaps that are reported."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx
from rl.pico_policy import COMPUTE, SAMPLING, SEPARATOR_ID, batch_of, policy, rollouts

from colar_jax.config import RlConfig
from colar_jax.rl.tree_batch import KINDS
from colar_jax.rl.update import policy_loss


@functools.cache
def of(**rl):
    """Loss and metrics of the rollouts' minibatch, their advantages random; with other parameters than sampled."""
    rl = RlConfig(min_std=SAMPLING.min_latent_std, loss_aggregation="token", **rl)
    batch = batch_of(rollouts(), rl=rl)
    parameters = jax.tree.map(lambda leaf: leaf * np.float32(1.01), policy()[1])

    @jax.jit
    def program(parameters, batch):
        return policy_loss(nnx.merge(policy()[0], parameters), None, batch, SEPARATOR_ID, rl, SAMPLING, COMPUTE)

    loss, metrics = program(parameters, batch)
    return float(loss), {name: float(metric.sum / metric.count) for name, metric in metrics.items()}


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
