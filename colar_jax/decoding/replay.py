"""Answer after given thoughts. Causal tests use it: only the thoughts that they changed differ from a plain decode."""

import jax
import jax.numpy as jnp

from colar_jax.decoding.decoder import AnsweringState, DecodeLimits, answering_loop
from colar_jax.decoding.prefill import Feeder, prefill
from colar_jax.decoding.prompt_rows import PackedPrompts
from colar_jax.model.execution import Execution
from colar_jax.model.reasoner import Reasoner


def answer_after(
    model: Reasoner,
    prompts: PackedPrompts,
    embeds_BLD,
    num_thoughts_B,
    keys_B,
    limits: DecodeLimits,
    compute: Execution,
) -> AnsweringState:
    """What `decode` would answer if its thoughts had been the first `num_thoughts_B` of `embeds_BLD`.

    The embeddings are fed as they are: in units of the token embeddings. Pure and jit-compatible; `limits`, whose
    `num_rollouts` is 1, and `compute` are static.
    """
    feeder = Feeder.of(model, prefill(model, prompts, limits, compute), compute)
    dtype = jnp.dtype(compute.dtype)

    def feed_thought(step, suffix):
        embeds_BD = jax.lax.dynamic_index_in_dim(embeds_BLD, step, axis=1, keepdims=False)
        index_B, is_real_B = jnp.minimum(step, num_thoughts_B), step < num_thoughts_B
        return feeder.feed_thought(embeds_BD.astype(dtype), index_B, is_real_B, suffix)[1]

    with jax.named_scope("replay"):
        suffix = feeder.empty_suffix(embeds_BLD.shape[1] + limits.max_answer_tokens)
        suffix = jax.lax.fori_loop(0, jnp.max(num_thoughts_B), feed_thought, suffix)
    with jax.named_scope("answer"):
        return answering_loop(feeder, suffix, num_thoughts_B, keys_B, limits).run()
