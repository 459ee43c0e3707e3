"""Questions in batches of few shapes, so that a program is compiled once for all batches of a shape.

A shape is a number of rows and a number of prompt positions, both powers of two; of a model whose passes may not be
long, positions are a multiple of 16, as in evaluation, for padding counts as a part of a pass. Questions are taken in
the order of their lengths, so that a long one does not widen the batch of short ones.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from colar_jax.data.encoding import Prompt
from colar_jax.decoding.prompt_rows import PackedPrompts, PromptShape, pack_prompts
from colar_jax.model.llama_config import LlamaConfig

# No prompt of the published form is shorter than some twenty tokens.
_NARROWEST = 32
# Short questions share a row of the prefill.
_SHORTEST_ROW = 128
_STEP = 16

# Of a number of positions: the one that there is room for.
RoundUp = Callable[[int], int]


def rounding_of(llama: LlamaConfig) -> RoundUp:
    """How far numbers of positions are rounded up for this model, so that there are few of them."""
    return to_step if llama.has_bounded_reach else power_of_two


@dataclasses.dataclass(frozen=True, eq=False)
class QuestionBatch:
    """Some of `N` questions, ready to be decoded."""

    numbers: np.ndarray  # which questions the first rows are; the rows after them repeat the last one
    row_numbers_B: np.ndarray  # of every row
    prompts: PackedPrompts


def batches_of(
    prompts: Sequence[Prompt], most_rows: int, num_shards: int, round_up: RoundUp
) -> Iterator[QuestionBatch]:
    """All questions, each once.

    Args:
        prompts: as they are asked.
        most_rows: questions of a batch; the power of two below it counts.
        num_shards: into how many parts the rows are split over devices.
        round_up: of the longest one's positions, from `rounding_of`.
    """
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
    most = num_shards * _power_of_two_below(max(most_rows // num_shards, 1))
    for start in range(0, len(order), most):
        numbers = order[start : start + most]
        shard = power_of_two(-(-len(numbers) // num_shards))
        rows = numbers[np.arange(shard * num_shards).clip(max=len(numbers) - 1)]
        shape = prompt_shape(shard, max(len(prompts[number]) for number in numbers), round_up)
        parts = [pack_prompts([prompts[number] for number in part], shape) for part in np.split(rows, num_shards)]
        yield QuestionBatch(numbers, rows, jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts))


def prompt_shape(num_questions: int, longest: int, round_up: RoundUp) -> PromptShape:
    """Room for any so many questions of up to what the longest one is rounded up to.

    A row that has no room for one more question of this width is filled but for less than that, so as many rows as are
    needed by questions of the full width are enough for any.
    """
    width = max(round_up(longest), _NARROWEST)
    positions = max(width, _SHORTEST_ROW)
    return PromptShape(rows=-(-num_questions // (positions // width)), positions=positions, width=width)


def power_of_two(number: int) -> int:
    """The smallest one that is not below a number of at least 1."""
    return 1 << (number - 1).bit_length()


def to_step(number: int) -> int:
    """The smallest multiple of 16 that is not below a number."""
    return _STEP * -(-number // _STEP)


def _power_of_two_below(number: int) -> int:
    return 1 << (number.bit_length() - 1)
