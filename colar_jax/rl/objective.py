"""The loss of a minibatch of rollouts: clipped policy gradient on latents, decisions and answer tokens.

    loss = sum over kinds of kind weight * sum over its terms of weight * (-min(ratio A, clip(ratio) A) + beta k3)
           - entropy_weight * entropy of the latents

The three kinds of terms are averaged by themselves and added up, as latents and answers are in the paper.
"""

import jax
import jax.numpy as jnp

from colar_jax.config import Compute, DecodeConfig, RlConfig
from colar_jax.metrics import Metric
from colar_jax.model.reasoner import Reasoner
from colar_jax.rl.policy_loss import clipped_loss, k3_divergence
from colar_jax.rl.rescoring import Rescored, rescore
from colar_jax.rl.tree_batch import TreeBatch

KINDS = ("latent", "decision", "answer")
# A head's standard deviation this near to its bound (relative) is at it.
_AT_BOUND = 1.001


def objective(
    model: Reasoner,
    reference: Reasoner | None,
    batch: TreeBatch,
    separator_id: int,
    rl: RlConfig,
    sampling: DecodeConfig,
    compute: Compute,
):
    """This part's share of the loss, and its metrics. `reference` is the first policy; needed where `rl.beta` is not 0.

    `sampling` is how the rollouts were sampled; its `min_latent_std` is the policy's floor.
    """
    now = rescore(model, batch, separator_id, sampling, compute)
    before = jax.lax.stop_gradient(rescore(reference, batch, separator_id, sampling, compute)) if rl.beta else None
    scale = batch.latents_BGLD.shape[-1] if rl.log_prob_reduction == "sum" else 1
    kinds = zip(KINDS, (batch.latents, batch.decisions, batch.answers), _log_probs(now, scale), strict=True)
    kind_weights = (rl.latent_weight, rl.decision_weight, rl.answer_weight)
    share = jnp.sum(batch.share_B)
    loss, metrics = 0.0, {}
    for number, (kind, terms, log_probs) in enumerate(kinds):
        mask = terms.mask
        log_probs = jnp.where(mask, log_probs, 0.0)
        of_terms, ratios = clipped_loss(
            log_probs,
            terms.old_log_probs,
            batch.advantages_BG[..., None],
            epsilon=rl.epsilon,
            epsilon_high=rl.epsilon_high,
        )
        count = jnp.sum(mask)
        if before is not None:
            reference_log_probs = jnp.where(mask, _log_probs(before, scale)[number], 0.0)
            divergence = k3_divergence(log_probs, reference_log_probs)
            of_terms += rl.beta * divergence
            metrics[f"kl/{kind}"] = Metric(jnp.sum(divergence * mask), count)
        own_loss = kind_weights[number] * jnp.sum(terms.weights * of_terms)
        loss += own_loss
        is_clipped = (ratios < 1 - rl.epsilon) | (ratios > 1 + rl.epsilon_high)
        gaps = jnp.abs(log_probs - terms.old_log_probs)
        metrics[f"loss/{kind}"] = Metric(own_loss, share)
        metrics[f"clip_fraction/{kind}"] = Metric(jnp.sum(is_clipped & mask), count)
        metrics[f"ratio/{kind}"] = Metric(jnp.sum(jnp.where(mask, ratios, 0.0)), count)
        metrics[f"log_ratio/{kind}"] = Metric(jnp.sum(gaps * mask), count)
        # The mean of the parts' largest, as metrics are added up; of a latent whatever the reduction of the ratio.
        gap = jnp.max(gaps) / (scale if kind == "latent" else 1)
        metrics[f"gap/{kind}"] = Metric(gap * share, share)
    loss, of_latents = _with_entropy(loss, now, batch, rl, model.latent_head.config)
    return loss, metrics | of_latents


def _log_probs(rescored: Rescored, scale: int):
    return rescored.latents_BGL * scale, rescored.decisions_BGL1, rescored.answers_BGA


def _with_entropy(loss, now: Rescored, batch: TreeBatch, rl: RlConfig, head):
    """The bonus, and how spread the latents are."""
    mask, count = batch.latents.mask, jnp.sum(batch.latents.mask)
    entropy_BGL = jnp.mean(now.sampled.entropy(), axis=-1)
    if rl.entropy_weight:
        loss -= rl.entropy_weight * jnp.sum(batch.latents.weights * entropy_BGL)

    def mean(values_BGLD) -> Metric:
        return Metric(jnp.sum(jnp.where(mask, jnp.mean(values_BGLD, axis=-1), 0.0)), count)

    metrics = {"latent_entropy": Metric(jnp.sum(jnp.where(mask, entropy_BGL, 0.0)), count)}
    if not head.deterministic:
        lowest = jnp.maximum(jnp.exp(head.min_log_std), rl.min_std)
        at_bound = (now.raw.std <= lowest * _AT_BOUND) | (now.raw.std * _AT_BOUND >= jnp.exp(head.max_log_std))
        metrics |= {"latent_std": mean(now.raw.std), "latent_std_at_bound": mean(at_bound.astype(jnp.float32))}
    return loss, metrics
