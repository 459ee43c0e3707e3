"""Latents that are mixtures of tokens: fed as `sum p_v E_v`, learned as a distribution over the vocabulary.

    the position before latent i predicts its tokens' shares pi_i:  loss = sum_v pi_iv (log pi_iv - log p_theta(v))

All latents are fed as they should be, so that training is one parallel pass. When decoding, the model's own
distribution is fed: `softmax(logits) E`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from colar_jax.data.packing import Batch
from colar_jax.decoding.thinking import Think, Thought
from colar_jax.losses import in_chunks
from colar_jax.model.execution import Execution
from colar_jax.model.reasoner import Reasoner


class LatentTokens(NamedTuple):
    """Of each of a batch's `T` tokens, whether it is part of a latent, its share, and where that is predicted."""

    is_part_BT: jax.Array  # bool
    predicted_at_BT: jax.Array  # int32, among the supervised positions
    shares_BT: jax.Array  # float32


def feeds_latent(batch: Batch):
    """Which supervised positions `[B, M]` predict a latent that is fed: the last one of an example predicts `###`."""
    return batch.latent_mask_BM & jnp.pad(batch.latent_mask_BM[:, 1:], ((0, 0), (0, 1)))


def has_first_latent(batch: Batch):
    """Which supervised positions `[B, M]` predict the first latent of an example."""
    return feeds_latent(batch) & ~jnp.pad(batch.latent_mask_BM[:, :-1], ((0, 0), (1, 0)))


def share_of_example(batch: Batch):
    """What each latent that is fed counts, `[B, M]`, where all of an example's count 1 together."""
    # A share of latents is that of one more: the closing `###`.
    return jnp.where(feeds_latent(batch), batch.latent_shares_BM / jnp.maximum(1 - batch.latent_shares_BM, 1e-6), 0.0)


def latent_tokens(batch: Batch, shares_BT) -> LatentTokens:
    """The tokens of a batch that are parts of latents, with these shares."""
    num_positions, num_supervised = batch.segment_ids_BS.shape[1], batch.supervised_BM.shape[1]
    feeds_BM = feeds_latent(batch)
    places_BM = jnp.where(feeds_BM, batch.supervised_BM + 1, num_positions + 1)  # the others fall off the end

    def of_row(places_M, positions_T):
        at_S = jnp.full(num_positions + 1, -1, jnp.int32).at[places_M].set(jnp.arange(num_supervised), mode="drop")
        return at_S[positions_T]

    at_BT = jax.vmap(of_row)(places_BM, batch.token_positions_BT)
    return LatentTokens(at_BT >= 0, jnp.maximum(at_BT, 0), jnp.where(at_BT >= 0, shares_BT, 0.0))


def reweighed(tokens: LatentTokens, log_factor_BT) -> LatentTokens:
    """The shares times `exp(log_factor_BT)`, made to sum to 1 over each latent's tokens again."""
    num_tokens = tokens.shares_BT.shape[1]
    weights_BT = jnp.where(tokens.is_part_BT, tokens.shares_BT * jnp.exp(log_factor_BT), 0.0)

    def normalised(weights_T, at_T):
        sums_T = jax.ops.segment_sum(weights_T, at_T, num_tokens)
        return weights_T / jnp.maximum(sums_T[at_T], 1e-30)

    return tokens._replace(shares_BT=jax.vmap(normalised)(weights_BT, tokens.predicted_at_BT))


def embed_shares(model: Reasoner, batch: Batch, tokens: LatentTokens, dtype):
    """The input embeddings `[B, S, D]`: tokens as they are, latents as mixtures without a gradient."""
    embeds_BTD = model.llama.embed(batch.token_ids_BT, jnp.float32)
    part_BT1 = tokens.is_part_BT[..., None]
    embeds_BTD = jnp.where(part_BT1, tokens.shares_BT[..., None] * jax.lax.stop_gradient(embeds_BTD), embeds_BTD)

    def add_tokens(embeds_TD, positions_T):
        return jax.ops.segment_sum(embeds_TD, positions_T, batch.scale_BS.shape[1], indices_are_sorted=True)

    return jax.vmap(add_tokens)(embeds_BTD, batch.token_positions_BT).astype(dtype)


class Predicted(NamedTuple):
    """What the language head says at `[B, M]` positions, without their logits."""

    log_normalizer_BM: jax.Array
    most_probable_BM: jax.Array


def predicted_words(model: Reasoner, hidden_BMD, compute: Execution) -> Predicted:
    """The head's log-normalizers and most probable tokens, in chunks."""
    head_VD = model.llama.head_matrix_VD

    def part(hidden_ND, _):
        logits_NV = jnp.einsum(
            "nd,vd->nv", hidden_ND, head_VD.astype(hidden_ND.dtype), preferred_element_type=jnp.float32
        )
        return jax.nn.logsumexp(logits_NV, axis=1), jnp.argmax(logits_NV, axis=1)

    shape = hidden_BMD.shape[:2]
    num_rows = shape[0] * shape[1]
    found = in_chunks(
        part,
        hidden_BMD.reshape(num_rows, -1),
        jnp.zeros(num_rows, jnp.int32),
        chunk=compute.logits_chunk,
        padding_id=0,
        join=lambda of_chunks: jax.tree.map(lambda leaf: leaf.reshape(-1)[:num_rows], of_chunks),
    )
    return Predicted(*(leaf.reshape(shape) for leaf in found))


def logits_of(model: Reasoner, hidden_BTD, ids_BT):
    """float32 logits `[B, T]` of one token at each position."""
    rows_BTD = model.llama.head_matrix_VD[ids_BT].astype(hidden_BTD.dtype)
    return jnp.einsum("btd,btd->bt", hidden_BTD, rows_BTD, preferred_element_type=jnp.float32)


def label_loss(model: Reasoner, hidden_BMD, words: Predicted, label_ids_BM):
    """Summed cross-entropy of the labels that are not -1, and how many of them are right."""
    is_label_BM = label_ids_BM >= 0
    picked_BM = logits_of(model, hidden_BMD, jnp.maximum(label_ids_BM, 0))
    loss_sum = jnp.sum(jnp.where(is_label_BM, words.log_normalizer_BM - picked_BM, 0.0))
    return loss_sum, jnp.sum(is_label_BM & (words.most_probable_BM == label_ids_BM))


def divergence(
    model: Reasoner, hidden_BMD, words: Predicted, ids_BT, tokens: LatentTokens, min_share: float, weights_BM=None
):
    """Summed KL(shares || the model's distribution) over latents; shares of `min_share` or less count for nothing.

    A token that a latent has twice counts as two: the value is off by a constant, and the gradient is right.

    Args:
        weights_BM: what each latent counts; None: 1.
    """
    hidden_BTD = jnp.take_along_axis(hidden_BMD, tokens.predicted_at_BT[..., None], axis=1)
    normalizer_BT = jnp.take_along_axis(words.log_normalizer_BM, tokens.predicted_at_BT, axis=1)
    log_prob_BT = logits_of(model, hidden_BTD, ids_BT) - normalizer_BT
    shares_BT = tokens.shares_BT
    counts_BT = tokens.is_part_BT & (shares_BT > min_share)
    log_share_BT = jnp.log(jnp.where(counts_BT, shares_BT, 1.0))
    parts_BT = jnp.where(counts_BT, shares_BT * (log_share_BT - log_prob_BT), 0.0)
    if weights_BM is not None:
        parts_BT *= jnp.take_along_axis(weights_BM, tokens.predicted_at_BT, axis=1)
    return jnp.sum(parts_BT)


def semantic_divergence(hidden_BMD, batch: Batch, weights_BM=None):
    """Summed over latents: KL(P || Q) of softmaxes over the hidden dimension, P at the question's end, Q at the latent.

    Gradients flow into both (RuPLaR's SEM term). `weights_BM`: what each latent counts, where it is predicted.
    """
    log_BMD = jax.nn.log_softmax(hidden_BMD.astype(jnp.float32), axis=-1)
    segments_BM = jnp.take_along_axis(batch.segment_ids_BS, batch.supervised_BM, axis=1)
    first_BM = jnp.argmax(segments_BM[:, :, None] == segments_BM[:, None, :], axis=2)
    question_BMD = jnp.take_along_axis(log_BMD, first_BM[..., None], axis=1)
    is_latent_BM = jnp.pad(feeds_latent(batch)[:, :-1], ((0, 0), (1, 0)))
    kl_BM = jnp.sum(jnp.exp(question_BMD) * (question_BMD - log_BMD), axis=-1)
    if weights_BM is not None:
        kl_BM *= jnp.pad(weights_BM[:, :-1], ((0, 0), (1, 0)))
    return jnp.sum(jnp.where(is_latent_BM, kl_BM, 0.0))


def superposition_thinker(separator_id: int) -> Think:
    """Feed the head's own distribution as a mixture of embeddings; stop where `###` is the most probable token.

    Nothing is drawn: a latent has no noise, nor has the decision.
    """

    def think(model: Reasoner, hidden_BD, keys_B) -> Thought:
        logits_BV = model.llama.logits(hidden_BD)
        shares_BV = jax.nn.softmax(logits_BV, axis=-1)
        embedding_VD = model.llama.embedding[...]
        mixed_BD = model.llama.scaled(jnp.einsum("bv,vd->bd", shares_BV, embedding_VD.astype(jnp.float32)))
        embed_BD = mixed_BD.astype(hidden_BD.dtype)
        return Thought.undrawn(embed_BD, jnp.argmax(logits_BV, axis=-1) == separator_id)

    return think
