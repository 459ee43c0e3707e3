"""Latents in a training step that are made all at once, by Jacobi sweeps (PCCoT, arXiv 2506.18582, and its code).

    pass 0:    h = model(question ### | p ... p)            p: the embedding of `###`, in the place of every latent
    T times:   z_1 = f(h(###)), z_i = f(h_{i-1});  h = model(question ### | z_1 ... z_M)

Gradients flow through all passes. After pass t the first t latents are those that are thought in turn, so T = M is
CODI; T = 0 are pauses. Decoding makes the same passes (`decoding.swept`).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from colar_jax.methods.thinking.thought_chain import Latents, Trunk, keys_of, own_question
from colar_jax.methods.thinking.thought_rows import ThoughtBatch
from colar_jax.model.context import Seen, bias_of, heads_first
from colar_jax.model.execution import Execution
from colar_jax.model.reasoner import Reasoner
from colar_jax.model.visibility import blocks


@dataclasses.dataclass(frozen=True)
class Sweeps:
    """`M` latents in `T` sweeps after the first pass; `project` makes a hidden state the next input."""

    num_latents: int
    num_sweeps: int
    project: Callable


def run_sweeps(
    model: Reasoner, trunk: Trunk, batch: ThoughtBatch, sweeps: Sweeps, compute: Execution, keys_B=None
) -> Latents:
    """The latents of every example, all of them in every pass; what the tail sees is those of the last pass."""
    (B, E), M = batch.last_BE.shape, sweeps.num_latents
    slot_examples, slot_steps = jnp.tile(jnp.arange(E), M), jnp.repeat(jnp.arange(M), E)
    question_bias_BSP = bias_of(own_question(batch)[:, slot_examples])
    is_seen_SS = (slot_examples[:, None] == slot_examples[None]) & (slot_steps[:, None] >= slot_steps[None])
    own_bias_BSS = jnp.broadcast_to(bias_of(is_seen_SS[None]), (B, *is_seen_SS.shape))
    positions_BS = batch.question_lengths_BE[:, slot_examples] + slot_steps[None]

    def seen(k, v, trunk_cache):
        own = heads_first(k), heads_first(v)
        return (Seen(trunk_cache, question_bias_BSP), Seen(own, own_bias_BSS)), own

    def run(fed_BLED, number):
        hidden_BSD, caches = model.llama.run(
            fed_BLED.reshape(B, M * E, -1),
            positions_BS,
            blocks(seen, trunk.caches),
            compute,
            dropout_keys_B=keys_of(keys_B, 2 + number),
            layers=trunk.layers,
        )
        return hidden_BSD.reshape(fed_BLED.shape), caches, fed_BLED

    def again(state, number):
        hidden_BLED, _, _ = state
        following_BLED = sweeps.project(model, hidden_BLED[:, :-1])
        return run(jnp.concatenate([first_B1ED, following_BLED], axis=1), number), None

    first_B1ED = sweeps.project(model, trunk.last_hidden_BED)[:, None]
    last_ids_BE = jnp.take_along_axis(batch.trunk_ids_BP, batch.last_BE, axis=1)
    pause_BED = model.llama.embed(last_ids_BE, first_B1ED.dtype)
    state = run(jnp.broadcast_to(pause_BED[:, None], (B, M, *pause_BED.shape[1:])), 0)
    if sweeps.num_sweeps:
        state, _ = jax.lax.scan(again, state, 1 + jnp.arange(sweeps.num_sweeps))
    hidden_BLED, caches, fed_BLED = state
    return Latents(fed_BLED, hidden_BLED[:, -1], caches)
