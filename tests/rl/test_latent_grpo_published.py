"""Latent-GRPO against its authors' own functions: log-probabilities, advantages, the loss (golden/README.md)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.authors import case

from colar_jax.config import RlConfig
from colar_jax.decoding.khot import score_log_prob_of_update
from colar_jax.rl.lengths import Outcomes, rollout_advantages
from colar_jax.rl.tree_batch import _only_the_best_first
from colar_jax.rl.update import clipped_loss

GROUP = 4
RL = RlConfig(advantage="group", advantage_eps=1e-6, epsilon=0.2, epsilon_high=0.2, dual_clip=3.0)


def test_log_probabilities_of_latents_and_their_gradient():
    """Where the policy has passed a score of what was not good, theirs reflects the score's excess u: u - exp(u).

    That makes the gradient small, and leaves it pointing the wrong way: what was bad is pulled near. Ours turns it.
    """
    recorded = case.of_variant("latent_grpo", "surrogate")
    scores, ids = jnp.asarray(recorded["scores"]), recorded["ids"]
    is_bad = jnp.asarray(recorded["advantages"] <= 0)

    def gradients(log_prob):
        """With respect to the logits, and to the log-probabilities of a latent's tokens."""
        logits_NV = jnp.asarray(recorded["logits"])

        def of_tokens(logits_NV):
            return jnp.take_along_axis(jax.nn.log_softmax(logits_NV), ids, axis=1)

        return (
            jax.grad(lambda logits_NV: log_prob(of_tokens(logits_NV)).sum())(logits_NV),
            jax.grad(lambda log_probs_NK: log_prob(log_probs_NK).sum())(of_tokens(logits_NV)),
        )

    def ours(log_probs_NK):
        return score_log_prob_of_update(scores, log_probs_NK, ~is_bad)

    def theirs(log_probs_NK):
        above = scores - log_probs_NK
        reflected = jnp.where((above < 0) & is_bad[:, None], above - jnp.exp(above), -above - jnp.exp(-above))
        return jnp.mean(reflected, axis=-1)

    own = jnp.take_along_axis(jax.nn.log_softmax(jnp.asarray(recorded["logits"])), ids, axis=1)
    np.testing.assert_allclose(ours(own), recorded["log_probs"], rtol=1e-5)
    of_logits, of_tokens = gradients(ours)
    of_their_logits, of_their_tokens = gradients(theirs)
    np.testing.assert_allclose(of_their_logits, recorded["gradient"], atol=1e-6)
    passed = np.asarray((scores < own) & is_bad[:, None])
    agree = ~passed.any(axis=1)
    assert passed.sum() > 3 and agree.sum() > 3
    np.testing.assert_allclose(of_logits[agree], recorded["gradient"][agree], atol=1e-6)
    assert (of_their_tokens[passed] < 0).all() and (of_tokens[passed] > 0).all()


@pytest.mark.parametrize("overlong", ["left_out", "count"])
def test_advantages_and_the_first_step_that_wins(overlong):
    """A rollout that is alone in what is left of its group has no advantage here; theirs is its reward."""
    recorded = case.of_variant("latent_grpo", "credit")
    mask, theirs = recorded["mask"], recorded["left_out" if overlong == "left_out" else "counted"]
    cut_QG = (mask.sum(axis=1) == mask.shape[1]).reshape(-1, GROUP)
    rewards_QG = recorded["rewards"].reshape(-1, GROUP)
    outcomes = Outcomes(
        rewards_QG=rewards_QG, right_QG=rewards_QG > 0, lengths_QG=mask.sum(axis=1).reshape(-1, GROUP).astype(int),
        forced_QG=cut_QG if overlong == "left_out" else np.zeros_like(cut_QG), max_latents=mask.shape[1],
    )  # fmt: skip
    settings = RlConfig(advantage="group", advantage_eps=1e-6, overlong=overlong)
    advantages_QG, _ = rollout_advantages(outcomes, settings, 0.0)
    counts = {"latent": mask.reshape(-1, GROUP, mask.shape[1]).copy()}
    means = (recorded["old"] * mask).sum(axis=1) / mask.sum(axis=1)
    _only_the_best_first(counts, means, advantages_QG)
    ours = advantages_QG[..., None] * counts["latent"]
    is_compared = np.ones(len(ours), bool) if overlong == "count" else (~cut_QG).sum(axis=1) != 1
    assert is_compared.sum() > 2
    np.testing.assert_allclose(ours[is_compared], theirs.reshape(ours.shape)[is_compared], atol=1e-5)


def test_the_loss_of_an_update():
    """Ratios clipped on both sides, and once more where a bad action has become likely."""
    recorded = case.of_variant("latent_grpo", "credit")
    mask = recorded["mask"]

    def loss(new):
        losses, _ = clipped_loss(new, recorded["old"], jnp.asarray(recorded["counted"]), RL)
        return jnp.sum(losses * mask) / mask.sum()

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(recorded["new"]))
    assert float(value) == pytest.approx(float(recorded["loss"]), rel=case.LOSS)
    np.testing.assert_allclose(gradient, recorded["gradient"], atol=1e-6)
