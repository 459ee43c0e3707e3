"""CoLaR's batches, with the tokens of each group that a predicted latent has to be read as."""

import dataclasses
import math

import jax
import numpy as np

from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.loader import Loader
from colar_jax.data.packing import Batch
from colar_jax.data.recipe import Recipe
from colar_jax.methods.thinking.spelling import Spelled, Spelling, fill_spelling


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SpelledGroups(Spelling, Batch):
    """Packed rows, and what is to be read in the latents that they predict."""


class SpelledLoader(Loader):
    """As `Loader`; a latent is numbered as the supervised position that predicts it."""

    def __init__(self, encoded: EncodedProblems, recipe: Recipe, *, seed: int, rows: int, row_positions: int):
        super().__init__(encoded, recipe, seed=seed, rows=rows, row_positions=row_positions)
        # Of a row's tokens, as many as are steps in the whole set, and half as many again.
        all_tokens = encoded.step_lengths + encoded.answer_lengths + encoded.prompt_lengths(recipe.prompt_speeds[0])
        share = encoded.step_lengths.sum() / max(all_tokens.sum(), 1)
        room = max(1.5 * share * self.row_shape.tokens, encoded.step_lengths.max(initial=1))
        self._num_tokens = 8 * math.ceil(min(room, self.row_shape.tokens) / 8)

    def batch(self, step: int, rows: slice = slice(None)) -> SpelledGroups:
        """The batch of an optimizer step, or these of its rows."""
        batch = super().batch(step, rows)
        texts = [_texts_of_row(batch, row) for row in range(len(batch.row_ids_B))]
        num_latents = batch.supervised_BM.shape[1]
        return SpelledGroups(**vars(batch), **fill_spelling(texts, num_latents, self._num_tokens, self.encoded.eos_id))


def _texts_of_row(batch: Batch, row: int) -> list[Spelled]:
    """The groups of a row: what is fed right after each position that predicts a latent, but for the closing `###`."""
    mask_M = batch.latent_mask_BM[row]
    is_group_M = mask_M & np.append(mask_M[1:], False)
    positions_T, ids_T = batch.token_positions_BT[row], batch.token_ids_BT[row]
    texts = []
    for number in np.flatnonzero(is_group_M):
        at = batch.supervised_BM[row, number] + 1
        start, stop = np.searchsorted(positions_T, [at, at + 1])
        texts.append(Spelled([number], ids_T[start:stop]))
    return texts
