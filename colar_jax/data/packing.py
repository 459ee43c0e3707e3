"""Pack examples into rows of one fixed shape, so that little of a row is padding.

Several examples share a row; segment ids keep their attention apart. Tokens are not positions: a group of
step tokens shares one. So on the device nothing has a shape that depends on the speed.
"""

import dataclasses

import jax
import numpy as np

from colar_jax.data.layout import Layout, Sizes
from colar_jax.settings.speeds import ASKED_PHASE, NO_NUMBER


@dataclasses.dataclass(frozen=True)
class RowShape:
    """What one row holds at most: positions (the compute), tokens added into them, and supervised positions."""

    positions: int
    tokens: int
    supervised: int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """`B` packed rows: the only thing that goes from the host to a training step."""

    token_ids_BT: np.ndarray  # int32
    token_positions_BT: np.ndarray  # int32, the position a token is added into; S (off the end) for padding
    scale_BS: np.ndarray  # float32, what the sum of a position's embeddings is multiplied by
    position_ids_BS: np.ndarray  # int32, counted from 0 within each example
    segment_ids_BS: np.ndarray  # int32, 1, 2, ... an example each; 0 is padding
    supervised_BM: np.ndarray  # int32, the positions whose hidden states the heads read; 0 for padding
    label_ids_BM: np.ndarray  # int32, -1 = no label
    latent_mask_BM: np.ndarray  # bool, where the latent head predicts the next position's embedding
    label_shares_BM: np.ndarray  # float32, 1 / (labels of its example) where there is one, else 0
    latent_shares_BM: np.ndarray  # float32, the same of what the latent head predicts
    # float32, `data.recipe.Told.number` at every opening separator that is told one, `NO_NUMBER` everywhere else
    speeds_BS: np.ndarray
    phases_BS: np.ndarray  # float32, what it is told of the phase of the grouping
    row_ids_B: np.ndarray  # int32, the row's number in the whole batch: what its random numbers are drawn from

    @property
    def num_examples(self) -> int:
        return int(self.segment_ids_BS.max(axis=1).sum())

    @property
    def num_tokens(self) -> int:
        """How many tokens are read, padding aside."""
        return int((self.token_positions_BT < self.segment_ids_BS.shape[1]).sum())


def pack(sizes: Sizes, shape: RowShape) -> list[list[int]]:
    """Put examples into as few rows as best-fit finds, longest first: the example numbers of each row.

    Examples that exceed a row by themselves are not in any row; `fits` tells which.
    """
    rows: list[list[int]] = []
    needs = np.stack([sizes.positions, sizes.tokens, sizes.supervised], axis=1)
    capacity = np.array([shape.positions, shape.tokens, shape.supervised])
    order = np.argsort(-sizes.positions, kind="stable")
    room = np.empty((len(order), 3), np.int64)
    for example in order[fits(sizes, shape)[order]]:
        need = needs[example]
        open_rooms = room[: len(rows)]
        left = np.where((open_rooms >= need).all(axis=1), open_rooms[:, 0], np.iinfo(np.int64).max)
        best = int(np.argmin(left)) if len(rows) else 0
        if not rows or left[best] == np.iinfo(np.int64).max:
            best = len(rows)
            rows.append([])
            room[best] = capacity
        rows[best].append(int(example))
        room[best] -= need
    return rows


def fits(sizes: Sizes, shape: RowShape) -> np.ndarray:
    """Which examples fit into a row at all, as a bool array."""
    return (
        (sizes.positions <= shape.positions) & (sizes.tokens <= shape.tokens) & (sizes.supervised <= shape.supervised)
    )


def fill(rows: list[list[Layout]], shape: RowShape, *, pooling: str = "sqrt") -> Batch:
    """The batch of `len(rows)` rows that hold these examples (a row may be empty)."""
    num_rows = len(rows)
    batch = Batch(
        token_ids_BT=np.zeros((num_rows, shape.tokens), np.int32),
        token_positions_BT=np.full((num_rows, shape.tokens), shape.positions, np.int32),
        scale_BS=np.zeros((num_rows, shape.positions), np.float32),
        position_ids_BS=np.zeros((num_rows, shape.positions), np.int32),
        segment_ids_BS=np.zeros((num_rows, shape.positions), np.int32),
        supervised_BM=np.zeros((num_rows, shape.supervised), np.int32),
        label_ids_BM=np.full((num_rows, shape.supervised), -1, np.int32),
        latent_mask_BM=np.zeros((num_rows, shape.supervised), bool),
        label_shares_BM=np.zeros((num_rows, shape.supervised), np.float32),
        latent_shares_BM=np.zeros((num_rows, shape.supervised), np.float32),
        speeds_BS=np.full((num_rows, shape.positions), NO_NUMBER, np.float32),
        phases_BS=np.full((num_rows, shape.positions), ASKED_PHASE, np.float32),
        row_ids_B=np.arange(num_rows, dtype=np.int32),
    )
    for row, layouts in enumerate(rows):
        position = token = supervised = 0
        for segment, layout in enumerate(layouts, start=1):
            S, T, M = len(layout.tokens_in_position_S), len(layout.token_ids_T), len(layout.label_ids_M)
            positions, tokens = slice(position, position + S), slice(token, token + T)
            labels = slice(supervised, supervised + M)
            batch.token_ids_BT[row, tokens] = layout.token_ids_T
            batch.token_positions_BT[row, tokens] = position + layout.token_positions_T
            batch.scale_BS[row, positions] = pooling_scale(layout.tokens_in_position_S, pooling)
            batch.position_ids_BS[row, positions] = (
                np.arange(S) if layout.position_ids_S is None else layout.position_ids_S
            )
            batch.segment_ids_BS[row, positions] = segment
            batch.supervised_BM[row, labels] = np.arange(position + S - M, position + S)
            batch.label_ids_BM[row, labels] = layout.label_ids_M
            batch.latent_mask_BM[row, labels] = layout.latent_mask_M
            batch.label_shares_BM[row, labels] = shares(layout.label_ids_M >= 0)
            batch.latent_shares_BM[row, labels] = shares(layout.latent_mask_M)
            opening = position + S - M + 1  # after the prompt's last position
            batch.speeds_BS[row, opening : opening + len(layout.told)] = layout.told
            batch.phases_BS[row, opening] = layout.phase
            position, token, supervised = position + S, token + T, supervised + M
    return batch


def shares(mask) -> np.ndarray:
    """What each place of a mask is of the whole: they add up to 1, or to 0 where the mask is empty."""
    return mask / np.float32(max(int(mask.sum()), 1))


def pooling_scale(tokens_in_position, pooling: str) -> np.ndarray:
    """1/sqrt(n) for `sqrt` (keeps the variance of an embedding), 1/n for `mean` (ablation MP)."""
    counts = np.asarray(tokens_in_position, np.float32)
    return 1 / counts if pooling == "mean" else 1 / np.sqrt(counts)
