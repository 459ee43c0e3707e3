"""The decoder a step at a time: each thought and each token of the answer is yielded as soon as it is computed.

The loops are those of `decoder.decode`, with their bodies compiled separately, so the result is the same.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx

from colar_jax.decoding.decoder import AnsweringState, DecodeLimits, ThinkingState, answering_loop, thinking_loop
from colar_jax.decoding.prefill import Feeder, Prefilled, prefill
from colar_jax.decoding.prompt_rows import PackedPrompts
from colar_jax.decoding.thinking import Think
from colar_jax.model.execution import Execution


@dataclasses.dataclass(frozen=True)
class StreamedThought:
    """A thought that was fed."""

    record: Any  # as in `Thought`, without the axis of rollouts
    stop_log_prob: float  # of the decision after it
    is_last: bool  # that decision was to stop


class Streamer:
    """Decodes one question at a time with five small programs.

    Args:
        graph: the model's graph, from `reasoner.build`.
        think, limits, compute: as for `decode`.
    """

    def __init__(self, graph, think: Think, limits: DecodeLimits, compute: Execution):
        def feeder(parameters, prefilled: Prefilled) -> Feeder:
            return Feeder.of(nnx.merge(graph, parameters), prefilled, compute)

        def thinking(parameters, prefilled: Prefilled, keys_B):
            return thinking_loop(feeder(parameters, prefilled), keys_B, think, limits)

        def answering(parameters, prefilled: Prefilled, keys_B, suffix, num_thoughts_B):
            return answering_loop(feeder(parameters, prefilled), suffix, num_thoughts_B, keys_B, limits)

        # A loop's start is not computed where only its step is returned.
        self._limits = limits
        self._prefill = jax.jit(lambda parameters, prompts: prefill(nnx.merge(graph, parameters), prompts, 1, compute))
        self._first_thought = jax.jit(lambda *given: thinking(*given).start)
        self._next_thought = jax.jit(lambda state, *given: thinking(*given).step(state), donate_argnums=0)
        self._first_token = jax.jit(lambda *given: answering(*given).start)
        self._next_token = jax.jit(
            lambda state, num_thoughts_B, *given: answering(*given, state.suffix, num_thoughts_B).step(state),
            donate_argnums=0,
        )

    def run(self, parameters, prompt: PackedPrompts, key: jax.Array) -> Iterator[StreamedThought | int]:
        """The thoughts, then the ids of the answer's tokens (eos included, where there is one)."""
        given = parameters, self._prefill(parameters, prompt), key[None]
        state = self._first_thought(*given)
        while not state.done_B[0] and state.step < self._limits.max_thoughts:
            state = self._next_thought(state, *given)
            yield _last_thought(state)
        yield from self._answer(given, state)

    def _answer(self, given, thinking: ThinkingState) -> Iterator[int]:
        state: AnsweringState = self._first_token(*given, thinking.suffix, thinking.num_thoughts_B)
        yield int(state.ids_BA[0, 0])
        while not state.done_B[0] and state.step < self._limits.max_answer_tokens:
            state = self._next_token(state, thinking.num_thoughts_B, *given)
            yield int(state.ids_BA[0, state.step - 1])


def _last_thought(state: ThinkingState) -> StreamedThought:
    step = int(state.step)
    record = jax.tree.map(lambda buffer_BL: np.asarray(buffer_BL[0, step - 1]), state.records)
    return StreamedThought(record, float(state.stop_log_probs_BL[0, step]), bool(state.done_B[0]))
