"""The losses, each a float32 *sum* over what is supervised: the caller divides by a count over all devices.

Cross-entropy never holds logits for a whole batch: the supervised positions are gathered first, and go through the
language head in chunks whose logits are recomputed in the backward pass.
"""

import jax
import jax.numpy as jnp

from colar_jax.model.latent_head import Gaussian


def gather_positions(x_BSD, positions_BM):
    """Row-wise gather of positions: `[B, S, D]` and `[B, M]` to `[B, M, D]`; a position beyond the end is the last."""
    return jnp.take_along_axis(x_BSD, positions_BM[..., None], axis=1, mode="clip")


def cross_entropy_sum(hidden_ND, head_VD, label_ids_N, weights_N=None, *, chunk: int):
    """Sum of `-log softmax(hidden @ head.T)[label]` over labels >= 0, and how many of them the head gets right.

    Labels of -1 contribute nothing. At most `chunk * V` logits exist at a time; `N <= chunk` needs no recomputation.

    Args:
        weights_N: what each label counts in both sums; None: 1.
    """

    def part(hidden_ND, label_ids_N, weights_N=None):
        logits_NV = jnp.einsum(
            "nd,vd->nv", hidden_ND, head_VD.astype(hidden_ND.dtype), preferred_element_type=jnp.float32
        )
        is_label = label_ids_N >= 0
        picked_N = jnp.take_along_axis(logits_NV, jnp.maximum(label_ids_N, 0)[:, None], axis=1)[:, 0]
        losses_N = jax.nn.logsumexp(logits_NV, axis=1) - picked_N
        right_N = picked_N >= jnp.max(logits_NV, axis=1)
        if weights_N is not None:
            return jnp.sum(jnp.where(is_label, weights_N * losses_N, 0.0)), jnp.sum(weights_N * (is_label & right_N))
        return jnp.sum(jnp.where(is_label, losses_N, 0.0)), jnp.sum(is_label & right_N)

    weights = () if weights_N is None else (weights_N,)
    return in_chunks(part, hidden_ND, label_ids_N, *weights, chunk=chunk, padding_id=-1, join=_sums)


def _sums(of_chunks):
    return jax.tree.map(jnp.sum, of_chunks)


def in_chunks(part, hidden_ND, ids_N, *more_N, chunk: int, padding_id: int, join):
    """`part(hidden_ND, ids_N, *more_N)` of at most `chunk` rows at a time, so that no more of them have logits.

    What a chunk computes is computed again in the backward pass; `N <= chunk` is one plain call. `join` makes one
    result of those of the chunks, which are stacked; the last chunk is filled up with `padding_id`, `more_N` with 0.
    A row may have several ids, `[N, ...]`.
    """
    num_rows, size = hidden_ND.shape
    if num_rows <= chunk:
        return part(hidden_ND, ids_N, *more_N)
    num_chunks = -(-num_rows // chunk)
    padding = num_chunks * chunk - num_rows
    hidden = jnp.pad(hidden_ND, ((0, padding), (0, 0))).reshape(num_chunks, chunk, size)
    rest = ids_N.shape[1:]
    ids = jnp.pad(ids_N, ((0, padding), *((0, 0) for _ in rest)), constant_values=padding_id)
    ids = ids.reshape(num_chunks, chunk, *rest)
    more = tuple(jnp.pad(values_N, (0, padding)).reshape(num_chunks, chunk) for values_N in more_N)
    return join(jax.lax.map(jax.checkpoint(lambda chunk_of: part(*chunk_of)), (hidden, ids, *more)))


def gaussian_nll(predicted: Gaussian, target):
    """Negative log-likelihood of `target`, averaged over dimensions: `[..., D]` to `[...]`."""
    return -jnp.mean(predicted.log_prob(target), axis=-1)


def soft_mse(predicted: Gaussian, target, noise):
    """Squared error of the sampled prediction `mean + std * noise`, averaged over dimensions: `[..., D]` to `[...]`."""
    return jnp.mean(jnp.square(predicted.sample(noise) - target), axis=-1)


def masked_sum(values, mask):
    """Sum of `values` where `mask`; what stands elsewhere counts for nothing, NaN included.

    Not so in the gradient, where 0 * NaN is NaN: what `values` were made from has to be finite everywhere.
    """
    return jnp.sum(jnp.where(mask, values, 0.0))
