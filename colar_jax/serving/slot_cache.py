"""The cache of slots: each slot's question, thoughts and answer one after the other, at their own positions.

What a slot attends to, and in which order it is summed, depends on itself alone: not on when it was filled, nor on who
is in the slots beside it.
"""

import jax.numpy as jnp

from colar_jax.model.attention import attend
from colar_jax.model.cache import LayerCache
from colar_jax.model.context import Seen, attend_blocks, bias_of, heads_first
from colar_jax.model.llama import LastLayer, Reading
from colar_jax.model.visibility import Visibility, packed


def own_positions(layers: tuple[LayerCache, ...], positions_B) -> Visibility:
    """A step of all slots: each writes its `positions_B`, and sees what it wrote up to there. Kept: a layer's cache."""
    room = layers[0][0].shape[2]
    positions_B = jnp.minimum(positions_B, room - 1)  # of idle slots, whose positions mean nothing
    bias_BTS = bias_of(jnp.arange(room)[None, None] <= positions_B[:, None, None])
    rows_B = jnp.arange(positions_B.shape[0])

    def write(cache_BKSH, new_B1KH):
        at = cache_BKSH.at[rows_B, :, positions_B]
        return at.set(new_B1KH[:, 0].astype(cache_BKSH.dtype), unique_indices=True, mode="promise_in_bounds")

    def see(q, k, v, context):
        written = write(context[0], k), write(context[1], v)
        return attend_blocks(q, (Seen(written, bias_BTS),)), written

    return Visibility(see, layers, reach=room)  # the new position is one of the room


def questions(is_real_RP, lengths_R, compute) -> tuple[Visibility, Reading]:
    """A pass over questions, one a row, right-padded; of its last layer only each question's end is computed."""
    sees = packed(is_real_RP.astype(jnp.int32), compute, keeps=True)
    bias_R1P = bias_of(is_real_RP)[:, None]

    def pick(x):
        return jnp.take_along_axis(x, (lengths_R - 1).reshape(-1, *(1,) * (x.ndim - 1)), axis=1)

    def see_whole_question(q, k, v):
        return attend(q, k, v, bias_R1P), (heads_first(k), heads_first(v))

    return sees, Reading(last=LastLayer(pick, see_whole_question))


def put_question(cache_BKSH, question_RKPH, rows_R):
    """A cache with each question in the slot that `rows_R` says; one beyond the last slot goes nowhere."""
    num_positions = min(cache_BKSH.shape[2], question_RKPH.shape[2])  # the padding may be longer than the room
    new_RKPH = question_RKPH[:, :, :num_positions].astype(cache_BKSH.dtype)
    return cache_BKSH.at[rows_R, :, :num_positions].set(new_RKPH, mode="drop")


def resized(leaf_B, num_slots: int, room: int):
    """What the first `num_slots` slots hold; of a cache `[B, K, S, H]`, with so much room. Zeros where it is larger.

    Args:
        room: 0 for what is no cache.
    """
    cut = leaf_B[:num_slots, :, :room] if room else leaf_B[:num_slots]
    missing = [num_slots - cut.shape[0], *(0,) * (cut.ndim - 1)]
    if room:
        missing[2] = room - cut.shape[2]
    return jnp.pad(cut, [(0, count) for count in missing])
