"""Rows for methods that think while they are trained: a trunk, latents after each question, and a tail after those.

    trunk:    q0 q1 ... qn ###  (CODI: and the chain of thought after it, which the latents do not see)
    latents:  z1 z2 ... zk      each the last hidden state before it, from the `###` on
    tail:     [what is left of the steps] ### answer

A row holds `E` examples side by side, kept apart by segment ids; the number of latents is data (`num_latents_BE`), so
one compiled step serves every stage of a schedule.
"""

import dataclasses

import jax
import numpy as np


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ThoughtBatch:
    """`B` rows of `P` trunk positions, at most `E` examples and `T` tail positions; `M` trunk positions are supervised.

    A label of -1 is none.
    """

    trunk_ids_BP: np.ndarray  # int32
    trunk_positions_BP: np.ndarray  # int32, counted from 0 within each example
    trunk_segments_BP: np.ndarray  # int32, 1, 2, ... an example each; 0 is padding
    is_question_BP: np.ndarray  # bool: what latents and tail see of the trunk
    supervised_BM: np.ndarray  # int32, the trunk positions whose next token is learned; 0 for padding
    trunk_labels_BM: np.ndarray  # int32
    last_BE: np.ndarray  # int32, where in the trunk each example's question ends, with its `###`
    question_lengths_BE: np.ndarray  # int32, 0 where there is no example
    num_latents_BE: np.ndarray  # int32
    first_labels_BE: np.ndarray  # int32, what follows the last latent
    tail_ids_BT: np.ndarray  # int32
    tail_positions_BT: np.ndarray  # int32, which go on from the latents
    tail_segments_BT: np.ndarray  # int32
    tail_labels_BT: np.ndarray  # int32
    matched_trunk_BE: np.ndarray  # int32, the position before the answer: of the chain of thought,
    matched_tail_BE: np.ndarray  # int32, and after the latents
    row_ids_B: np.ndarray  # int32, the row's number in the whole batch: what its random numbers are drawn from

    @property
    def num_examples(self) -> int:
        return int((self.question_lengths_BE > 0).sum())

    @property
    def num_tokens(self) -> int:
        """How many tokens are read, padding and latents aside."""
        return int((self.trunk_segments_BP > 0).sum() + (self.tail_segments_BT > 0).sum())


@dataclasses.dataclass(frozen=True)
class ThoughtExample:
    """One example of a row; `prompt_ids` end with the `###` that opens the reasoning."""

    prompt_ids: np.ndarray
    teacher_ids: np.ndarray  # what the trunk has after the prompt: nothing, or steps, `###` and answer
    tail_ids: np.ndarray
    before_answer: int  # how many of the answer's tokens do not depend on the problem ("Answer", ":")
    num_answer: int  # tokens of the answer, eos included
    num_latents: int = 0


@dataclasses.dataclass(frozen=True)
class ThoughtShape:
    """What a row has room for."""

    trunk: int
    supervised: int
    tail: int
    examples: int


def fill_thought_rows(rows: list[list[ThoughtExample]], shape: ThoughtShape) -> ThoughtBatch:
    """The batch of these rows. The eos of a text is predicted, never fed."""

    def zeros(width: int, kind=np.int32, value=0):
        return np.full((len(rows), width), value, kind)

    batch = ThoughtBatch(
        trunk_ids_BP=zeros(shape.trunk),
        trunk_positions_BP=zeros(shape.trunk),
        trunk_segments_BP=zeros(shape.trunk),
        is_question_BP=zeros(shape.trunk, bool, False),
        supervised_BM=zeros(shape.supervised),
        trunk_labels_BM=zeros(shape.supervised, value=-1),
        last_BE=zeros(shape.examples),
        question_lengths_BE=zeros(shape.examples),
        num_latents_BE=zeros(shape.examples),
        first_labels_BE=zeros(shape.examples, value=-1),
        tail_ids_BT=zeros(shape.tail),
        tail_positions_BT=zeros(shape.tail),
        tail_segments_BT=zeros(shape.tail),
        tail_labels_BT=zeros(shape.tail, value=-1),
        matched_trunk_BE=zeros(shape.examples),
        matched_tail_BE=zeros(shape.examples),
        row_ids_B=np.arange(len(rows), dtype=np.int32),
    )
    for row, examples in enumerate(rows):
        start = (0, 0, 0)
        for slot, example in enumerate(examples):
            start = _place(batch, row, slot, example, start)
    return batch


def _place(batch, row: int, slot: int, example: ThoughtExample, start: tuple[int, int, int]):
    """Write one example into its row, from these places of trunk, trunk labels and tail on; the places after it."""
    trunk, label, tail = start
    question, teacher_ids, tail_ids = len(example.prompt_ids), example.teacher_ids, example.tail_ids
    trunk_stop, tail_stop = trunk + question + max(len(teacher_ids) - 1, 0), tail + len(tail_ids) - 1
    in_trunk, in_tail, last = slice(trunk, trunk_stop), slice(tail, tail_stop), trunk + question - 1
    labels = slice(label, label + len(teacher_ids))

    batch.trunk_ids_BP[row, in_trunk] = np.concatenate([example.prompt_ids, teacher_ids[:-1]])
    batch.trunk_positions_BP[row, in_trunk] = np.arange(trunk_stop - trunk)
    batch.trunk_segments_BP[row, in_trunk] = slot + 1
    batch.is_question_BP[row, trunk : last + 1] = True
    batch.supervised_BM[row, labels] = last + np.arange(len(teacher_ids))
    batch.trunk_labels_BM[row, labels] = teacher_ids
    batch.last_BE[row, slot] = last
    batch.question_lengths_BE[row, slot] = question
    batch.num_latents_BE[row, slot] = example.num_latents
    batch.first_labels_BE[row, slot] = tail_ids[0]
    batch.tail_ids_BT[row, in_tail] = tail_ids[:-1]
    batch.tail_positions_BT[row, in_tail] = question + example.num_latents + np.arange(tail_stop - tail)
    batch.tail_segments_BT[row, in_tail] = slot + 1
    batch.tail_labels_BT[row, in_tail] = tail_ids[1:]
    # Right before the answer's own tokens stands its prefix, or the `###` where it has none.
    from_end = example.num_answer - example.before_answer
    batch.matched_trunk_BE[row, slot] = max(trunk_stop - from_end, 0)
    batch.matched_tail_BE[row, slot] = tail_stop - from_end
    return trunk_stop, labels.stop, tail_stop
