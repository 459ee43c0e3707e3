"""One example laid out as positions: what is fed, what is predicted, and where.

    position:  q0 q1 ... qn | ### | g1 g2 ... gk | ### | a0 a1 ... am        (q: question, g: groups, a: answer)
    predicts:  -  -  ... ###| g1    g2 ... gk ###  a0    a1 ... am eos      language head: one token of what comes next
                            | g1    g2 ... gk ###                          latent head: the embedding of what comes next

Everything from the last question position on is supervised; there is no slot without a token in it.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from colar_jax.data.grouping import group_of_token, num_groups
from colar_jax.settings.speeds import ASKED_PHASE, NO_NUMBER


@dataclasses.dataclass(frozen=True)
class Layout:
    """An example of `S` positions, `T` tokens and `M` supervised positions, the last `M` ones."""

    token_ids_T: np.ndarray  # int32
    token_positions_T: np.ndarray  # int64, the position that each token is added into, never decreasing
    tokens_in_position_S: np.ndarray  # int64
    label_ids_M: np.ndarray  # int32, -1 where the language head is not supervised
    latent_mask_M: np.ndarray  # bool, where the latent head is supervised
    told: tuple[float, ...] = (NO_NUMBER,)  # numbers for the opening separator, and for the positions after it
    phase: float = ASKED_PHASE  # what that separator is told of where in its pattern the grouping begins
    position_ids_S: np.ndarray | None = None  # int64, rotary positions; None: 0, 1, 2, ...


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Positions, tokens and supervised positions of many examples, an int64 array each."""

    positions: np.ndarray
    tokens: np.ndarray
    supervised: np.ndarray

    def take(self, examples: np.ndarray) -> "Sizes":
        """The sizes of these examples only."""
        return Sizes(self.positions[examples], self.tokens[examples], self.supervised[examples])


class Supervision(NamedTuple):
    """What of the reasoning is learned; the answer always is."""

    latents: bool  # whether latents have targets
    steps: bool = True  # False (ablation OC): the tokens inside the reasoning are no labels, but its end still is


def lay_out(
    prompt_ids: np.ndarray,
    step_ids: np.ndarray,
    answer_ids: np.ndarray,
    separator_id: int,
    speed: float,
    draw_T: np.ndarray,
    supervision: Supervision,
) -> Layout:
    """Lay out question, reasoning (in groups of `speed` tokens) and answer.

    `draw_T` has a uniform number in [0, 1) for each step token; a group's label is the token picked by its first one.
    """
    group_T = group_of_token(len(step_ids), speed)
    return lay_out_groups(prompt_ids, step_ids, answer_ids, separator_id, group_T, draw_T, supervision)


def lay_out_groups(
    prompt_ids: np.ndarray,
    step_ids: np.ndarray,
    answer_ids: np.ndarray,
    separator_id: int,
    group_T: np.ndarray,
    draw_T: np.ndarray,
    supervision: Supervision,
) -> Layout:
    """As `lay_out`, with the group of each step token: 0, 0, 1, 1, ..., never decreasing and none left out."""
    sizes_G = np.bincount(group_T)
    starts_G = np.cumsum(sizes_G) - sizes_G
    drawn_G = step_ids[starts_G + (draw_T[starts_G] * sizes_G).astype(np.int64)]
    if not supervision.steps:
        drawn_G = np.full_like(drawn_G, -1)

    separator = np.array([separator_id], np.int32)
    fed_answer_ids = answer_ids[:-1]  # what follows eos is never asked for
    num_groups, opening = len(sizes_G), len(prompt_ids)
    closing = opening + 1 + num_groups
    token_positions_T = np.concatenate(
        [np.arange(opening + 1), opening + 1 + group_T, closing + np.arange(1 + len(fed_answer_ids))]
    )
    # The last question position, the opening separator and the groups; then the closing separator and the answer.
    label_ids_M = np.concatenate([separator, drawn_G, separator, answer_ids])
    latent_mask_M = np.zeros(len(label_ids_M), bool)
    latent_mask_M[1 : 2 + num_groups] = supervision.latents
    return Layout(
        token_ids_T=np.concatenate([prompt_ids, separator, step_ids, separator, fed_answer_ids]),
        token_positions_T=token_positions_T,
        tokens_in_position_S=np.bincount(token_positions_T),
        label_ids_M=label_ids_M,
        latent_mask_M=latent_mask_M,
    )


def on_timeline(layout: Layout, opening: int, ends_G1: np.ndarray) -> Layout:
    """The same example with latents on the chain's own timeline (`model.timeline`).

    Args:
        opening: the position of the opening separator.
        ends_G1: the tokens up to the end of each of the `G` groups, and of one more (`grouping.full_ends`).
    """
    num_after = len(layout.tokens_in_position_S) - opening - len(ends_G1)  # from the closing separator on
    before_G = ends_G1[:-1]
    chain_end = int(before_G[-1]) if len(before_G) else 0
    places = (np.arange(opening + 1), opening + before_G, opening + 1 + chain_end + np.arange(num_after))
    told = tuple(map(float, np.diff(ends_G1, prepend=0)))
    return dataclasses.replace(layout, told=told, position_ids_S=np.concatenate(places))


def sizes(prompt_lengths, step_lengths, answer_lengths, speeds, phases=0.0) -> Sizes:
    """The sizes that `lay_out` would give for many examples at once (all arguments are arrays of one length)."""
    groups = num_groups(step_lengths, speeds, phases)
    positions = prompt_lengths + 1 + groups + answer_lengths
    return Sizes(positions, positions - groups + step_lengths, 2 + groups + answer_lengths)
