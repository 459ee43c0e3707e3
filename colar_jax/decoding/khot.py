"""Latents that are mixtures of `k` tokens: how one is made, drawn and fed, and what log-probability a drawn one has.

    z = sum_k w_k E(v_k),  w = softmax(s),  s_k the score of token v_k

Without noise the scores are the language head's log-probabilities l of its `k` likeliest tokens. A draw adds noise to
l, over the `k` likeliest and the nucleus, and keeps the `k` best: s = l + g. Were g Gumbel noise, the log-density of a
score would be

    -u - exp(-u),  u = s - l(theta)

which is what a drawn latent counts as, in the mean over its `k` entries (Latent-GRPO, arXiv 2604.27998, its surrogate).
Its noise is clamped to [-1.5, 3], and `one_sided` lifts it by 1.5, so that u is not negative when a latent is drawn.
"""

import dataclasses

import jax
import jax.numpy as jnp

from colar_jax.decoding.sampling import nucleus
from colar_jax.decoding.thinking import Think, Thought
from colar_jax.model.reasoner import Reasoner

LEAST_NOISE, MOST_NOISE = -1.5, 3.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KhotLatents:
    """Mixtures of `K` tokens, `[..., K]` each."""

    ids: jax.Array  # int32
    scores: jax.Array  # float32; their softmax are the shares


def clamped_gumbel(key, shape, *, one_sided: bool = False):
    """Gumbel noise in [-1.5, 3], float32; `one_sided`: in [0, 4.5]."""
    noise = jnp.clip(jax.random.gumbel(key, shape), LEAST_NOISE, MOST_NOISE)
    return noise - LEAST_NOISE if one_sided else noise


def mixed(model: Reasoner, latents: KhotLatents, dtype):
    """What is fed of latents, `[..., D]`; no gradient flows into the embedding matrix."""
    shares = jax.nn.softmax(latents.scores, axis=-1)
    rows = jax.lax.stop_gradient(model.llama.embedding[...])[latents.ids].astype(jnp.float32)
    return model.llama.scaled(jnp.einsum("...k,...kd->...d", shares, rows)).astype(dtype)


def score_log_prob(scores, log_probs):
    """Log-probability of drawn scores under log-probabilities of their tokens, the surrogate: `[..., K]` to `[...]`."""
    above = scores - log_probs
    return jnp.mean(-above - jnp.exp(-above), axis=-1)


def score_log_prob_of_update(scores, log_probs, is_good):
    """The same numbers, with the gradient of an update.

    Where the policy has passed a score (u < 0) the gradient of the density points the other way, and what was bad would
    be pulled near. There the gradient of bad latents is that of -u (Latent-GRPO's code).

    Args:
        is_good: bool, broadcasts over `[...]`: whether the advantage is above 0.
    """
    above = scores - log_probs
    density = -above - jnp.exp(-above)
    pushed = jax.lax.stop_gradient(density + above) - above
    return jnp.mean(jnp.where((above < 0) & ~is_good[..., None], pushed, density), axis=-1)


def khot_thinker(separator_id: int, top_k: int) -> Think:
    """Feed the mixture of the `top_k` likeliest tokens; stop where `###` is the most probable one. Nothing is drawn."""

    def think(model: Reasoner, hidden_BD, keys_B) -> Thought:
        logits_BV = model.llama.logits(hidden_BD)
        scores_BK, ids_BK = jax.lax.top_k(logits_BV, min(top_k, logits_BV.shape[1]))
        embed_BD = mixed(model, KhotLatents(ids_BK.astype(jnp.int32), scores_BK), hidden_BD.dtype)
        return Thought.undrawn(embed_BD, jnp.argmax(logits_BV, axis=-1) == separator_id)

    return think


def drawn_khot_thinker(separator_id: int, top_k: int, *, top_p: float, one_sided: bool) -> Think:
    """The same with noise on the scores: how reinforcement learning tries latents. The record is a `KhotLatents`.

    Noise decides among the `top_k` likeliest tokens and the nucleus of `top_p`. The decision to stop has none.
    """

    def think(model: Reasoner, hidden_BD, keys_B) -> Thought:
        logits_BV = model.llama.logits(hidden_BD)
        num_kept = min(top_k, logits_BV.shape[1])
        log_probs_BV = jax.nn.log_softmax(logits_BV, axis=-1)
        least_B1 = jax.lax.top_k(logits_BV, num_kept)[0][:, -1:]
        is_candidate_BV = (logits_BV >= least_B1) | jnp.isfinite(nucleus(logits_BV, top_p))
        noise_BV = jax.vmap(lambda key: clamped_gumbel(key, logits_BV.shape[1:], one_sided=one_sided))(keys_B)
        scores_BK, ids_BK = jax.lax.top_k(jnp.where(is_candidate_BV, log_probs_BV + noise_BV, -jnp.inf), num_kept)
        latents = KhotLatents(ids_BK.astype(jnp.int32), scores_BK)
        log_prob_B = score_log_prob(scores_BK, jnp.take_along_axis(log_probs_BV, ids_BK, axis=-1))
        zeros_B = jnp.zeros_like(log_prob_B)
        stop_B = jnp.argmax(logits_BV, axis=-1) == separator_id
        return Thought(mixed(model, latents, hidden_BD.dtype), latents, log_prob_B, stop_B, zeros_B)

    return think
