"""Thoughts that are made all at once: Jacobi sweeps over the recurrence that others think one after the other.

A thought is what `think` makes of the hidden state before it, so `L` of them take `L` passes of one position. A sweep
runs all `L` positions in one pass and makes each thought anew of what the pass before had there; the first pass has
`###` in every place. After sweep t the first t thoughts are those of the recurrence (PCCoT, arXiv 2506.18582).
"""

import jax
import jax.numpy as jnp

from colar_jax.decoding.loops import THOUGHT_KEYS, DecodeLimits, Loop, ThinkingState
from colar_jax.decoding.prefill import Feeder
from colar_jax.decoding.thinking import Think, Thought


def swept_loop(feeder: Feeder, keys_B, think: Think, limits: DecodeLimits) -> Loop:
    """The loop over `ThinkingState` of thoughts that are made all at once: it has ended where it starts.

    `limits.sweeps` passes after that over `###`; with none of them one pass, of whatever `think` feeds.
    """
    model, first_BD = feeder.model, feeder.prefilled.hidden_BD
    num_rollouts, count = first_BD.shape[0], limits.max_thoughts
    keys_BL = _keys(_keys(keys_B, THOUGHT_KEYS), jnp.arange(count))
    room = count + limits.max_answer_tokens

    def thoughts_after(hidden_BLD) -> Thought:
        before_BLD = jnp.concatenate([first_BD[:, None], hidden_BLD[:, :-1]], axis=1)
        thought = think(model, before_BLD.reshape(num_rollouts * count, -1), keys_BL.reshape(-1))
        return jax.tree.map(lambda leaf: leaf.reshape(num_rollouts, count, *leaf.shape[1:]), thought)

    def run(embeds_BLD):
        hidden_BLD, suffix = feeder.feed_all(embeds_BLD, room)
        if not limits.latents_see_question:
            hidden_BLD = feeder.alone(embeds_BLD.reshape(num_rollouts * count, -1)).reshape(hidden_BLD.shape)
        return hidden_BLD, suffix

    hidden_BLD = jnp.broadcast_to(first_BD[:, None], (num_rollouts, count, first_BD.shape[1]))
    if limits.sweeps:
        separator_BL = jnp.full((num_rollouts, count), limits.separator_id, jnp.int32)
        hidden_BLD, _ = run(model.llama.embed(separator_BL, first_BD.dtype))
        hidden_BLD = jax.lax.fori_loop(
            1, limits.sweeps, lambda _, hidden: run(thoughts_after(hidden).embed_BD)[0], hidden_BLD
        )
    thoughts = thoughts_after(hidden_BLD)
    hidden_BLD, suffix = run(thoughts.embed_BD)
    everyone_B = jnp.ones(num_rollouts, bool)
    ended = ThinkingState(
        step=jnp.int32(count),
        suffix=suffix,
        next=think(model, hidden_BLD[:, -1], _keys(_keys(keys_B, THOUGHT_KEYS), count)),
        done_B=everyone_B,
        num_thoughts_B=jnp.full(num_rollouts, count, jnp.int32),
        records=thoughts.record,
        log_probs_BL=thoughts.log_prob_B,
        stop_log_probs_BL=jnp.zeros((num_rollouts, count + 1), jnp.float32),
    )
    return Loop(ended, lambda state: ~jnp.all(state.done_B), lambda state: state)


def _keys(keys_B, data):
    """Keys folded with a number, `[B]`, or with each of `L` numbers, `[B, L]`."""
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    return fold(keys_B, data) if jnp.ndim(data) == 0 else jax.vmap(fold, in_axes=(None, 0), out_axes=1)(keys_B, data)
