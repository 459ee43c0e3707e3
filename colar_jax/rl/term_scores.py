"""Log-probabilities of single terms, as the decoder computes them: tokens within their nucleus, scores, decisions."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from colar_jax.decoding.decisions import decision_log_prob, stop_log_odds
from colar_jax.decoding.khot import KhotLatents, score_log_prob_of_update
from colar_jax.decoding.sampling import log_prob_of, nucleus
from colar_jax.losses import in_chunks
from colar_jax.model.latent_head import Gaussian
from colar_jax.model.reasoner import Reasoner


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rescored:
    """Log-probabilities of the terms of a `TreeBatch`, and the Gaussians; meaningless where nothing was done."""

    log_probs: dict[str, jax.Array]  # by kind, as `TreeBatch.terms`; of a latent the mean over its dimensions
    raw: Gaussian | None = None  # [B, G, L, D], as the head gives it; None where latents are not drawn from it
    sampled: Gaussian | None = None  # with the floor: what was drawn from
    choice_entropy_B: jax.Array | None = None  # in nats, where the model chooses its speed


def token_log_probs(model: Reasoner, hidden, ids, temperature: float, top_p: float, chunk: int):
    """Of each `ids` `[...]` at hidden states `[..., D]`; at most `chunk` positions have logits at a time."""

    def part(hidden_ND, ids_N):
        logits_NV = model.llama.logits(hidden_ND) / temperature
        if top_p < 1:
            inside_NV = jnp.isfinite(nucleus(jax.lax.stop_gradient(logits_NV), top_p))
            is_own_NV = jnp.arange(logits_NV.shape[1])[None] == ids_N[:, None]
            logits_NV = jnp.where(inside_NV | is_own_NV, logits_NV, -jnp.inf)
        return log_prob_of(logits_NV, ids_N)

    return _at_each_position(part, hidden, ids, chunk)


def khot_log_probs(model: Reasoner, hidden, latents: KhotLatents, is_good, chunk: int):
    """Of latents `[...]` at hidden states `[..., D]`, the mean over the scores of their tokens.

    Args:
        is_good: bool, broadcasts over `[...]`: whether what a latent led to was better than its group.
    """

    def part(hidden_ND, ids_NK):
        logits_NV = model.llama.logits(hidden_ND)
        return jnp.take_along_axis(logits_NV, ids_NK, axis=1) - jax.nn.logsumexp(logits_NV, axis=1, keepdims=True)

    *shape, num_tokens = latents.ids.shape
    num_latents = math.prod(shape)
    log_probs = in_chunks(
        part,
        hidden.reshape(num_latents, -1),
        latents.ids.reshape(num_latents, num_tokens),
        chunk=chunk,
        padding_id=0,
        join=lambda of_chunks: of_chunks.reshape(-1, num_tokens)[:num_latents],
    )
    return score_log_prob_of_update(latents.scores, log_probs.reshape(latents.ids.shape), is_good)


def separator_log_odds(model: Reasoner, hidden, separator_id: int, temperature: float, chunk: int):
    """Of stopping at hidden states `[..., D]`, `[...]`; at most `chunk` positions have logits at a time."""

    def part(hidden_ND, ids_N):
        return stop_log_odds(model.llama.logits(hidden_ND) / temperature, ids_N)

    return _at_each_position(part, hidden, jnp.full(hidden.shape[:-1], separator_id, jnp.int32), chunk)


def _at_each_position(part, hidden, ids, chunk: int):
    """`part(hidden_ND, ids_N)` of hidden states `[..., D]` and ids `[...]`: a number each, `[...]`."""
    hidden_ND, ids_N = hidden.reshape(-1, hidden.shape[-1]), ids.reshape(-1)
    values = in_chunks(
        part, hidden_ND, ids_N, chunk=chunk, padding_id=0, join=lambda of_chunks: of_chunks.reshape(-1)[: len(ids_N)]
    )
    return values.reshape(ids.shape)


def decision_log_probs(log_odds_BGL1, odds_temperature, num_thoughts_BG):
    """Of having stopped at a chain's end, and of having gone on before it, `[B, G, L + 1]`.

    Args:
        log_odds_BGL1: of stopping, before they are tempered.
        odds_temperature: a number, or one for each row.
    """
    by_row = odds_temperature[:, None, None] if jnp.ndim(odds_temperature) else odds_temperature
    is_stop_BGL1 = jnp.arange(log_odds_BGL1.shape[2])[None, None] == num_thoughts_BG[..., None]
    return decision_log_prob(log_odds_BGL1 / by_row, is_stop_BGL1)
