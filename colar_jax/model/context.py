"""Attention to several blocks of keys at once: what a row reads besides itself (its question, its latents)."""

import dataclasses

import jax
import jax.numpy as jnp

from colar_jax.model.attention import MASKED, fold_queries, unfold_queries
from colar_jax.model.cache import LayerCache


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Seen:
    """Keys and values of one layer, `[B, K, S, H]` each, and who sees which of them: `bias_BTS` is 0 or MASKED."""

    keys_values: LayerCache
    bias_BTS: jax.Array


def bias_of(is_seen_BTS):
    """float32, 0 where a query sees a key and a large negative number elsewhere; made once for all layers."""
    return jax.lax.optimization_barrier(jnp.where(is_seen_BTS, 0.0, MASKED))


def heads_first(x_BTKH):
    """Keys or values of a row as a cache holds them: `[B, T, K, H]` to `[B, K, T, H]`."""
    return x_BTKH.transpose(0, 2, 1, 3)


def attend_blocks(q_BTNH, blocks: tuple[Seen, ...]):
    """One softmax over the keys of all blocks, which are never copied side by side: `[B, T, N * H]`."""
    num_queries, num_kv_heads = q_BTNH.shape[1], blocks[0].keys_values[0].shape[1]
    q_BKQH = fold_queries(q_BTNH, num_kv_heads)

    def scores_of(block: Seen):
        keys_BKSH = block.keys_values[0]
        scores = jnp.einsum("bkqh,bksh->bkqs", q_BKQH, keys_BKSH, preferred_element_type=jnp.float32)
        B, K, Q, S = scores.shape
        # Query heads of a key-value head are folded into Q, the heads first: one bias serves them all.
        folded = scores.reshape(B, K, Q // num_queries, num_queries, S) + block.bias_BTS[:, None, None]
        return folded.reshape(B, K, Q, S)

    weights = jax.nn.softmax(jnp.concatenate([scores_of(block) for block in blocks], axis=-1), axis=-1)
    out_BKQH, start = 0.0, 0
    for block in blocks:
        values_BKSH = block.keys_values[1]
        stop = start + values_BKSH.shape[2]
        part = weights[..., start:stop].astype(values_BKSH.dtype)
        out_BKQH += jnp.einsum("bkqs,bksh->bkqh", part, values_BKSH)
        start = stop
    return unfold_queries(out_BKQH, num_queries)
