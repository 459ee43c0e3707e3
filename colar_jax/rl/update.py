"""The update of reinforcement learning: rollouts are scored again, and the clipped policy gradient is applied.

    loss = sum over kinds of kind weight * sum over its terms of weight * (-min(ratio A, clip(ratio) A) + beta k3)
           - entropy_weight * entropy of the latents

The three kinds of terms are averaged separately, and the averages are added, as for latents and answers in the paper.

Log-probabilities are computed exactly as the decoder computed them when it sampled: the same temperatures, the same
floor of the latents' standard deviation, and the same nucleus. At unchanged parameters both agree to rounding.

As the policy changes, so does its nucleus (top-p). Log-probabilities are those of the nucleus of the *current* model,
and the recorded token always counts as inside: otherwise its log-probability would be -inf once it has fallen out, and
no gradient could bring it back.
"""

import dataclasses

import jax
import jax.numpy as jnp

from colar_jax.config import DecodeConfig, RlConfig
from colar_jax.decoding.sampling import log_prob_of, nucleus
from colar_jax.decoding.thinking import decision_log_prob, latent_log_prob, temper_odds
from colar_jax.losses import in_chunks
from colar_jax.metrics import Metric
from colar_jax.model.execution import Execution
from colar_jax.model.latent_head import Gaussian
from colar_jax.model.reasoner import Reasoner
from colar_jax.model.visibility import tree, tree_positions
from colar_jax.rl.tree_batch import KINDS, TreeBatch

# A head's standard deviation this near to its bound (relative) is at it.
_AT_BOUND = 1.001


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rescored:
    """Log-probabilities of the terms of a `TreeBatch`, and the Gaussians; meaningless where nothing was done."""

    log_probs: dict[str, jax.Array]  # by kind, as `TreeBatch.terms`; of a latent the mean over its dimensions
    raw: Gaussian  # [B, G, L, D], as the head gives it
    sampled: Gaussian  # with the floor: what was drawn from

    def log_probs_of(self, kind: str, scale: int) -> jax.Array:
        """Those of a kind; a latent's times `scale`."""
        return self.log_probs[kind] * scale if kind == "latent" else self.log_probs[kind]


def rescore(
    model: Reasoner, batch: TreeBatch, separator_id: int, sampling: DecodeConfig, compute: Execution
) -> Rescored:
    """One forward pass over tree rows, and both heads where something was decided. Nothing flows into what was fed."""
    B, G, L, _ = batch.thoughts_BGLD.shape
    A, P = batch.answer_ids_BGA.shape[2], batch.prompt_ids_BP.shape[1]
    embeds_BSD = _embed(model, batch, separator_id, jnp.dtype(compute.dtype))
    shape = batch.prompt_lengths_B, P, G, L + A
    hidden_BSD, _ = model.llama.run(embeds_BSD, tree_positions(*shape), tree(*shape), compute)
    D = hidden_BSD.shape[-1]
    last_BD = jnp.take_along_axis(hidden_BSD, (batch.prompt_lengths_B - 1)[:, None, None], axis=1)
    branches_BGTD = hidden_BSD[:, P:].reshape(B, G, L + A, D)
    # State `i` is the hidden state after `i` latents; state 0 of every branch is the end of the prompt.
    states_BGLD = jnp.concatenate([jnp.broadcast_to(last_BD[:, None], (B, G, 1, D)), branches_BGTD[:, :, :L]], axis=2)
    with jax.named_scope("latents"):
        raw = model.latent_head(states_BGLD[:, :, :L])
        sampled = raw.with_min_std(sampling.min_latent_std)
        latents_BGL = latent_log_prob(sampled, batch.thoughts_BGLD, sampling.latent_temperature)
    with jax.named_scope("decisions"):
        separators = jnp.full((B, G, L + 1), separator_id, jnp.int32)
        separator_BGL1 = _token_log_probs(
            model, states_BGLD, separators, sampling.stop_temperature, 1.0, compute.logits_chunk
        )
        separator_BGL1 = temper_odds(separator_BGL1, sampling.stop_odds_temperature)
        is_stop_BGL1 = jnp.arange(L + 1)[None, None] == batch.num_thoughts_BG[..., None]
        decisions_BGL1 = decision_log_prob(separator_BGL1, is_stop_BGL1)
    with jax.named_scope("answers"):
        at_BGA = batch.num_thoughts_BG[..., None] + jnp.arange(A)[None, None]
        answer_BGAD = jnp.take_along_axis(branches_BGTD, at_BGA[..., None], axis=2)
        answers_BGA = _token_log_probs(
            model, answer_BGAD, batch.answer_ids_BGA, sampling.answer_temperature, sampling.top_p, compute.logits_chunk
        )
    return Rescored({"latent": latents_BGL, "decision": decisions_BGL1, "answer": answers_BGA}, raw, sampled)


def _embed(model: Reasoner, batch: TreeBatch, separator_id: int, dtype):
    """The input of tree rows: tokens by their embeddings, latents as they were fed."""
    B, G, L, D = batch.thoughts_BGLD.shape
    A = batch.answer_ids_BGA.shape[2]
    in_branch_BGT = jnp.broadcast_to(jnp.arange(L + A)[None, None], (B, G, L + A))
    after_BGT = in_branch_BGT - batch.num_thoughts_BG[..., None]  # 0 at the separator that closes the reasoning
    answer_BGT = jnp.take_along_axis(batch.answer_ids_BGA, jnp.clip(after_BGT - 1, 0, A - 1), axis=2)
    token_BGT = jnp.where(after_BGT == 0, separator_id, answer_BGT)
    embedding_VD = model.llama.embedding[...]
    latents_BGLD = (batch.thoughts_BGLD * jax.lax.stop_gradient(model.latent_head.embed_std[...])).astype(dtype)
    latents_BGTD = jnp.pad(latents_BGLD, ((0, 0), (0, 0), (0, A), (0, 0)))
    branches_BGTD = jnp.where((after_BGT < 0)[..., None], latents_BGTD, embedding_VD[token_BGT].astype(dtype))
    prompts_BPD = embedding_VD[batch.prompt_ids_BP].astype(dtype)
    return jnp.concatenate([prompts_BPD, branches_BGTD.reshape(B, G * (L + A), D)], axis=1)


def _token_log_probs(model: Reasoner, hidden, ids, temperature: float, top_p: float, chunk: int):
    """Of each `ids` `[...]` at hidden states `[..., D]`; at most `chunk` positions have logits at a time."""

    def part(hidden_ND, ids_N):
        logits_NV = model.llama.logits(hidden_ND) / temperature
        if top_p < 1:
            inside_NV = jnp.isfinite(nucleus(jax.lax.stop_gradient(logits_NV), top_p))
            is_own_NV = jnp.arange(logits_NV.shape[1])[None] == ids_N[:, None]
            logits_NV = jnp.where(inside_NV | is_own_NV, logits_NV, -jnp.inf)
        return log_prob_of(logits_NV, ids_N)

    hidden_ND, ids_N = hidden.reshape(-1, hidden.shape[-1]), ids.reshape(-1)
    log_probs = in_chunks(
        part, hidden_ND, ids_N, chunk=chunk, padding_id=0, join=lambda of_chunks: of_chunks.reshape(-1)[: len(ids_N)]
    )
    return log_probs.reshape(ids.shape)


def clipped_loss(log_probs, old_log_probs, advantages, *, epsilon: float, epsilon_high: float):
    """`-min(ratio * A, clip(ratio, 1 - epsilon, 1 + epsilon_high) * A)` of each term, and its ratio.

    GRPO and PPO have one epsilon; DAPO's clip-higher a larger `epsilon_high`, which leaves room for unlikely actions to
    become likely.
    """
    ratios = jnp.exp(log_probs - old_log_probs)
    clipped = jnp.clip(ratios, 1 - epsilon, 1 + epsilon_high)
    return -jnp.minimum(ratios * advantages, clipped * advantages), ratios


def k3_divergence(log_probs, reference_log_probs):
    """The estimator `exp(d) - d - 1`, `d = reference - own`, of the KL divergence to a reference policy.

    Never negative, unbiased for actions drawn from the policy itself, and of lower variance than `-d`.
    """
    difference = reference_log_probs - log_probs
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
    scale = batch.thoughts_BGLD.shape[-1] if rl.log_prob_reduction == "sum" else 1
    kind_weights = {"latent": rl.latent_weight, "decision": rl.decision_weight, "answer": rl.answer_weight}
    share = jnp.sum(batch.share_B)
    loss, metrics = 0.0, {}
    for kind in KINDS:
        terms = batch.terms[kind]
        mask = terms.mask
        log_probs = jnp.where(mask, now.log_probs_of(kind, scale), 0.0)
        of_terms, ratios = clipped_loss(
            log_probs,
            terms.old_log_probs,
            batch.advantages_BG[..., None],
            epsilon=rl.epsilon,
            epsilon_high=rl.epsilon_high,
        )
        count = jnp.sum(mask)
        if before is not None:
            reference_log_probs = jnp.where(mask, before.log_probs_of(kind, scale), 0.0)
            divergence = k3_divergence(log_probs, reference_log_probs)
            of_terms += rl.beta * divergence
            metrics[f"kl/{kind}"] = Metric(jnp.sum(divergence * mask), count)
        own_loss = kind_weights[kind] * jnp.sum(terms.weights * of_terms)
        loss += own_loss
        is_clipped = (ratios < 1 - rl.epsilon) | (ratios > 1 + rl.epsilon_high)
        gaps = jnp.abs(log_probs - terms.old_log_probs)
        metrics[f"loss/{kind}"] = Metric(own_loss, share)
        metrics[f"clip_fraction/{kind}"] = Metric(jnp.sum(is_clipped & mask), count)
        metrics[f"ratio/{kind}"] = Metric(jnp.sum(jnp.where(mask, ratios, 0.0)), count)
        metrics[f"log_ratio/{kind}"] = Metric(jnp.sum(gaps * mask), count)
        # The mean of the parts' largest, as metrics are summed over parts. A latent's gap is a mean over dimensions.
        gap = jnp.max(gaps) / (scale if kind == "latent" else 1)
        metrics[f"gap/{kind}"] = Metric(gap * share, share)
    loss, of_latents = _with_entropy(loss, now, batch, rl, model.latent_head.config)
    return loss, metrics | of_latents


def _with_entropy(loss, now: Rescored, batch: TreeBatch, rl: RlConfig, head):
    """The bonus, and how spread the latents are."""
    mask, count = batch.terms["latent"].mask, jnp.sum(batch.terms["latent"].mask)
    entropy_BGL = jnp.mean(now.sampled.entropy(), axis=-1)
    if rl.entropy_weight:
        loss -= rl.entropy_weight * jnp.sum(batch.terms["latent"].weights * entropy_BGL)

    def mean(values_BGLD) -> Metric:
        return Metric(jnp.sum(jnp.where(mask, jnp.mean(values_BGLD, axis=-1), 0.0)), count)

    metrics = {"latent_entropy": Metric(jnp.sum(jnp.where(mask, entropy_BGL, 0.0)), count)}
    if not head.deterministic:
        lowest = jnp.maximum(jnp.exp(head.min_log_std), rl.min_std)
        at_bound = (now.raw.std <= lowest * _AT_BOUND) | (now.raw.std * _AT_BOUND >= jnp.exp(head.max_log_std))
        metrics |= {"latent_std": mean(now.raw.std), "latent_std_at_bound": mean(at_bound.astype(jnp.float32))}
    return loss, metrics
