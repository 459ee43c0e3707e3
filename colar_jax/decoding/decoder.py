"""Prefill -> think* -> answer*, as one compiled program with two `while_loop`s on one cache.

A question is prefilled once, however many rollouts it has; each rollout continues on its own suffix of the cache; each
loop ends when the last rollout has ended, or at its limit. The same loops go a step at a time in `streaming`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from colar_jax.decoding.loops import (
    ANSWER_KEYS,
    DROPOUT_KEYS,
    SPEED_KEYS,
    THOUGHT_KEYS,
    AnsweringState,
    DecodeLimits,
    Loop,
    ThinkingState,
)
from colar_jax.decoding.pacing import first_pace, following_speeds
from colar_jax.decoding.prefill import Feeder, prefill
from colar_jax.decoding.prompt_rows import PackedPrompts
from colar_jax.decoding.sampling import greedy_token, sampled_token
from colar_jax.decoding.swept import swept_loop
from colar_jax.decoding.thinking import Think
from colar_jax.model.cache import Suffix
from colar_jax.model.execution import Execution
from colar_jax.model.lora import fold_each
from colar_jax.model.reasoner import Reasoner


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoded:
    """What `B = C * G` rollouts did; rollout `b` belongs to question `b // G`.

    `L` and `A` are the most thoughts and answer tokens.
    Entries at and after a rollout's end (`num_thoughts_B`, `num_answer_tokens_B`) are meaningless.
    """

    thoughts: Any  # the records of the thoughts, a pytree of [B, L, ...]
    thought_log_probs_BL: jax.Array
    stop_log_probs_BL: jax.Array  # [B, L + 1]: of every decision to go on, and of the one to stop
    num_thoughts_B: jax.Array  # how many were fed
    forced_stop_B: jax.Array  # True where thinking was cut at the limit
    answer_ids_BA: jax.Array
    answer_log_probs_BA: jax.Array
    num_answer_tokens_B: jax.Array  # eos included; A where there was none
    key_data_BK: jax.Array | None = None  # of the rollouts' keys, where `dropout_keys` made something of them
    # float32, those that the model chose itself; 0 where it was told, None: it never does
    own_speeds_B: jax.Array | None = None
    own_log_probs_B: jax.Array | None = None  # of those, where they were drawn
    speeds_BL: jax.Array | None = None  # [B, L + 1]: of chains whose speed may change (`ThinkingState`)
    end_log_prob_B: jax.Array | None = None  # of rollouts that were cut: of the stop that they did not choose
    trim: dict[str, Any] | None = None  # `[B]` by name, of chains that were watched (`evaluation.trimming`)


def decode(
    model: Reasoner, prompts: PackedPrompts, keys_B, think: Think, limits: DecodeLimits, compute: Execution
) -> Decoded:
    """Answer `C` questions with `G` rollouts each; `keys_B` has a typed key for every rollout, `B = C * G`.

    Pure and jit-compatible; `think`, `limits` and `compute` are static.
    """
    num_rollouts = prompts.lengths_C.shape[0] * limits.num_rollouts
    assert keys_B.shape == (num_rollouts,), (keys_B.shape, num_rollouts)
    keys_C = _fold_in(keys_B[:: limits.num_rollouts], SPEED_KEYS) if limits.draws_speed else None
    prefilled = prefill(model, prompts, limits, compute, keys_C)
    feeder = Feeder.of(model, prefilled, compute, dropout_keys(keys_B) if limits.drops_out else None)
    with jax.named_scope("think"):
        thinking = thinking_loop(feeder, keys_B, think, limits)
        thinking = thinking.run() if limits.max_thoughts else thinking.start
    with jax.named_scope("answer"):
        before_B = feeder.positions_of(thinking.num_thoughts_B, thinking.pace)
        answering = answering_loop(feeder, thinking.suffix, before_B, keys_B, limits).run()
    return Decoded(
        thoughts=thinking.records,
        thought_log_probs_BL=thinking.log_probs_BL,
        stop_log_probs_BL=thinking.stop_log_probs_BL,
        num_thoughts_B=thinking.num_thoughts_B,
        forced_stop_B=~thinking.done_B,
        answer_ids_BA=answering.ids_BA,
        answer_log_probs_BA=answering.log_probs_BA,
        num_answer_tokens_B=answering.num_tokens_B,
        own_speeds_B=prefilled.own_speeds_B,
        own_log_probs_B=prefilled.own_log_probs_B,
        speeds_BL=thinking.speeds_BL,
        end_log_prob_B=thinking.next.end_log_prob_B,
        key_data_BK=jax.random.key_data(keys_B) if limits.drops_out else None,
    )


def dropout_keys(keys_B):
    """The keys of rollouts' dropout, from the rollouts' own, `[B]` or of any shape."""
    return fold_each(keys_B, DROPOUT_KEYS)


def thinking_loop(feeder: Feeder, keys_B, think: Think, limits: DecodeLimits) -> Loop:
    """The loop over `ThinkingState`, from the questions' last hidden states and an empty suffix."""
    if limits.sweeps is not None:
        return swept_loop(feeder, keys_B, think, limits)
    model, hidden_BD = feeder.model, feeder.prefilled.hidden_BD
    num_rollouts, limit = hidden_BD.shape[0], limits.max_thoughts
    cut_at = limit if limits.cut_at is None else limits.cut_at
    keys_B = _fold_in(keys_B, THOUGHT_KEYS)

    def goes_on(state: ThinkingState):
        return feeder.compute.anyone((state.step < cut_at) & ~jnp.all(state.done_B))

    def next_thought(hidden_BD, step):
        thought = think(model, hidden_BD, _fold_in(keys_B, step))
        is_decision = step >= limits.min_thoughts
        return dataclasses.replace(
            thought,
            stop_B=thought.stop_B & is_decision,
            stop_log_prob_B=jnp.where(is_decision, thought.stop_log_prob_B, 0.0),
        )

    def write(buffer_BL, values_B, step):
        return jax.lax.dynamic_update_index_in_dim(buffer_BL, values_B, step, axis=1)

    def body(state: ThinkingState) -> ThinkingState:
        thought, active_B = state.next, ~state.done_B
        hidden_BD, suffix = feeder.feed_thought(
            thought.embed_BD, state.num_thoughts_B, active_B, state.suffix, state.pace
        )
        if not limits.latents_see_question:
            hidden_BD = feeder.alone(feeder.as_fed(thought.embed_BD, state.num_thoughts_B, state.pace)[0])
        following = next_thought(hidden_BD, state.step + 1)
        pace, speeds_BL = state.pace, state.speeds_BL
        if pace is not None:
            speeds_B = following_speeds(feeder, limits, hidden_BD, pace.following_B, state.step + 1)
            pace, speeds_BL = pace.fed(speeds_B, active_B), write(speeds_BL, pace.following_B, state.step + 1)
        return ThinkingState(
            step=state.step + 1,
            suffix=suffix,
            next=following,
            done_B=state.done_B | following.stop_B,
            num_thoughts_B=state.num_thoughts_B + active_B,
            records=jax.tree.map(lambda buffer, value: write(buffer, value, state.step), state.records, thought.record),
            log_probs_BL=write(state.log_probs_BL, thought.log_prob_B, state.step),
            stop_log_probs_BL=write(state.stop_log_probs_BL, following.stop_log_prob_B, state.step + 1),
            pace=pace,
            speeds_BL=speeds_BL,
        )

    first, pace = next_thought(hidden_BD, 0), first_pace(feeder, limits)
    stop_log_probs_BL = jnp.zeros((num_rollouts, limit + 1), jnp.float32)
    start = ThinkingState(
        step=jnp.int32(0),
        suffix=feeder.empty_suffix(limits.max_thoughts + limits.max_answer_tokens),
        next=first,
        done_B=first.stop_B,
        num_thoughts_B=jnp.zeros(num_rollouts, jnp.int32),
        records=jax.tree.map(
            lambda value: jnp.zeros((num_rollouts, limit, *value.shape[1:]), value.dtype), first.record
        ),
        log_probs_BL=jnp.zeros((num_rollouts, limit), jnp.float32),
        stop_log_probs_BL=write(stop_log_probs_BL, first.stop_log_prob_B, 0),
        pace=pace,
        speeds_BL=None if pace is None else write(jnp.zeros_like(stop_log_probs_BL), pace.speeds_B, 0),
    )
    if limit == 0:  # a method without reasoning: nothing was cut off
        start = dataclasses.replace(start, done_B=jnp.ones(num_rollouts, bool))
    return Loop(start, goes_on, body)


def answering_loop(feeder: Feeder, suffix: Suffix, before_B, keys_B, limits: DecodeLimits) -> Loop:
    """The loop over `AnsweringState`, after the thoughts that `suffix` holds.

    Args:
        before_B: how many rotary positions they take (`Feeder.positions_of`).
    """
    model, dtype = feeder.model, jnp.dtype(feeder.compute.dtype)
    num_rollouts, limit = before_B.shape[0], limits.max_answer_tokens
    keys_B, everyone_B = _fold_in(keys_B, ANSWER_KEYS), jnp.ones(before_B.shape[0], bool)

    def goes_on(state: AnsweringState):
        return feeder.compute.anyone((state.step < limit) & ~jnp.all(state.done_B))

    def next_token(ids_B, step, suffix):
        """Feed a token to everyone and draw the one after it; a rollout that has ended draws what nobody reads."""
        hidden_BD, suffix = feeder.feed(model.llama.embed(ids_B, dtype), before_B + step, everyone_B, suffix)
        logits_BV = model.llama.logits(hidden_BD)
        if limits.greedy:
            return *greedy_token(logits_BV), suffix
        drawn = sampled_token(_fold_in(keys_B, step), logits_BV, limits.answer_temperature, limits.answer_top_p)
        return *drawn, suffix

    def write(buffer_BA, values_B, step):
        return jax.lax.dynamic_update_index_in_dim(buffer_BA, values_B, step, axis=1)

    def body(state: AnsweringState) -> AnsweringState:
        last_ids_B = jax.lax.dynamic_index_in_dim(state.ids_BA, state.step - 1, axis=1, keepdims=False)
        ids_B, log_probs_B, suffix = next_token(last_ids_B, state.step, state.suffix)
        return AnsweringState(
            step=state.step + 1,
            suffix=suffix,
            done_B=state.done_B | (ids_B == limits.eos_id),
            num_tokens_B=state.num_tokens_B + ~state.done_B,
            ids_BA=write(state.ids_BA, ids_B, state.step),
            log_probs_BA=write(state.log_probs_BA, log_probs_B, state.step),
        )

    separator_B = jnp.full(num_rollouts, limits.separator_id, jnp.int32)
    ids_B, log_probs_B, suffix = next_token(separator_B, 0, suffix)
    start = AnsweringState(
        step=jnp.int32(1),
        suffix=suffix,
        done_B=ids_B == limits.eos_id,
        num_tokens_B=jnp.ones(num_rollouts, jnp.int32),
        ids_BA=write(jnp.full((num_rollouts, limit), limits.eos_id, jnp.int32), ids_B, 0),
        log_probs_BA=write(jnp.zeros((num_rollouts, limit), jnp.float32), log_probs_B, 0),
    )
    return Loop(start, goes_on, body)


def _fold_in(keys_B, step):
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, step)
