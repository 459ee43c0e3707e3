"""Batches of methods that think in training, with what a step decoder has to write besides."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from colar_jax.data.encoding import EncodedProblems
from colar_jax.methods.thinking.spelling import Spelled, Spelling, fill_spelling
from colar_jax.methods.thinking.staged_loader import Dealt, Form, Room
from colar_jax.methods.thinking.thought_rows import ThoughtBatch

# (problems, an example of a row, its place in the row, places of a row) -> what its latents have to be read as. Latent
# n of the example at place e is number `n * places + e`.
TextsOf = Callable[[EncodedProblems, Dealt, int, int], list[Spelled]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SpelledThoughts(Spelling, ThoughtBatch):
    """Thoughts, and what is to be read in them."""


@dataclasses.dataclass(frozen=True)
class SpellingForm:
    """A host's rows, and the texts of its latents.

    Args:
        texts: of an example.
        most_tokens: how many tokens those of each problem have at most.
        num_latents: that an example has at most.
    """

    host: Form
    texts: TextsOf
    most_tokens: np.ndarray
    num_latents: int

    def sizes(self, encoded: EncodedProblems, kept_N: np.ndarray, examples_N=slice(None)) -> np.ndarray:
        of_host = self.host.sizes(encoded, kept_N, examples_N)
        return np.concatenate([of_host, self.most_tokens[examples_N][:, None]], axis=1)

    def fill(self, encoded: EncodedProblems, rows: list[list[Dealt]], room: Room) -> SpelledThoughts:
        *of_host, num_tokens = room.positions
        batch = self.host.fill(encoded, rows, Room(room.examples, tuple(of_host)))
        spelled = [
            [text for slot, one in enumerate(row) for text in self.texts(encoded, one, slot, room.examples)]
            for row in rows
        ]
        texts = fill_spelling(spelled, self.num_latents * room.examples, num_tokens, encoded.eos_id)
        return SpelledThoughts(**vars(batch), **texts)
