"""The update of reinforcement learning: rollouts are scored again, and the clipped policy gradient is applied.

    loss = sum over kinds of kind weight * sum over its terms of weight * (-min(ratio A, clip(ratio) A) + beta k3)
           - entropy_weight * entropy of the latents - choice_entropy_weight * entropy of the choice

The three kinds of terms are averaged separately, and the averages are added, as for latents and answers in the paper.
Where the model chooses its speed (`methods.own_speed`), the choice is a fourth kind, of one term a rollout.

A latent's log-probability is a mean over its `D` dimensions, so a ratio of such means is the `D`-th root of that of the
latent: nearly 1 however far the policy has moved. Latents are therefore clipped, watched and reported by the ratio of
their whole densities (`rl.latent_ratio`), and their clipped loss is divided by `D` (`log_prob_reduction = mean`), by
its root or by nothing (`sum`). At unchanged parameters the gradient is that of the reduced log-probability.
"""

import jax
import jax.numpy as jnp

from colar_jax.config import DecodeConfig, RlConfig
from colar_jax.metrics import Metric
from colar_jax.model.execution import Execution
from colar_jax.model.reasoner import Reasoner
from colar_jax.rl.health import LOST_LOG_RATIO
from colar_jax.rl.rescoring import floor_of, rescore
from colar_jax.rl.term_scores import Rescored
from colar_jax.rl.tree_batch import CHOICE, KINDS, Terms, TreeBatch, sum_over

# A head's standard deviation this near to its bound (relative) is at it.
_AT_BOUND = 1.001
# Far beyond any clip, and its exponential is still a float32: the gradient of a clipped ratio is 0 times the ratio, and
# 0 times infinity is no number. Whole latents get there: at 2,048 dimensions by 0.04 nats each.
_LARGEST_LOG_RATIO = 80.0


def clipped_loss(log_probs, old_log_probs, advantages, rl: RlConfig):
    """`-min(ratio * A, clip(ratio, 1 - epsilon, 1 + epsilon_high) * A)` of each term, and its ratio.

    GRPO and PPO have one epsilon; DAPO's clip-higher a larger `epsilon_high`, which leaves room for unlikely actions to
    become likely. With `dual_clip` the ratio of a bad action (A < 0) counts no more than that, and has no gradient
    beyond (arXiv 1912.09729): without it a bad action that became likely has an unbounded one.
    """
    log_ratios = log_probs - old_log_probs
    if rl.dual_clip:
        log_ratios = jnp.minimum(log_ratios, _LARGEST_LOG_RATIO)
    else:  # that of a bad action is not clipped
        log_ratios = jnp.where(advantages < 0, log_ratios, jnp.minimum(log_ratios, _LARGEST_LOG_RATIO))
    ratios = jnp.exp(log_ratios)
    clipped = jnp.clip(ratios, 1 - rl.epsilon, 1 + rl.epsilon_high)
    losses = -jnp.minimum(ratios * advantages, clipped * advantages)
    if rl.dual_clip:
        losses = jnp.where(advantages < 0, jnp.minimum(losses, -rl.dual_clip * advantages), losses)
    return losses, ratios


def latent_loss(log_probs, old_log_probs, advantages, size: int, rl: RlConfig):
    """As `clipped_loss`, of latents of `size` dimensions, whose log-probabilities are means over dimensions."""
    scale = sum_over(size, rl.log_prob_reduction)
    if rl.latent_ratio == "reduced":
        return clipped_loss(log_probs * scale, old_log_probs * scale, advantages, rl)
    losses, ratios = clipped_loss(log_probs * size, old_log_probs * size, advantages, rl)
    return losses * (scale / size), ratios


def k3_divergence(log_probs, reference_log_probs):
    """The estimator `exp(d) - d - 1`, `d = reference - own`, of the KL divergence to a reference policy.

    Never negative, unbiased for actions drawn from the policy itself, and of lower variance than `-d`.
    """
    difference = jnp.minimum(reference_log_probs - log_probs, _LARGEST_LOG_RATIO)
    return jnp.expm1(difference) - difference


def policy_loss(
    model: Reasoner,
    reference: Reasoner | None,
    batch: TreeBatch,
    separator_id: int,
    rl: RlConfig,
    sampling: DecodeConfig,
    compute: Execution,
):
    """This part's share of the loss, and its metrics. `reference` is the first policy; needed where `rl.beta` is not 0.

    `sampling` is how the rollouts were sampled; its `min_latent_std` is the policy's floor.
    """
    now = rescore(model, batch, separator_id, sampling, compute)
    before = jax.lax.stop_gradient(rescore(reference, batch, separator_id, sampling, compute)) if rl.beta else None
    loss, metrics = 0.0, {}
    for kind in (kind for kind in (*KINDS, CHOICE) if kind in batch.terms):
        if not batch.terms[kind].mask.shape[-1]:
            continue  # a chain in words has no latents
        of_kind, metrics_of_kind = _of_kind(kind, now, before, batch, rl)
        loss += of_kind
        metrics |= metrics_of_kind
    if now.choice_entropy_B is not None:
        is_real_B = batch.terms[CHOICE].mask[:, 0, 0]
        metrics["choice_entropy"] = Metric(jnp.sum(now.choice_entropy_B * is_real_B), jnp.sum(is_real_B))
        if rl.choice_entropy_weight:
            weights_B = jnp.sum(batch.terms[CHOICE].weights, axis=(1, 2))
            loss -= rl.choice_entropy_weight * jnp.sum(weights_B * now.choice_entropy_B)
    if now.sampled is None:
        return loss, metrics
    floor = jnp.max(jnp.asarray(floor_of(batch, sampling)))
    loss, of_latents = _with_entropy(loss, now, batch, rl, (model.latent_head.config, floor))
    return loss, metrics | of_latents


def _of_kind(kind: str, now: Rescored, before: Rescored | None, batch: TreeBatch, rl: RlConfig):
    """The loss of the terms of a kind, and what is reported of them; a latent's log-ratios are of the whole latent."""
    terms: Terms = batch.terms[kind]
    mask, size = terms.mask, batch.latents_shape[-1] if kind == "latent" else 1
    weight = _kind_weight(kind, rl)
    # A kind without weight has no gradient to be computed.
    log_probs = now.log_probs[kind] if weight else jax.lax.stop_gradient(now.log_probs[kind])
    log_probs = jnp.where(mask, log_probs, 0.0)
    advantages_BG1 = (batch.choice_advantages_BG if kind == CHOICE else batch.advantages_BG)[..., None]
    if kind == "latent":
        of_terms, ratios = latent_loss(log_probs, terms.old_log_probs, advantages_BG1, size, rl)
    else:
        of_terms, ratios = clipped_loss(log_probs, terms.old_log_probs, advantages_BG1, rl)
    count, share, metrics = jnp.sum(mask), jnp.sum(batch.share_B), {}
    if before is not None:
        scale = sum_over(size, rl.log_prob_reduction)
        divergence = k3_divergence(log_probs * scale, jnp.where(mask, before.log_probs[kind] * scale, 0.0))
        of_terms += rl.beta * divergence
        metrics[f"kl/{kind}"] = Metric(jnp.sum(divergence * mask), count)
    own_loss = weight * jnp.sum(terms.weights * of_terms)
    is_clipped = (ratios < 1 - rl.epsilon) | (ratios > 1 + rl.epsilon_high)
    gaps = jnp.abs(log_probs - terms.old_log_probs)
    metrics[f"loss/{kind}"] = Metric(own_loss, share)
    metrics[f"clip_fraction/{kind}"] = Metric(jnp.sum(is_clipped & mask), count)
    metrics[f"ratio/{kind}"] = Metric(jnp.sum(jnp.where(mask, ratios, 0.0)), count)
    scales = {kind: size}
    if kind == "latent" and rl.latent_ratio == "reduced":
        scales["latent_reduced"] = sum_over(size, rl.log_prob_reduction)
    for name, scale in scales.items():
        metrics[f"log_ratio/{name}"] = Metric(scale * jnp.sum(gaps * mask), count)
        metrics[f"lost/{name}"] = Metric(jnp.sum((scale * gaps > LOST_LOG_RATIO) & mask), count)
    # The mean of the parts' largest, as metrics are summed over parts. A latent's gap is a mean over dimensions.
    metrics[f"gap/{kind}"] = Metric(jnp.max(gaps) * share, share)
    return own_loss, metrics


def _kind_weight(kind: str, rl: RlConfig) -> float:
    if kind == "decision" and rl.stop_credit == "answer":
        return rl.answer_weight  # a term of the answer
    return getattr(rl, f"{kind}_weight")


def _with_entropy(loss, now: Rescored, batch: TreeBatch, rl: RlConfig, bounds):
    """The bonus, and how spread the latents are; `bounds` are those of the head, and the floor."""
    head, floor = bounds
    mask, count = batch.terms["latent"].mask, jnp.sum(batch.terms["latent"].mask)
    entropy_BGL = jnp.mean(now.sampled.entropy(), axis=-1)
    if rl.entropy_weight:
        loss -= rl.entropy_weight * jnp.sum(batch.terms["latent"].weights * entropy_BGL)

    def mean(values_BGLD) -> Metric:
        return Metric(jnp.sum(jnp.where(mask, jnp.mean(values_BGLD, axis=-1), 0.0)), count)

    metrics = {"latent_entropy": Metric(jnp.sum(jnp.where(mask, entropy_BGL, 0.0)), count)}
    if not head.deterministic:
        lowest = jnp.maximum(jnp.exp(head.min_log_std), floor)
        at_bound = (now.raw.std <= lowest * _AT_BOUND) | (now.raw.std * _AT_BOUND >= jnp.exp(head.max_log_std))
        metrics |= {"latent_std": mean(now.raw.std), "latent_std_at_bound": mean(at_bound.astype(jnp.float32))}
    return loss, metrics
