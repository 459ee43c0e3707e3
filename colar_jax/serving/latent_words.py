"""The words nearest to latents, for clients that watch a model think."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from colar_jax.data.tokenizers import Tokenizer
from colar_jax.evaluation.latents import Word, nearest_tokens

# Latents of one call: they are filled up to it, so that one program serves all.
_ROWS = 8


class WordReader:
    """Reads latents.

    Args:
        embedding_VD: of the model's tokens, on its devices.
        num_words: of each latent.
    """

    def __init__(self, embedding_VD, tokenizer: Tokenizer, *, num_words: int = 3):
        self._embedding_VD, self._tokenizer = embedding_VD, tokenizer
        num_words = min(num_words, embedding_VD.shape[0])
        self._nearest = jax.jit(functools.partial(nearest_tokens, num_words=num_words))

    def read(self, latents_ND: np.ndarray) -> list[tuple[Word, ...]]:
        """The nearest words of each latent, best first, with their cosines."""
        words = []
        for start in range(0, len(latents_ND), _ROWS):
            some_ND = latents_ND[start : start + _ROWS]
            padded_ND = np.pad(some_ND, ((0, _ROWS - len(some_ND)), (0, 0)))
            ids_NK, cosines_NK = jax.device_get(self._nearest(jnp.asarray(padded_ND), self._embedding_VD))
            words += [self._words(ids, cosines) for ids, cosines in zip(ids_NK, cosines_NK, strict=True)][
                : len(some_ND)
            ]
        return words

    def _words(self, ids_K, cosines_K) -> tuple[Word, ...]:
        pairs = zip(ids_K.tolist(), cosines_K.tolist(), strict=True)
        return tuple(Word(token_id, self._tokenizer.token_text(token_id), cosine) for token_id, cosine in pairs)
