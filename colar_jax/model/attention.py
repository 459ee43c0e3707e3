"""Attention over packed rows, and over a shared prefix plus each rollout's own suffix. Softmax is in float32.

Heads are laid out `[B, K, ...]` with the `N / K` query heads of a key-value head folded into the query dimension, so that
grouped-query attention is one plain batched matmul.
"""

import jax
import jax.numpy as jnp

# Finite, so that a row which may see nothing (padding) gives a finite result instead of NaN.
MASKED = -1e30


def packed_mask(segment_ids_BT):
    """Who sees whom in a packed row: bool `[B, T, T]`, causal and within one's own segment (0 is padding)."""
    num_positions = segment_ids_BT.shape[1]
    causal_TT = jnp.tril(jnp.ones((num_positions, num_positions), bool))
    same_BTT = segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]
    return same_BTT & causal_TT & (segment_ids_BT > 0)[:, :, None]


def fold_queries(q_BTNH, num_kv_heads: int):
    """`[B, T, N, H]` to `[B, K, (N / K) * T, H]`: queries of one key-value head side by side, scaled by 1/sqrt(H)."""
    B, T, N, H = q_BTNH.shape
    repeat = N // num_kv_heads
    q = (q_BTNH * H**-0.5).reshape(B, T, num_kv_heads, repeat, H)
    return q.transpose(0, 2, 3, 1, 4).reshape(B, num_kv_heads, repeat * T, H)


def unfold_queries(out_BKQH, num_queries: int):
    """The inverse layout change of `fold_queries`: `[B, K, (N / K) * T, H]` to `[B, T, N * H]`."""
    B, K, Q, H = out_BKQH.shape
    out = out_BKQH.reshape(B, K, Q // num_queries, num_queries, H)
    return out.transpose(0, 3, 1, 2, 4).reshape(B, num_queries, K * (Q // num_queries) * H)


def attend(q_BTNH, k_BTKH, v_BTKH, mask_BTT):
    """Masked attention of a row to itself: `[B, T, N * H]`, in the dtype of `v`."""
    B, T, N, _ = q_BTNH.shape
    num_kv_heads = k_BTKH.shape[2]
    q_BKQH = fold_queries(q_BTNH, num_kv_heads)
    scores_BKQT = jnp.einsum("bkqh,btkh->bkqt", q_BKQH, k_BTKH, preferred_element_type=jnp.float32)
    scores = scores_BKQT.reshape(B, num_kv_heads, N // num_kv_heads, T, T)
    scores = jnp.where(mask_BTT[:, None, None], scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_BTKH.dtype).reshape(scores_BKQT.shape)
    return unfold_queries(jnp.einsum("bkqt,btkh->bkqh", weights, v_BTKH), T)


def attend_cascade(q_BTNH, prefix_k_CKPH, prefix_v_CKPH, prefix_mask_CP, suffix_k_BKSH, suffix_v_BKSH, suffix_mask_BS):
    """One decode step's attention: to the prefix that `B / C` rollouts share, and to each rollout's own suffix.

    `C` questions, `B = C * G` rollouts (rollout `b` belongs to question `b // G`), `T = 1` query each. The `G` queries of a
    group are batched against ONE copy of their prefix, and one softmax runs over both parts. Result `[B, 1, N * H]`.
    """
    B, T, _, H = q_BTNH.shape
    C, K, P, _ = prefix_k_CKPH.shape
    group = B // C
    q_BKQH = fold_queries(q_BTNH, K)
    Q = q_BKQH.shape[2]
    q_CKQH = q_BKQH.reshape(C, group, K, Q, H).transpose(0, 2, 1, 3, 4).reshape(C, K, group * Q, H)
    prefix_scores = jnp.einsum("ckqh,ckph->ckqp", q_CKQH, prefix_k_CKPH, preferred_element_type=jnp.float32)
    prefix_scores = jnp.where(prefix_mask_CP[:, None, None], prefix_scores, MASKED)
    prefix_scores_BKQP = prefix_scores.reshape(C, K, group, Q, P).transpose(0, 2, 1, 3, 4).reshape(B, K, Q, P)
    suffix_scores_BKQS = jnp.einsum("bkqh,bksh->bkqs", q_BKQH, suffix_k_BKSH, preferred_element_type=jnp.float32)
    suffix_scores_BKQS = jnp.where(suffix_mask_BS[:, None, None], suffix_scores_BKQS, MASKED)

    scores = jnp.concatenate([prefix_scores_BKQP, suffix_scores_BKQS], axis=-1)
    weights = jax.nn.softmax(scores, axis=-1).astype(prefix_v_CKPH.dtype)
    prefix_weights = weights[..., :P].reshape(C, group, K, Q, P).transpose(0, 2, 1, 3, 4).reshape(C, K, group * Q, P)
    from_prefix = jnp.einsum("ckqp,ckph->ckqh", prefix_weights, prefix_v_CKPH)
    from_prefix_BKQH = from_prefix.reshape(C, K, group, Q, H).transpose(0, 2, 1, 3, 4).reshape(B, K, Q, H)
    from_suffix_BKQH = jnp.einsum("bkqs,bksh->bkqh", weights[..., P:], suffix_v_BKSH)
    return unfold_queries(from_prefix_BKQH + from_suffix_BKQH, T)
