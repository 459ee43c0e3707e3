"""Which tokens of a teacher's chain a cache of `M` entries keeps, in each layer and key-value head (arXiv 2510.02312).

    I_i = mean over the answer's queries of the attention that token i gets, the largest of the head's query heads
    R_i = softmax over i of - mean over j != i of cos(k_i, k_j)          a key that others repeat says little
    S = lambda I + (1 - lambda) R; the M largest stay, in the order of time

Nothing here has a gradient, and decoding has none of it.
"""

import dataclasses

import jax
import jax.numpy as jnp

from colar_jax.methods.thinking.thought_rows import ThoughtBatch
from colar_jax.model import rope
from colar_jax.model.attention import MASKED, fold_queries
from colar_jax.model.llama_config import LlamaConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chains:
    """Where the trunk has each example's chain of thought, and what the tail repeats after the latents."""

    is_chain_BEP: jax.Array
    places_BT: jax.Array  # int32, in the trunk, of what the tail has at `T`; 0 for padding
    shares_BT: jax.Array  # float32: one over how many positions the example's tail has; 0 for padding


def chains_of(batch: ThoughtBatch) -> Chains:
    """Of rows whose trunk ends, in each example, with all that its tail has: `###` and the answer."""
    number_E = 1 + jnp.arange(batch.last_BE.shape[1])
    in_trunk_BEP = batch.trunk_segments_BP[:, None] == number_E[None, :, None]
    in_tail_BET = batch.tail_segments_BT[:, None] == number_E[None, :, None]
    num_answer_BE = jnp.sum(in_tail_BET, axis=2)
    first_BE = batch.last_BE + 1 + jnp.sum(in_trunk_BEP, axis=2) - batch.question_lengths_BE - num_answer_BE
    place_11P = jnp.arange(batch.trunk_ids_BP.shape[1])[None, None]
    is_chain_BEP = in_trunk_BEP & (place_11P > batch.last_BE[..., None]) & (place_11P < first_BE[..., None])

    def in_tail(value_BE):
        return jnp.sum(jnp.where(in_tail_BET, value_BE[..., None], 0), axis=1)

    moved_BT = in_tail(first_BE - batch.question_lengths_BE - batch.num_latents_BE)
    is_tail_BT = batch.tail_segments_BT > 0
    places_BT = jnp.where(is_tail_BT, batch.tail_positions_BT + moved_BT, 0)
    return Chains(is_chain_BEP, places_BT, in_tail(1.0 / jnp.maximum(num_answer_BE, 1)))


def importance(queries_BTNH, keys_BKPH, batch: ThoughtBatch, chains: Chains):
    """I, float32 `[B, K, P]`: how much the answer looks at each position of its trunk.

    Args:
        queries_BTNH: of the trunk at `chains.places_BT`, as the layer attends with them.
        keys_BKPH: of the trunk, as cached.
    """
    (B, T, N, _), K = queries_BTNH.shape, keys_BKPH.shape[1]
    place_11P = jnp.arange(keys_BKPH.shape[2])[None, None]
    same_BTP = batch.tail_segments_BT[..., None] == batch.trunk_segments_BP[:, None]
    bias_BTP = jnp.where(same_BTP & (place_11P <= chains.places_BT[..., None]), 0.0, MASKED)
    scores_BKQP = jnp.einsum(
        "bkqh,bkph->bkqp", fold_queries(queries_BTNH, K), keys_BKPH, preferred_element_type=jnp.float32
    )
    scores_BKRTP = scores_BKQP.reshape(B, K, N // K, T, -1) + bias_BTP[:, None, None]
    attention_BKTP = jnp.max(jax.nn.softmax(scores_BKRTP, axis=-1), axis=2)
    return jnp.einsum("bktp,bt->bkp", attention_BKTP, chains.shares_BT)


def redundancy(keys_BKPH, is_chain_BEP):
    """R, float32 `[B, K, P]`: 1 over each chain, least where a key is like the others; 0 outside of chains."""
    keys_BKPH = keys_BKPH.astype(jnp.float32)
    unit_BKPH = keys_BKPH / jnp.maximum(jnp.linalg.norm(keys_BKPH, axis=-1, keepdims=True), 1e-6)
    chain_BEP = is_chain_BEP.astype(jnp.float32)
    num_others_BP = jnp.sum(chain_BEP * (jnp.sum(chain_BEP, axis=2, keepdims=True) - 1), axis=1)
    sums_BKEH = jnp.einsum("bep,bkph->bkeh", chain_BEP, unit_BKPH)
    with_all_BKP = jnp.einsum("bkph,bep,bkeh->bkp", unit_BKPH, chain_BEP, sums_BKEH)
    with_itself_BKP = jnp.sum(jnp.square(unit_BKPH), axis=-1)
    likeness_BKP = (with_all_BKP - with_itself_BKP) / jnp.maximum(num_others_BP, 1)[:, None]
    weights_BKP = jnp.exp(-likeness_BKP) * jnp.sum(chain_BEP, axis=1)[:, None]
    totals_BKE = jnp.einsum("bep,bkp->bke", chain_BEP, weights_BKP)
    return weights_BKP / jnp.maximum(jnp.einsum("bep,bke->bkp", chain_BEP, totals_BKE), 1e-6)


def kept(scores_BKP, is_chain_BEP, size: int):
    """The places in the trunk of the `size` largest scores of each chain, in the order of time.

    Returns:
        int32 `[B, K, E, M]`; and bool, False at the end for what a shorter chain does not have.
    """
    num_places = scores_BKP.shape[2]
    scores_BKEP = jnp.where(is_chain_BEP[:, None], scores_BKP[:, :, None], -jnp.inf)
    scores_BKEP = jnp.pad(scores_BKEP, [(0, 0)] * 3 + [(0, max(size - num_places, 0))], constant_values=-jnp.inf)
    largest_BKEM, places_BKEM = jax.lax.top_k(scores_BKEP, size)
    places_BKEM = jnp.sort(jnp.where(jnp.isfinite(largest_BKEM), places_BKEM, num_places), axis=-1)
    is_kept_BKEM = places_BKEM < num_places
    return jnp.where(is_kept_BKEM, places_BKEM, 0), is_kept_BKEM


def unrotated(keys_BKSH, positions_BS, config: LlamaConfig, layer: int):
    """Cached keys of a layer as they were before their rotary embedding."""
    (cos_BSH, sin_BSH), which_L = rope.rotations_of_layers(positions_BS, config)
    if which_L is not None:
        cos_BSH, sin_BSH = cos_BSH[which_L[layer]], sin_BSH[which_L[layer]]
    size_BSH = jnp.square(cos_BSH) + jnp.square(sin_BSH)  # of a scaled embedding
    turned = rope.rotate(keys_BKSH.transpose(0, 2, 1, 3), cos_BSH / size_BSH, -sin_BSH / size_BSH)
    return turned.transpose(0, 2, 1, 3)
