"""Questions for the prefill, packed into rows as training examples are, not padded to the longest one.

All batches have rows of the same number and length, so one compiled decode serves them all. Where a question's tokens
lie in the rows is data (`slots_CP`); by it the prefill gives every question its own part of the cache.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from colar_jax.data.encoding import Prompt
from colar_jax.data.layout import Sizes
from colar_jax.data.packing import RowShape, pack
from colar_jax.errors import UserError

# Rows are at least this long, so that short questions share one, and a multiple of `_STEP`.
_SHORTEST_ROW = 128
_STEP = 16


@dataclasses.dataclass(frozen=True)
class PromptShape:
    """The room for a batch of questions: rows of so many positions, and the longest question (cache slots)."""

    rows: int
    positions: int
    width: int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedPrompts:
    """`C` questions in `R` rows of `S` positions; each question ends with the separator that opens the reasoning."""

    token_ids_RS: np.ndarray  # int32
    position_ids_RS: np.ndarray  # int32, counted from 0 within each question
    segment_ids_RS: np.ndarray  # int32, 1, 2, ... a question each; 0 is padding
    slots_CP: np.ndarray  # int32, where each question's tokens are in the flattened rows; 0 beyond its length
    lengths_C: np.ndarray  # int32
    # float32, what each question's last separator is told of the speed (`data.recipe.Told.number`); None: not known
    speeds_C: np.ndarray | None = None
    # Speeds that change in mid-chain: after how many latents, int32, and to what, float32; None: none does
    changes_C: tuple[np.ndarray, np.ndarray] | None = None


def shape_for(batches: list[np.ndarray]) -> PromptShape:
    """The smallest shape that holds each of these batches, given as the lengths of its questions."""
    width = _STEP * -(-max(int(lengths.max()) for lengths in batches) // _STEP)
    positions = max(width, _SHORTEST_ROW)
    return PromptShape(max(len(_rows(lengths, positions)) for lengths in batches), positions, width)


def with_room_for(shape: PromptShape, lengths: np.ndarray) -> PromptShape:
    """`shape`, with more rows where questions of these lengths need them."""
    return dataclasses.replace(shape, rows=max(shape.rows, len(_rows(lengths, shape.positions))))


def pack_prompts(prompts: Sequence[Prompt | np.ndarray], shape: PromptShape) -> PackedPrompts:
    """Lay the questions into rows. UserError where they do not fit into `shape`.

    Args:
        prompts: or their ids alone, for a model that is told no speed as a number.
    """
    lengths_C = np.array([len(prompt) for prompt in prompts], np.int32)
    if lengths_C.max() > shape.width:
        raise UserError(f"a prompt of {lengths_C.max()} tokens does not fit the decoder's {shape.width}")
    rows = _rows(lengths_C, shape.positions)
    if len(rows) > shape.rows:
        raise UserError(f"{len(prompts)} prompts need {len(rows)} rows, the decoder has {shape.rows}")
    token_ids_RS = np.zeros((shape.rows, shape.positions), np.int32)
    position_ids_RS, segment_ids_RS = np.zeros_like(token_ids_RS), np.zeros_like(token_ids_RS)
    slots_CP = np.zeros((len(prompts), shape.width), np.int32)
    for row, questions in enumerate(rows):
        start = 0
        for segment, question in enumerate(questions, start=1):
            length = lengths_C[question]
            place = slice(start, start + length)
            prompt = prompts[question]
            token_ids_RS[row, place] = prompt.ids if isinstance(prompt, Prompt) else prompt
            position_ids_RS[row, place] = np.arange(length)
            segment_ids_RS[row, place] = segment
            slots_CP[question, :length] = row * shape.positions + start + np.arange(length)
            start += length
    numbers = [prompt.speed_number for prompt in prompts if isinstance(prompt, Prompt)]
    speeds_C = np.array(numbers, np.float32) if len(numbers) == len(prompts) else None
    return PackedPrompts(
        token_ids_RS, position_ids_RS, segment_ids_RS, slots_CP, lengths_C, speeds_C, _changes(prompts)
    )


def _changes(prompts: Sequence[Prompt | np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """Where speeds change and to what, as `PackedPrompts` has it. ValueError where only some prompts say it."""
    changes = [prompt.later for prompt in prompts if isinstance(prompt, Prompt) and prompt.later is not None]
    if not changes:
        return None
    if len(changes) < len(prompts):
        raise ValueError("speeds change in mid-chain for some prompts of a batch and not for others")
    return np.array([of.after for of in changes], np.int32), np.array([of.speed for of in changes], np.float32)


def _rows(lengths: np.ndarray, positions: int) -> list[list[int]]:
    lengths = np.asarray(lengths, np.int64)
    return pack(Sizes(lengths, lengths, lengths), RowShape(positions, positions, positions))
