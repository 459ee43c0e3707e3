"""Answer after given thoughts. Causal tests use it: only the thoughts that they changed differ from a plain decode."""

import dataclasses

import jax
import jax.numpy as jnp

from colar_jax.decoding.decoder import answering_loop
from colar_jax.decoding.loops import AnsweringState, DecodeLimits
from colar_jax.decoding.prefill import Feeder, prefill
from colar_jax.decoding.prompt_rows import PackedPrompts
from colar_jax.model.execution import Execution
from colar_jax.model.reasoner import Reasoner
from colar_jax.model.timeline import VaryingSpeed


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FedThoughts:
    """The embeddings that `B` chains fed, in units of the token embeddings; those after a chain's end mean nothing."""

    embeds_BLD: jax.Array
    num_thoughts_B: jax.Array
    speeds_BL: jax.Array | None = None  # `Decoded.speeds_BL`, of chains whose speed changes; None: each has one
    # `Decoded.own_speeds_B`, of chains whose speed the model chose: questions are told those, and choose none
    own_speeds_B: jax.Array | None = None


def answer_after(
    model: Reasoner, prompts: PackedPrompts, given: FedThoughts, keys_B, limits: DecodeLimits, compute: Execution
) -> AnsweringState:
    """What `decode` would answer if its thoughts had been those that are given, fed as they are.

    Pure and jit-compatible; `limits`, whose `num_rollouts` is 1, and `compute` are static.
    """
    embeds_BLD, num_thoughts_B, speeds_BL = given.embeds_BLD, given.num_thoughts_B, given.speeds_BL
    own_speeds_B = given.own_speeds_B
    if own_speeds_B is not None:
        prompts = dataclasses.replace(prompts, speeds_C=jnp.where(own_speeds_B > 0, own_speeds_B, prompts.speeds_C))
    feeder = Feeder.of(model, prefill(model, prompts, limits, compute), compute)
    dtype = jnp.dtype(compute.dtype)

    def feed_thought(step, fed):
        suffix, pace = fed
        embeds_BD = jax.lax.dynamic_index_in_dim(embeds_BLD, step, axis=1, keepdims=False)
        index_B, is_real_B = jnp.minimum(step, num_thoughts_B), step < num_thoughts_B
        suffix = feeder.feed_thought(embeds_BD.astype(dtype), index_B, is_real_B, suffix, pace)[1]
        if pace is not None:
            pace = pace.fed(_at(speeds_BL, step + 2), is_real_B)
        return suffix, pace

    with jax.named_scope("replay"):
        suffix = feeder.empty_suffix(embeds_BLD.shape[1] + limits.max_answer_tokens)
        pace = None if speeds_BL is None else VaryingSpeed.at_start(speeds_BL[:, 0], _at(speeds_BL, 1))
        suffix, pace = jax.lax.fori_loop(0, jnp.max(num_thoughts_B), feed_thought, (suffix, pace))
    with jax.named_scope("answer"):
        return answering_loop(feeder, suffix, feeder.positions_of(num_thoughts_B, pace), keys_B, limits).run()


def _at(speeds_BL, number):
    """The speed of a thought, `[B]`; of one after the last any."""
    return jax.lax.dynamic_index_in_dim(speeds_BL, number, axis=1, keepdims=False)
