"""The distance between the keys and values of latents and those that a teacher's evicted cache keeps (KaVa).

    L_KV = (1 / 2M) sum over the M latents of d(K_latents, sg K_kept) + d(V_latents, sg V_kept)

(arXiv 2510.02312.) Latent i is compared with the i-th kept token in the order of time; d is a mean over layers, heads
and dimensions. A chain of fewer tokens leaves the last latents without a target, which then add nothing.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from colar_jax.methods.thinking.cache_eviction import Chains, importance, kept, redundancy, unrotated
from colar_jax.methods.thinking.thought_chain import Latents, Trunk
from colar_jax.methods.thinking.thought_rows import ThoughtBatch
from colar_jax.model.execution import Execution
from colar_jax.model.llama_config import LlamaConfig

DISTANCES = {
    "smooth_l1": lambda error: jnp.where(jnp.abs(error) < 1, 0.5 * jnp.square(error), jnp.abs(error) - 0.5),
    "mse": jnp.square,
}


@dataclasses.dataclass(frozen=True)
class CacheMatching:
    """How caches are compared."""

    distance: str  # one of `DISTANCES`
    normalise: bool  # whether each layer's distance, not its error, is divided by the teacher's standard deviation
    over_batch: bool  # that of all examples of a step, or of each alone
    importance_share: float  # lambda
    keys_before_rope: bool


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Matched:
    """What a layer's latents are compared with; padding of a chain of fewer than `M` tokens is not kept."""

    teacher_keys_BKEMH: jax.Array
    teacher_values_BKEMH: jax.Array
    keys_BKEMH: jax.Array
    values_BKEMH: jax.Array
    places_BKEM: jax.Array  # int32, in the trunk, of the token that latent M is compared with
    is_kept_BKEM: jax.Array


def cache_distance(
    trunk: Trunk, latents: Latents, batch: ThoughtBatch, chains: Chains, how: CacheMatching, llama: LlamaConfig,
    compute: Execution,
):  # fmt: skip
    """L_KV of each example, float32 `[B, E]`; no gradient reaches the teacher.

    Args:
        trunk: with the queries at `chains.places_BT`.
    """
    total_BE = 0.0
    for layer in matched_caches(trunk, latents, batch, chains, how, llama):
        for teacher_BKEMH, student_BKEMH in (
            (layer.teacher_keys_BKEMH, layer.keys_BKEMH),
            (layer.teacher_values_BKEMH, layer.values_BKEMH),
        ):
            total_BE += _distance(teacher_BKEMH, student_BKEMH, layer.is_kept_BKEM, how, compute)
    return total_BE / (2 * len(latents.caches))


def matched_caches(
    trunk: Trunk, latents: Latents, batch: ThoughtBatch, chains: Chains, how: CacheMatching, llama: LlamaConfig
) -> Iterator[Matched]:
    """Of each layer what `cache_distance` compares."""
    E = batch.last_BE.shape[1]
    teacher, queries = jax.lax.stop_gradient((trunk.caches, trunk.queries))
    for layer, queries_BTNH in enumerate(queries):
        (keys_BKPH, values_BKPH), (own_keys_BKSH, own_values_BKSH) = teacher[layer], latents.caches[layer]
        looked_at_BKP = importance(queries_BTNH, keys_BKPH, batch, chains)
        if how.keys_before_rope:
            num_latents = own_keys_BKSH.shape[2] // E
            positions_BLE = batch.question_lengths_BE[:, None] + jnp.arange(num_latents)[None, :, None]
            keys_BKPH = unrotated(keys_BKPH, batch.trunk_positions_BP, llama, layer)
            own_keys_BKSH = unrotated(own_keys_BKSH, positions_BLE.reshape(len(positions_BLE), -1), llama, layer)
        share = how.importance_share
        scores_BKP = share * looked_at_BKP + (1 - share) * redundancy(keys_BKPH, chains.is_chain_BEP)
        places_BKEM, is_kept_BKEM = kept(scores_BKP, chains.is_chain_BEP, own_keys_BKSH.shape[2] // E)
        of_teacher = (_at(cache_BKPH, places_BKEM) for cache_BKPH in (keys_BKPH, values_BKPH))
        of_latents = (_by_example(cache_BKSH, E) for cache_BKSH in (own_keys_BKSH, own_values_BKSH))
        yield Matched(*of_teacher, *of_latents, places_BKEM, is_kept_BKEM)


def _at(cache_BKPH, places_BKEM):
    """What a cache holds at these places, `[B, K, E, M, H]`."""
    B, K, E, M = places_BKEM.shape
    picked = jnp.take_along_axis(cache_BKPH, places_BKEM.reshape(B, K, E * M, 1), axis=2)
    return picked.reshape(B, K, E, M, -1)


def _by_example(cache_BKSH, num_examples: int):
    """The latents' cache, whose slot `l * E + e` is latent `l` of example `e`, as `[B, K, E, M, H]`."""
    B, K, S, H = cache_BKSH.shape
    return cache_BKSH.reshape(B, K, S // num_examples, num_examples, H).transpose(0, 1, 3, 2, 4)


def _distance(teacher_BKEMH, student_BKEMH, is_kept_BKEM, how: CacheMatching, compute: Execution):
    """Of each example, a mean over latents, heads and dimensions: `[B, E]`."""
    teacher, student = teacher_BKEMH.astype(jnp.float32), student_BKEMH.astype(jnp.float32)
    is_kept_BKEM1 = is_kept_BKEM[..., None]
    each = jnp.where(is_kept_BKEM1, DISTANCES[how.distance](student - teacher), 0)
    distance_BE = jnp.mean(each, axis=(1, 3, 4))
    if how.normalise:
        distance_BE = distance_BE / jnp.maximum(_spread(teacher, is_kept_BKEM1, how.over_batch, compute), 1e-6)
    return distance_BE


def _spread(values_BKEMH, is_kept_BKEM1, over_batch: bool, compute: Execution):
    """The unbiased standard deviation of what is kept, `[1, 1]`, or of each example `[B, E]`."""
    axes = (0, 1, 2, 3, 4) if over_batch else (1, 3, 4)

    def total(x):
        summed = jnp.sum(jnp.where(is_kept_BKEM1, x, 0), axis=axes, keepdims=True)
        return compute.over_all_rows(summed) if over_batch else summed

    count = total(jnp.ones_like(values_BKEMH))
    mean = total(values_BKEMH) / jnp.maximum(count, 1)
    variance = total(jnp.square(values_BKEMH - mean)) / jnp.maximum(count - 1, 1)
    return jnp.sqrt(variance)[:, 0, :, 0, 0]
