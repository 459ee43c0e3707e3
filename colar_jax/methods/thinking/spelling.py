"""Writing a step's text from its latents alone: what SIM-CoT's decoder reads and has to write, and its loss.

    decoder reads   z ... z y1 y2 ... yn       the latents of a step, then its tokens; never the question
    and writes            y1 y2 y3 ... eos

A row of a batch has all its latents, in their order, and after them all tokens to be written. Segment ids say which
belong together.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from colar_jax.losses import cross_entropy_sum
from colar_jax.metrics import Metric
from colar_jax.model.attention import attend_causally, packed_mask_bias
from colar_jax.model.execution import Execution
from colar_jax.model.llama import Llama
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.model.reasoner import OwnModule
from colar_jax.model.visibility import Visibility

STEP_DECODER = "step_decoder"  # the name of the part of the model


@dataclasses.dataclass(frozen=True)
class StepDecoderConfig:
    """It has the shape of the base: there is nothing to say."""


def step_decoder(llama: LlamaConfig, settings: StepDecoderConfig, *, rngs) -> Llama:
    """A whole Llama, without adapters: all of it is trained."""
    return Llama(llama, rngs=rngs)


STEP_DECODER_MODULE = OwnModule(step_decoder, StepDecoderConfig(), save=None, copy_of="llama")


class Spelled(NamedTuple):
    """A text that latents have to be read as."""

    latents: Sequence[int]  # their places among the latents of the row, in order
    token_ids: np.ndarray  # without eos


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Spelling:
    """What the decoder reads of `B` rows, each of `X` latents and `Y` tokens, and what it has to write.

    Segments count from 1; 0 is a latent that nothing is read from, or padding. A label of -1 is none.
    """

    spelled_ids_BY: np.ndarray  # int32
    spelled_segments_BZ: np.ndarray  # int32, `Z = X + Y`: of the latents, then of the tokens
    spelled_positions_BZ: np.ndarray  # int32, counted within a segment
    spelled_labels_BZ: np.ndarray  # int32
    spelled_weights_BZ: np.ndarray  # float32, one over the labels of the segment


def fill_spelling(rows: list[list[Spelled]], num_latents: int, num_tokens: int, eos_id: int) -> dict[str, np.ndarray]:
    """The fields of `Spelling`, for rows with `num_latents` latents and room for `num_tokens` tokens.

    A text that finds no room is left out.
    """
    shape = (len(rows), num_latents + num_tokens)
    ids_BY = np.zeros((len(rows), num_tokens), np.int32)
    segments_BZ, positions_BZ = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    labels_BZ, weights_BZ = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
    for row, texts in enumerate(rows):
        start = 0
        for segment, (latents, token_ids) in enumerate(texts, start=1):
            stop = start + len(token_ids)
            if stop > num_tokens:
                break
            places = np.concatenate([np.asarray(latents, np.int64), num_latents + np.arange(start, stop)])
            ids_BY[row, start:stop] = token_ids
            segments_BZ[row, places] = segment
            positions_BZ[row, places] = np.arange(len(places))
            written = places[len(latents) - 1 :]
            labels_BZ[row, written] = [*token_ids, eos_id]
            weights_BZ[row, written] = 1 / len(written)
            start = stop
    return dict(
        spelled_ids_BY=ids_BY,
        spelled_segments_BZ=segments_BZ,
        spelled_positions_BZ=positions_BZ,
        spelled_labels_BZ=labels_BZ,
        spelled_weights_BZ=weights_BZ,
    )


def num_spelled(batch: Spelling):
    """How many texts are written."""
    return jnp.sum(jnp.max(batch.spelled_segments_BZ, axis=1))


@dataclasses.dataclass(frozen=True)
class HowSpelled:
    """What of the decoder's loss is a choice."""

    tokens: str = "mean"  # of the cross-entropies of a text's tokens: mean, or sum
    shared_embedding: bool = True  # the decoder reads tokens by the model's embedding; False: by its own


MEAN_OF_TOKENS = HowSpelled()


def spelling_loss(model, latents_BXD, batch: Spelling, num_texts, compute: Execution, how: HowSpelled = MEAN_OF_TOKENS):
    """The part's share of the mean over texts of each one's cross-entropy, and metrics; 0 where no text is written.

    Args:
        latents_BXD: as the base is fed them.
        num_texts: of the whole step.
    """
    decoder: Llama = getattr(model, STEP_DECODER)
    reader = model.llama if how.shared_embedding else decoder
    tokens_BYD = reader.embed(batch.spelled_ids_BY, latents_BXD.dtype)
    is_label_BZ = batch.spelled_labels_BZ >= 0
    weights_BZ = is_label_BZ.astype(jnp.float32) if how.tokens == "sum" else batch.spelled_weights_BZ
    bias_BZZ = packed_mask_bias(batch.spelled_segments_BZ)
    with jax.named_scope("spelling"):
        hidden_BZD, _ = decoder.run(
            jnp.concatenate([latents_BXD, tokens_BYD], axis=1),
            batch.spelled_positions_BZ,
            Visibility(lambda q, k, v: (attend_causally(q, k, v, bias_BZZ), None)),
            compute,
        )
        loss_sum, right = cross_entropy_sum(
            hidden_BZD.reshape(-1, hidden_BZD.shape[-1]),
            decoder.head_matrix_VD,
            batch.spelled_labels_BZ.reshape(-1),
            weights_BZ.reshape(-1),
            chunk=compute.logits_chunk,
        )
    own = num_spelled(batch)
    accuracy = Metric(right, jnp.sum(is_label_BZ) if how.tokens == "sum" else own)
    metrics = {"spelling_loss": Metric(loss_sum, own), "spelling_accuracy": accuracy}
    return loss_sum / jnp.maximum(num_texts, 1), metrics


def spread_of_latents(model, latents_BLED, num_latents_BE) -> dict[str, Metric]:
    """Whether latents stay apart: the mean distance of an example's latents, and theirs from the mean embedding.

    Where training collapses the first one falls: latents are all alike (SIM-CoT, arXiv 2509.20317, section 3).
    """
    latents_BLED = jax.lax.stop_gradient(latents_BLED).astype(jnp.float32)
    is_real_BLE = jnp.arange(latents_BLED.shape[1])[None, :, None] < num_latents_BE[:, None]
    center_D = model.llama.scaled(
        jnp.mean(jax.lax.stop_gradient(model.llama.embedding[...]).astype(jnp.float32), axis=0)
    )
    from_center_BLE = jnp.linalg.norm(latents_BLED - center_D[None, None, None], axis=-1)
    pairs_BLLE = (
        is_real_BLE[:, :, None] & is_real_BLE[:, None] & ~jnp.eye(latents_BLED.shape[1], dtype=bool)[None, ..., None]
    )
    apart_BLLE = jnp.linalg.norm(latents_BLED[:, :, None] - latents_BLED[:, None], axis=-1)
    return {
        "latent_distance": Metric(jnp.sum(jnp.where(pairs_BLLE, apart_BLLE, 0.0)), jnp.sum(pairs_BLLE)),
        "latent_from_center": Metric(jnp.sum(jnp.where(is_real_BLE, from_center_BLE, 0.0)), jnp.sum(is_real_BLE)),
    }
