"""Who sees whom in a pass through the layers, as a value: packed rows, tree rows, a decode step, blocks of keys."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from colar_jax.model import attention
from colar_jax.model.block import Attend
from colar_jax.model.cache import Prefix, Suffix, write_slot
from colar_jax.model.context import Seen, attend_blocks, bias_of, heads_first
from colar_jax.model.execution import Execution
from colar_jax.model.flash_attention import packed_attention


@dataclasses.dataclass(frozen=True)
class Visibility:
    """What `Llama.run` attends with.

    Attributes:
        attend: queries, keys and values of a layer to its output, and whatever is to be kept of the layer.
        contexts: empty, or a pytree for each layer, which `attend` then gets as `context=`: what is seen besides the
            row itself.
        reach: positions that a query sees at most, its own included; None: all of the row and of its context.
    """

    attend: Attend
    contexts: tuple = ()
    reach: int | None = None

    def reach_of(self, num_positions: int) -> int:
        """That of a pass over rows of so many positions."""
        if self.reach is not None:
            return self.reach
        # Keys and values of a layer's context, [rows, K, slots, H] each, and biases of fewer dimensions.
        slots = [leaf.shape[-2] for leaf in jax.tree.leaves(self.contexts[:1]) if leaf.ndim == 4]
        return num_positions + sum(slots) // 2


def packed(segment_ids_BT, compute: Execution, *, keeps: bool = False, longest: int | None = None) -> Visibility:
    """Packed rows: causal within a segment (0 is padding); `keeps` keys and values, as a cache holds them.

    `longest` is how many positions a segment has at most, where that is known to be less than a row's.
    """
    kernel = packed_attention(segment_ids_BT, compute.attention, splits_heads=compute.splits_heads)

    def attend(q, k, v):
        return kernel(q, k, v), (heads_first(k), heads_first(v)) if keeps else None

    return Visibility(attend, reach=longest)


def tree(trunk_lengths_B, trunk_size: int, num_branches: int, branch_size: int) -> Visibility:
    """Tree rows: a trunk of at most `P` positions, then its `G` branches of `T`.

    Every branch sees the trunk and itself, and no other branch: as if each were a row of its own with the trunk before
    it, which is computed once instead.
    """
    biases = attention.tree_mask_bias(trunk_lengths_B, trunk_size, num_branches, branch_size)
    return Visibility(lambda q, k, v: (attention.attend_tree(q, k, v, *biases), None), reach=trunk_size + branch_size)


def tree_ends(trunk_lengths_B, trunk_size: int, num_branches: int, branch_size: int, num_ends: int = 1):
    """What is read of tree rows, `[B, E + G * T]`: the last `E` positions of each trunk, and all of its branches.

    In a last layer (`llama.LastLayer`) keys and values are everywhere, as branches see their trunk; the rest is only
    computed where it is read.

    Returns:
        What picks these positions of `[B, P + G * T, ...]`, and the attention of their queries.
    """
    _, branch_bias = attention.tree_mask_bias(trunk_lengths_B, trunk_size, num_branches, branch_size)
    # A trunk of one position alone has no end before its last: that one stands for both, and nobody reads it.
    ends_BE = jnp.maximum(trunk_lengths_B[:, None] - jnp.arange(num_ends, 0, -1)[None], 0)
    is_seen_BEP = jnp.arange(trunk_size)[None, None] <= ends_BE[..., None]
    trunk_bias_BEP = jnp.where(is_seen_BEP, 0.0, attention.MASKED)

    def pick(x):
        ends = jnp.take_along_axis(x, ends_BE.reshape(*ends_BE.shape, *(1,) * (x.ndim - 2)), axis=1)
        return jnp.concatenate([ends, x[:, trunk_size:]], axis=1)

    return pick, lambda q, k, v: (attention.attend_tree(q, k, v, trunk_bias_BEP, branch_bias), None)


def tree_positions(trunk_lengths_B, trunk_size: int, num_branches: int, branch_size: int):
    """Position ids `[B, P + G * T]` of tree rows: every branch continues its trunk's."""
    in_branch_T = jnp.tile(jnp.arange(branch_size), num_branches)
    trunk_BP = jnp.broadcast_to(jnp.arange(trunk_size)[None], (trunk_lengths_B.shape[0], trunk_size))
    return jnp.concatenate([trunk_BP, trunk_lengths_B[:, None] + in_branch_T[None]], axis=1)


def cascade(prefix: Prefix, suffix: Suffix, is_real_B) -> tuple[Visibility, jax.Array]:
    """A decode step: each rollout's new position sees its question's prefix, and its own suffix with itself in it.

    What is kept of a layer is its suffix with the new position written; second, which slots are real after that.
    """
    is_real_BS = jax.lax.dynamic_update_slice(suffix.is_real_BS, is_real_B[:, None], (0, suffix.num_written))

    def attend(q, k, v, context):
        prefix_layer, suffix_layer = context
        new_layer = write_slot(suffix_layer, k, v, suffix.num_written)
        return attention.attend_cascade(q, *prefix_layer, prefix.is_real_CP, *new_layer, is_real_BS), new_layer

    reach = prefix.is_real_CP.shape[1] + suffix.is_real_BS.shape[1]
    return Visibility(attend, tuple(zip(prefix.layers, suffix.layers, strict=True)), reach), is_real_BS


def cascade_start(prefix: Prefix, suffix: Suffix, num_positions: int) -> Visibility:
    """The first `T` positions of each rollout's suffix at once: each sees its question, those before it, and itself.

    What is kept of a layer is its suffix with them written.
    """
    (num_questions, num_slots), num_rollouts = prefix.is_real_CP.shape, suffix.is_real_BS.shape[0]

    def of_rollouts(leaf_C):
        return leaf_C if num_questions == num_rollouts else jnp.repeat(leaf_C, num_rollouts // num_questions, axis=0)

    causal_TT = jnp.tril(jnp.ones((num_positions, num_positions), bool))
    prefix_bias_BTP = bias_of(
        jnp.broadcast_to(of_rollouts(prefix.is_real_CP)[:, None], (num_rollouts, num_positions, num_slots))
    )
    own_bias_BTT = bias_of(jnp.broadcast_to(causal_TT[None], (num_rollouts, num_positions, num_positions)))

    def attend(q, k, v, context):
        (prefix_k, prefix_v), suffix_layer = context
        own = heads_first(k), heads_first(v)
        before = Seen((of_rollouts(prefix_k), of_rollouts(prefix_v)), prefix_bias_BTP)
        written = tuple(
            jax.lax.dynamic_update_slice(cache, new.astype(cache.dtype), (0, 0, 0, 0))
            for cache, new in zip(suffix_layer, own, strict=True)
        )
        return attend_blocks(q, (before, Seen(own, own_bias_BTT))), written

    return Visibility(attend, tuple(zip(prefix.layers, suffix.layers, strict=True)), num_slots + num_positions)


# (keys, values and context of a layer) -> (the blocks of keys that are seen, whatever is to be kept)
BlocksOf = Callable[[jax.Array, jax.Array, Any], tuple[tuple[Seen, ...], Any]]


def blocks(blocks_of: BlocksOf, contexts: tuple) -> Visibility:
    """Several blocks of keys at once, under one softmax."""

    def attend(q, k, v, context):
        seen, kept = blocks_of(k, v, context)
        return attend_blocks(q, seen), kept

    return Visibility(attend, contexts)
