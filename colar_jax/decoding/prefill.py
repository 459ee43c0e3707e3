"""Read questions, and go on from them a position at a time."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from colar_jax.decoding.prompt_rows import PackedPrompts
from colar_jax.model.cache import Prefix, Suffix
from colar_jax.model.reasoner import Reasoner, embed_positions


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prefilled:
    """What questions leave behind for their `B` rollouts: read at every later step, and never changed."""

    prefix: Prefix
    hidden_BD: jax.Array  # after the opening separator
    lengths_B: jax.Array  # of the questions, the separator included


# (embeds_BD, positions fed before, which rollouts take part, suffix) -> hidden_BD, suffix
Feed = Callable[[jax.Array, jax.Array, jax.Array, Suffix], tuple[jax.Array, Suffix]]


def prefill(model: Reasoner, prompts: PackedPrompts, num_rollouts: int, dtype) -> Prefilled:
    """Read each question once, for `num_rollouts` rollouts."""
    with jax.named_scope("prefill"):
        positions_RS = jnp.broadcast_to(jnp.arange(prompts.token_ids_RS.shape[1]), prompts.token_ids_RS.shape)
        ones_RS = jnp.ones(prompts.token_ids_RS.shape, jnp.float32)
        embeds_RSD = embed_positions(model.llama.embedding[...], prompts.token_ids_RS, positions_RS, ones_RS, dtype)
        hidden_CD, prefix = model.llama.prefill(
            embeds_RSD, prompts.position_ids_RS, prompts.segment_ids_RS, prompts.slots_CP, prompts.lengths_C
        )
    hidden_BD = jnp.repeat(hidden_CD, num_rollouts, axis=0)
    return Prefilled(prefix, hidden_BD, jnp.repeat(prompts.lengths_C, num_rollouts))


def feeder(model: Reasoner, prefilled: Prefilled) -> Feed:
    """The function that feeds one more position to every rollout; the layers are sliced out of their stack here."""
    layers = model.llama.unstacked_blocks()

    def feed(embeds_BD, num_fed_B, is_real_B, suffix):
        position_ids_B = prefilled.lengths_B + num_fed_B
        return model.llama.decode(layers, embeds_BD, position_ids_B, is_real_B, prefilled.prefix, suffix)

    return feed
