"""Attention over packed rows, and over a shared prefix plus each rollout's own suffix. Softmax is in float32.

Heads are laid out `[B, K, ...]` with the `N / K` query heads of a key-value head folded into the query dimension, so
that grouped-query attention is one plain batched matmul.
"""

import itertools

import jax
import jax.numpy as jnp

# Finite, so that a row which may see nothing (padding) gives a finite result instead of NaN.
MASKED = -1e30

# Queries of a part of causal attention, at least, and parts at most: each is a program of its own.
CAUSAL_PART, MOST_CAUSAL_PARTS = 128, 4


def packed_mask_bias(segment_ids_BT):
    """Who sees whom in a packed row, causally and within one's own segment (0 is padding).

    float32 `[B, T, T]`, 0 where a query (middle) sees a key (last) and a large negative number elsewhere: added to the
    scores it costs less than a selection, and it is made once for all layers.
    """
    num_positions = segment_ids_BT.shape[1]
    causal_TT = jnp.tril(jnp.ones((num_positions, num_positions), bool))
    same_BTT = segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]
    is_seen_BTT = same_BTT & causal_TT[None] & (segment_ids_BT > 0)[:, :, None]
    return jax.lax.optimization_barrier(jnp.where(is_seen_BTT, 0.0, MASKED))


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


def attend(q_BTNH, k_BTKH, v_BTKH, mask_bias_BTT):
    """Attention of a row to itself, with `mask_bias` added to the scores: `[B, T, N * H]`, in the dtype of `v`."""
    B, T, N, _ = q_BTNH.shape
    K = k_BTKH.shape[2]
    q_BKQH = fold_queries(q_BTNH, K)
    k_BKTH, v_BKTH = k_BTKH.transpose(0, 2, 1, 3), v_BTKH.transpose(0, 2, 1, 3)
    return unfold_queries(_softmax_attention(q_BKQH, k_BKTH, v_BKTH, mask_bias_BTT), T)


def attend_causally(q_BTNH, k_BTKH, v_BTKH, mask_bias_BTT):
    """`attend` under a causal mask, a part of the queries at a time: no score is computed with the parts after it."""
    T = q_BTNH.shape[1]
    num_parts = min(max(T // CAUSAL_PART, 1), MOST_CAUSAL_PARTS)
    stops = [-(-T * part // num_parts) for part in range(num_parts + 1)]
    outs = [
        attend(q_BTNH[:, start:stop], k_BTKH[:, :stop], v_BTKH[:, :stop], mask_bias_BTT[:, start:stop, :stop])
        for start, stop in itertools.pairwise(stops)
    ]
    return jnp.concatenate(outs, axis=1)


@jax.custom_vjp
def _softmax_attention(q_BKQH, k_BKTH, v_BKTH, mask_bias_BTT):
    return _softmax_attention_forward(q_BKQH, k_BKTH, v_BKTH, mask_bias_BTT)[0]


def _softmax_attention_forward(q_BKQH, k_BKTH, v_BKTH, mask_bias_BTT):
    """The weights stay unnormalised; their sums divide the output, which has far fewer entries than the weights."""
    scores_BKQT = jnp.einsum("bkqh,bkth->bkqt", q_BKQH, k_BKTH, preferred_element_type=jnp.float32)
    B, K, Q, T = scores_BKQT.shape
    scores = scores_BKQT.reshape(B, K, Q // mask_bias_BTT.shape[1], -1, T) + mask_bias_BTT[:, None, None]
    scores_BKQT = scores.reshape(B, K, Q, T)
    weights_BKQT = jnp.exp(scores_BKQT - jnp.max(scores_BKQT, axis=-1, keepdims=True))
    sums_BKQ1 = jnp.sum(weights_BKQT, axis=-1, keepdims=True)
    weights_BKQT = weights_BKQT.astype(v_BKTH.dtype)
    out_BKQH = (jnp.einsum("bkqt,bkth->bkqh", weights_BKQT, v_BKTH) / sums_BKQ1).astype(v_BKTH.dtype)
    return out_BKQH, (q_BKQH, k_BKTH, v_BKTH, weights_BKQT, sums_BKQ1, out_BKQH)


def _softmax_attention_backward(residuals, grad_BKQH):
    """With P = weights / sums:  dV = P' dO,  dS = P * (dO V' - rowsum(dO * O)),  dQ = dS K,  dK = dS' Q."""
    q_BKQH, k_BKTH, v_BKTH, weights_BKQT, sums_BKQ1, out_BKQH = residuals
    grad_BKQH = (grad_BKQH / sums_BKQ1).astype(v_BKTH.dtype)
    row_BKQ1 = jnp.sum((grad_BKQH * out_BKQH).astype(jnp.float32), axis=-1, keepdims=True)
    v_grad_BKTH = jnp.einsum("bkqt,bkqh->bkth", weights_BKQT, grad_BKQH)
    weight_grad_BKQT = jnp.einsum("bkqh,bkth->bkqt", grad_BKQH, v_BKTH, preferred_element_type=jnp.float32)
    score_grad_BKQT = (weights_BKQT * (weight_grad_BKQT - row_BKQ1)).astype(v_BKTH.dtype)
    q_grad_BKQH = jnp.einsum("bkqt,bkth->bkqh", score_grad_BKQT, k_BKTH)
    k_grad_BKTH = jnp.einsum("bkqt,bkqh->bkth", score_grad_BKQT, q_BKQH)
    return q_grad_BKQH, k_grad_BKTH, v_grad_BKTH, None


_softmax_attention.defvjp(_softmax_attention_forward, _softmax_attention_backward)


def tree_mask_bias(trunk_lengths_B, trunk_size: int, num_branches: int, branch_size: int):
    """Who sees whom in tree rows: `[B, P, P]` for the trunks, `[B * G, T, P + T]` for the branches (`attend_tree`).

    A trunk is causal. A branch sees its trunk's real positions and, causally, itself: never another branch.
    """
    causal_PP = jnp.tril(jnp.ones((trunk_size, trunk_size), bool))
    causal_TT = jnp.tril(jnp.ones((branch_size, branch_size), bool))
    is_real_BP = jnp.arange(trunk_size)[None] < trunk_lengths_B[:, None]
    B, num_rows = trunk_lengths_B.shape[0], trunk_lengths_B.shape[0] * num_branches
    trunk_real_BP = jnp.repeat(is_real_BP, num_branches, axis=0)
    trunk_BTP = jnp.broadcast_to(trunk_real_BP[:, None], (num_rows, branch_size, trunk_size))
    own_BTT = jnp.broadcast_to(causal_TT[None], (num_rows, branch_size, branch_size))
    seen = jnp.broadcast_to(causal_PP[None], (B, trunk_size, trunk_size)), jnp.concatenate([trunk_BTP, own_BTT], axis=2)
    return jax.lax.optimization_barrier(tuple(jnp.where(is_seen, 0.0, MASKED) for is_seen in seen))


def attend_tree(q_BSNH, k_BSKH, v_BSKH, trunk_bias_BPP, branch_bias_BTU):
    """Attention in tree rows, a trunk of `P` positions and after it `G` branches of `T`: `[B, P + G * T, N * H]`.

    No score between two branches is ever computed. The trunk's keys stand once in a row; their gradient is the sum over
    the branches. Fewer queries of the trunk may be asked than it has keys: `trunk_bias` has a row for each.
    """
    B, num_queries, P = trunk_bias_BPP.shape
    num_rows, T, _ = branch_bias_BTU.shape

    def branches(x_BSKH, trunk_size=P):
        return x_BSKH[:, trunk_size:].reshape(num_rows, T, *x_BSKH.shape[2:])

    def seen_by_branches(x_BSKH):
        return jnp.concatenate([jnp.repeat(x_BSKH[:, :P], num_rows // B, axis=0), branches(x_BSKH)], axis=1)

    of_trunks = attend(q_BSNH[:, :num_queries], k_BSKH[:, :P], v_BSKH[:, :P], trunk_bias_BPP)
    q_BTNH = branches(q_BSNH, num_queries)
    of_branches = attend(q_BTNH, seen_by_branches(k_BSKH), seen_by_branches(v_BSKH), branch_bias_BTU)
    return jnp.concatenate([of_trunks, of_branches.reshape(B, -1, of_branches.shape[-1])], axis=1)


def attend_cascade(q_BTNH, prefix_k_CKPH, prefix_v_CKPH, prefix_mask_CP, suffix_k_BKSH, suffix_v_BKSH, suffix_mask_BS):
    """One decode step's attention: to the prefix that `B / C` rollouts share, and to each rollout's own suffix.

    `C` questions, `B = C * G` rollouts (`b` belongs to question `b // G`), `T = 1` query each. The `G` queries of a
    group are batched against ONE copy of their prefix; one softmax runs over both parts. Result `[B, 1, N * H]`.
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
