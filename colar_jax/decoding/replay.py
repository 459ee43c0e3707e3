"""Answer after given thoughts: what a causal test changes in a chain, and nothing else, makes the difference."""

import jax
import jax.numpy as jnp

from colar_jax.decoding.decoder import AnsweringState, DecodeLimits, answering_loop
from colar_jax.decoding.prefill import feeder, prefill
from colar_jax.decoding.prompt_rows import PackedPrompts
from colar_jax.model.cache import Suffix
from colar_jax.model.reasoner import Reasoner


def answer_after(
    model: Reasoner, prompts: PackedPrompts, embeds_BLD, num_thoughts_B, keys_B, limits: DecodeLimits, *, dtype
) -> AnsweringState:
    """What `decode` would answer if its thoughts had been the first `num_thoughts_B` of `embeds_BLD`.

    The embeddings are fed as they are: in units of the token embeddings. Pure and jit-compatible; `limits` is static,
    and its `num_rollouts` is 1.
    """
    prefilled = prefill(model, prompts, limits.num_rollouts, dtype)
    feed = feeder(model, prefilled)
    num_rollouts, num_slots, _ = embeds_BLD.shape
    suffix = Suffix.empty(prefilled.prefix, num_rollouts, num_slots + limits.max_answer_tokens)

    def feed_thought(step, suffix):
        embeds_BD = jax.lax.dynamic_index_in_dim(embeds_BLD, step, axis=1, keepdims=False)
        _, suffix = feed(embeds_BD.astype(dtype), jnp.minimum(step, num_thoughts_B), step < num_thoughts_B, suffix)
        return suffix

    with jax.named_scope("replay"):
        suffix = jax.lax.fori_loop(0, jnp.max(num_thoughts_B), feed_thought, suffix)
    with jax.named_scope("answer"):
        return answering_loop(model, suffix, num_thoughts_B, keys_B, feed, limits, dtype).run()
