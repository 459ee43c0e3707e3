"""The key-value cache of a decode: a prefix that is written once, and a suffix that grows by one slot a step.

The prefix is the question, right-padded, one copy for all rollouts of a question; nothing is ever prefilled twice. The
suffix is everything after it. All rollouts write the same slot at the same step; a rollout that sat a step out (its
reasoning had ended, another's had not) has `is_real` False there, so slots need not be compacted.
"""

import dataclasses

import jax
import jax.numpy as jnp

# One layer's keys and values, [rows, K, slots, H] each.
LayerCache = tuple[jax.Array, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prefix:
    """Keys and values of `C` prefilled questions; never written after the prefill."""

    layers: tuple[LayerCache, ...]  # per layer, [C, K, P, H] twice
    is_real_CP: jax.Array  # False at padding

    @classmethod
    def of_rows(cls, layers: tuple[LayerCache, ...], slots_CP, lengths_C) -> "Prefix":
        """From caches of packed rows, `[R, K, S, H]`: `slots_CP` says where a question lies in the flattened rows."""

        def own_part(cache_RKSH):
            flat = cache_RKSH.transpose(0, 2, 1, 3).reshape(-1, *cache_RKSH.shape[1::2])  # [R * S, K, H]
            return flat[slots_CP].transpose(0, 2, 1, 3)

        is_real_CP = jnp.arange(slots_CP.shape[1])[None] < lengths_C[:, None]
        return cls(tuple((own_part(k), own_part(v)) for k, v in layers), is_real_CP)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Suffix:
    """Keys and values of what each of `B` rollouts fed after its question."""

    layers: tuple[LayerCache, ...]  # per layer, [B, K, S, H] twice
    is_real_BS: jax.Array  # False at slots not yet written, or written while the rollout sat out
    num_written: jax.Array  # int32 scalar: the slot that the next step writes

    @classmethod
    def empty(cls, prefix: Prefix, num_rollouts: int, num_slots: int) -> "Suffix":
        """An all-unwritten suffix with the heads and the dtype of `prefix`."""

        def layer(key_CKPH):
            _, K, _, H = key_CKPH.shape
            return jnp.zeros((num_rollouts, K, num_slots, H), key_CKPH.dtype)

        layers = tuple((layer(k), layer(v)) for k, v in prefix.layers)
        return cls(layers, jnp.zeros((num_rollouts, num_slots), bool), jnp.int32(0))


def write_slot(layer: LayerCache, k_B1KH, v_B1KH, slot) -> LayerCache:
    """One layer's cache with a step's keys and values at `slot` of every rollout."""

    def write(cache_BKSH, new_B1KH):
        return jax.lax.dynamic_update_slice(cache_BKSH, new_B1KH.transpose(0, 2, 1, 3), (0, 0, slot, 0))

    return write(layer[0], k_B1KH), write(layer[1], v_B1KH)
