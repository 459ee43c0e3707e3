"""The decoder a step at a time: each thought and each token of the answer is yielded as soon as it is computed.

The loops are those of `decoder.decode`, with their bodies compiled separately, so the result is the same.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx

from colar_jax.decoding.decoder import answering_loop, thinking_loop
from colar_jax.decoding.loops import AnsweringState, DecodeLimits, ThinkingState
from colar_jax.decoding.prefill import Feeder, Prefilled, prefill
from colar_jax.decoding.prompt_rows import PackedPrompts
from colar_jax.decoding.thinking import Think
from colar_jax.model.execution import Execution


@dataclasses.dataclass(frozen=True)
class StreamedStart:
    """The question was read."""

    stop_log_prob: float  # of the decision to think at all, or to answer at once
    own_speed: float = 0.0  # that the model chose for itself; 0: it was told one, or none


@dataclasses.dataclass(frozen=True)
class StreamedThought:
    """A thought that was fed."""

    record: Any  # as in `Thought`, without the axis of rollouts
    log_prob: float
    stop_log_prob: float  # of the decision after it
    is_last: bool  # that decision was to stop


@dataclasses.dataclass(frozen=True)
class StreamedToken:
    """A token of the answer; eos too, where there is one."""

    token_id: int
    log_prob: float


class Streamer:
    """Decodes one question at a time with five small programs.

    Args:
        graph: the model's graph, from `reasoner.build`.
        ways: how to think and the limits, as for `decode`, from `what`: a pytree of arrays, data to the programs.
        compute: as for `decode`.
    """

    def __init__(self, graph, ways: Callable[[Any], tuple[Think, DecodeLimits]], compute: Execution):
        def feeder(parameters, prefilled: Prefilled) -> Feeder:
            return Feeder.of(nnx.merge(graph, parameters), prefilled, compute)

        def thinking(parameters, prefilled: Prefilled, keys_B, what):
            return thinking_loop(feeder(parameters, prefilled), keys_B, *ways(what))

        def answering(parameters, prefilled: Prefilled, keys_B, what, suffix, num_thoughts_B, pace):
            of_rows = feeder(parameters, prefilled)
            before_B = of_rows.positions_of(num_thoughts_B, pace)
            return answering_loop(of_rows, suffix, before_B, keys_B, ways(what)[1])

        # A loop's start is not computed where only its step is returned.
        self._ways = ways
        self._prefill = jax.jit(
            lambda parameters, prompts, what: prefill(nnx.merge(graph, parameters), prompts, ways(what)[1], compute)
        )
        self._first_thought = jax.jit(lambda *given: thinking(*given).start)
        self._next_thought = jax.jit(lambda state, *given: thinking(*given).step(state), donate_argnums=0)
        self._first_token = jax.jit(lambda *given: answering(*given).start)
        self._next_token = jax.jit(
            lambda state, before, *given: answering(*given, state.suffix, *before).step(state),
            donate_argnums=0,
        )

    def run(
        self, parameters, prompt: PackedPrompts, key: jax.Array, what=None
    ) -> Iterator[StreamedStart | StreamedThought | StreamedToken]:
        """The start, the thoughts, then the tokens of the answer."""
        limits = self._ways(what)[1]
        most = limits.max_thoughts if limits.cut_at is None else int(limits.cut_at)
        prefilled = self._prefill(parameters, prompt, what)
        given = parameters, prefilled, key[None], what
        state = self._first_thought(*given)
        own_speed = 0.0 if prefilled.own_speeds_B is None else float(prefilled.own_speeds_B[0])
        yield StreamedStart(float(state.stop_log_probs_BL[0, 0]), own_speed)
        for number in range(int(state.step)):  # where all are made at once
            yield _thought(state, number)
        while not state.done_B[0] and state.step < most:
            state = self._next_thought(state, *given)
            yield _thought(state, int(state.step) - 1)
        yield from self._answer(given, state, limits.max_answer_tokens)

    def _answer(self, given, thinking: ThinkingState, max_tokens: int) -> Iterator[StreamedToken]:
        before = thinking.num_thoughts_B, thinking.pace
        state: AnsweringState = self._first_token(*given, thinking.suffix, *before)
        yield _last_token(state)
        while not state.done_B[0] and state.step < max_tokens:
            state = self._next_token(state, before, *given)
            yield _last_token(state)


def _thought(state: ThinkingState, number: int) -> StreamedThought:
    record = jax.tree.map(lambda buffer_BL: np.asarray(buffer_BL[0, number]), state.records)
    log_prob, stop_log_prob = state.log_probs_BL[0, number], state.stop_log_probs_BL[0, number + 1]
    is_last = bool(state.done_B[0]) and number + 1 == int(state.num_thoughts_B[0])
    return StreamedThought(record, float(log_prob), float(stop_log_prob), is_last)


def _last_token(state: AnsweringState) -> StreamedToken:
    step = int(state.step)
    return StreamedToken(int(state.ids_BA[0, step - 1]), float(state.log_probs_BA[0, step - 1]))
