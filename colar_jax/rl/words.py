"""Reinforcement learning of chains of thought in words: the chain, `###` and the answer are tokens of one answer.

    decoded as   q | # s1 ... sn # a1 ... am eos      no latents; what follows the question's own end is the answer

So rollouts, tree rows and updates are those of latents with none of them. `###` is the first token that is fed, as it
opens every chain, and the second `###` is drawn: what is thought, where thinking ends and what is answered are actions
of one kind.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from colar_jax.config import DecodeConfig
from colar_jax.data.encoding import Prompt
from colar_jax.decoding.decoder import Decoded
from colar_jax.methods import Method
from colar_jax.methods.cot import Cot
from colar_jax.methods.method import Thinking
from colar_jax.methods.no_cot import NoCot


@dataclasses.dataclass(frozen=True)
class Said:
    """What rollouts said: their chains' lengths, and the tokens of their answers."""

    lengths_B: np.ndarray  # #L
    forced_B: np.ndarray  # bool: the chain was cut at the limit
    answer_ids_BA: np.ndarray
    num_answer_tokens_B: np.ndarray


def said_in_latents(decoded: Decoded) -> Said:
    """Of chains of latents: what the decoder says."""
    return Said(decoded.num_thoughts_B, decoded.forced_stop_B, decoded.answer_ids_BA, decoded.num_answer_tokens_B)


class SaidInWords:
    """Of chains in words: the tokens before the first `###`, and those after it.

    Args:
        limit: of a chain, in tokens. One without `###` by then has no answer, and was cut there if nothing else ended
            it.
        max_answer_tokens: after these a validation cuts an answer. A rollout whose chain is short has room for more.
    """

    def __init__(self, separator_id: int, eos_id: int, limit: int, max_answer_tokens: int):
        self._separator_id, self._eos_id = separator_id, eos_id
        self._limit, self._max_answer_tokens = limit, max_answer_tokens

    def __call__(self, decoded: Decoded) -> Said:
        ids_BA, num_tokens_B = decoded.answer_ids_BA, decoded.num_answer_tokens_B
        size, place_1A = ids_BA.shape[1], np.arange(ids_BA.shape[1])[None]
        is_end_BA = (ids_BA == self._separator_id) & (place_1A < num_tokens_B[:, None])
        has_end_B = is_end_BA[:, : self._limit + 1].any(axis=1)
        ends_B = np.where(has_end_B, is_end_BA.argmax(axis=1), num_tokens_B)
        after_BA = np.minimum(ends_B[:, None] + 1 + place_1A, size - 1)
        last_ids_B = np.take_along_axis(ids_BA, num_tokens_B[:, None] - 1, axis=1)[:, 0]
        return Said(
            lengths_B=np.minimum(ends_B, self._limit),
            forced_B=~has_end_B & ((last_ids_B != self._eos_id) | (ends_B > self._limit)),
            answer_ids_BA=np.take_along_axis(ids_BA, after_BA, axis=1),
            num_answer_tokens_B=np.where(has_end_B, np.minimum(num_tokens_B - ends_B - 1, self._max_answer_tokens), 0),
        )


@dataclasses.dataclass(frozen=True)
class _AllIsAnswer(Cot):
    """Asked as a chain of thought is; nothing is thought before the answer begins."""

    def thinking(self, decode: DecodeConfig, separator_id: int, *, greedy: bool) -> Thinking:
        return NoCot().thinking(decode, separator_id, greedy=greedy)


def thinks_in_words(method: Method, decode: DecodeConfig) -> bool:
    """Whether a method's thoughts are words, at least one."""
    return method.thinking(decode, 0, greedy=False).in_words


def as_answers(method: Method, sampling: DecodeConfig) -> tuple[Method, DecodeConfig]:
    """How rollouts of a method are decoded: as they are, or, of words, as answers without a chain.

    A chain's `max_step_tokens` take the place of `max_latents`, of which lengths are shares.
    """
    if not thinks_in_words(method, sampling):
        return method, sampling
    limit = sampling.max_step_tokens
    room = limit + 1 + sampling.max_answer_tokens
    temperature = sampling.stop_temperature  # of words
    return _AllIsAnswer(), dataclasses.replace(
        sampling, max_latents=limit, min_latents=1, max_answer_tokens=room, answer_temperature=temperature
    )


def without_separator(prompt: Prompt) -> Prompt:
    """A prompt up to the `###` that opens the chain: the decoder feeds it before an answer."""
    return dataclasses.replace(prompt, ids=prompt.ids[:-1])


def without_thoughts(decoded: Decoded) -> Decoded:
    """The rollouts with no latents, as tree rows take them."""
    return dataclasses.replace(decoded, thoughts=np.zeros((len(decoded.num_thoughts_B), 0, 1), np.float32))


ReadSaid = Callable[[Decoded], Said]
