"""The decoder in chunks: the host looks at what is thought between two of them, and may end chains where it likes.

    begin -> go_on* -> answer

The loops are those of `decoder.decode`, so that without an end from outside the result is the same. An end may lie
before what is thought by then: what came after it is never seen again. One rollout a question.
"""

import dataclasses

import jax
import jax.numpy as jnp

from colar_jax.decoding.decoder import Decoded, answering_loop, thinking_loop
from colar_jax.decoding.loops import DecodeLimits, ThinkingState
from colar_jax.decoding.prefill import Feeder, Prefilled, prefill
from colar_jax.decoding.prompt_rows import PackedPrompts
from colar_jax.decoding.thinking import Think
from colar_jax.model.execution import Execution
from colar_jax.model.reasoner import Reasoner

NO_END = jnp.iinfo(jnp.int32).max  # instead of a number of thoughts: the chain is left alone


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Paused:
    """A batch between two chunks. Every leaf has an axis of rows; what is a scalar on a device has one row there."""

    prefilled: Prefilled
    keys_B: jax.Array
    thinking: ThinkingState


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Glimpse:
    """What the host sees of a pause. Entries of `words_BL` after a chain's end are meaningless."""

    words_BL: jax.Array  # the ids that were thought
    num_thoughts_B: jax.Array
    done_B: jax.Array


def begin(
    model: Reasoner, prompts: PackedPrompts, keys_B, think: Think, limits: DecodeLimits, compute: Execution
) -> Paused:
    """Read the questions. `limits.max_answer_tokens` has room for all that is fed after thinking."""
    prefilled = prefill(model, prompts, limits, compute)
    start = thinking_loop(Feeder.of(model, prefilled, compute), keys_B, think, limits).start
    return Paused(prefilled, keys_B, _with_axis(start))


def go_on(
    model: Reasoner, paused: Paused, ends_B, think: Think, limits: DecodeLimits, compute: Execution
) -> tuple[Paused, Glimpse]:
    """End chains after `ends_B` of their thoughts (or `NO_END`), then think until `limits.cut_at` at most."""
    feeder = Feeder.of(model, paused.prefilled, compute)
    loop = thinking_loop(feeder, paused.keys_B, think, limits)
    loop = dataclasses.replace(loop, start=ended(_without_axis(paused.thinking), ends_B))
    state = loop.run()
    glimpse = Glimpse(state.records, state.num_thoughts_B, state.done_B)
    return dataclasses.replace(paused, thinking=_with_axis(state)), glimpse


def answer(model: Reasoner, paused: Paused, ends_B, cue_ids, limits: DecodeLimits, compute: Execution) -> Decoded:
    """The answers, after a last round of ends; chains that were ended from outside are fed `cue_ids` before `###`.

    A cue takes positions and is no thought: `num_thoughts_B` is without it.
    """
    feeder = Feeder.of(model, paused.prefilled, compute)
    thinking = ended(_without_axis(paused.thinking), ends_B)
    assert thinking.pace is None, "an end that is set from outside knows nothing of speeds"
    is_cued_B, suffix, before_B = ends_B < NO_END, thinking.suffix, feeder.positions_of(thinking.num_thoughts_B)
    for token_id in cue_ids:
        embeds_BD = model.llama.embed(jnp.full(len(before_B), token_id), jnp.dtype(compute.dtype))
        _, suffix = feeder.feed(embeds_BD, before_B, is_cued_B, suffix)
        before_B += is_cued_B
    answering = answering_loop(feeder, suffix, before_B, paused.keys_B, limits).run()
    return Decoded(
        thoughts=None,
        thought_log_probs_BL=thinking.log_probs_BL,
        stop_log_probs_BL=thinking.stop_log_probs_BL,
        num_thoughts_B=thinking.num_thoughts_B,
        forced_stop_B=~thinking.done_B,
        answer_ids_BA=answering.ids_BA,
        answer_log_probs_BA=answering.log_probs_BA,
        num_answer_tokens_B=answering.num_tokens_B,
        own_speeds_B=paused.prefilled.own_speeds_B,
    )


def ended(state: ThinkingState, ends_B) -> ThinkingState:
    """The state with chains over after `ends_B` of their thoughts: thought `i` is in slot `i` of its suffix."""
    is_ended_B, suffix = ends_B < NO_END, state.suffix
    num_slots = suffix.is_real_BS.shape[1]
    is_kept_BS = ~is_ended_B[:, None] | (jnp.arange(num_slots)[None] < ends_B[:, None])
    return dataclasses.replace(
        state,
        suffix=dataclasses.replace(suffix, is_real_BS=suffix.is_real_BS & is_kept_BS),
        done_B=state.done_B | is_ended_B,
        num_thoughts_B=jnp.where(is_ended_B, jnp.minimum(ends_B, state.num_thoughts_B), state.num_thoughts_B),
    )


def _with_axis(state: ThinkingState) -> ThinkingState:
    """With scalars as rows: each device counts its own steps."""
    suffix = dataclasses.replace(state.suffix, num_written=state.suffix.num_written[None])
    return dataclasses.replace(state, step=state.step[None], suffix=suffix)


def _without_axis(state: ThinkingState) -> ThinkingState:
    suffix = dataclasses.replace(state.suffix, num_written=state.suffix.num_written[0])
    return dataclasses.replace(state, step=state.step[0], suffix=suffix)
