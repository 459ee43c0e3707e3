"""Rollouts on the devices: each prompt prefilled once, its generations decoded from one cache.

What is sampled for a rollout depends only on the iteration, the prompt's place in it and the rollout's number. It does
not depend on how many prompts are decoded at a time, nor on the number of devices.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from colar_jax.config import DecodeConfig
from colar_jax.data.encoding import Prompt
from colar_jax.decoding.decoder import Decoded
from colar_jax.decoding.loops import DecodeLimits
from colar_jax.decoding.prompt_rows import PromptShape, pack_prompts, shape_for, with_room_for
from colar_jax.decoding.thinking import Think
from colar_jax.engine import Engine
from colar_jax.errors import UserError
from colar_jax.evaluation.decode_program import TracedDecode
from colar_jax.methods.method import Method, decode_limits
from colar_jax.parallel.hosts import fetch
from colar_jax.rl.annealing import Annealed
from colar_jax.settings.speeds import AUTO_NUMBER

WaysToSample = tuple[Think, DecodeLimits]


class ControlTokens(Protocol):
    """Of a vocabulary, the tokens that end something."""

    separator_id: int  # the reasoning
    eos_id: int  # the answer


def ways_to_sample(
    engine: Engine,
    method: Method,
    sampling: DecodeConfig,
    vocabulary: ControlTokens,
    *,
    num_generations: int,
    drops_out: bool = False,
    at: Annealed | None = None,
) -> tuple[Think, DecodeLimits]:
    """How a method's rollouts are sampled, `num_generations` of each prompt; `min_latent_std` is the policy's floor.

    `at` may be traced: what it has is data to the program. With `drops_out` the adapters' dropout is on, one mask a
    rollout.
    """
    if at is not None:
        changed = {"min_latent_std": at.min_std, "stop_odds_temperature": at.stop_odds_temperature}
        sampling = TracedDecode(**vars(sampling) | changed)
    if not sampling.latents_see_question:
        raise UserError("decode.latents_see_question=False is for evaluating: rollouts see their question")
    thinking = method.rollout_thinking(sampling, vocabulary.separator_id)
    limits = decode_limits(
        thinking,
        sampling,
        separator_id=vocabulary.separator_id,
        eos_id=vocabulary.eos_id,
        greedy=False,
        num_rollouts=num_generations,
    )
    limits = dataclasses.replace(limits, drops_out=drops_out, draws_speed=method.chooses_speed)
    return thinking.think, limits if at is None else dataclasses.replace(limits, cut_at=at.cut_at)


class Sampler:
    """Samples rollouts with one compiled program.

    Args:
        ways: as `ways_to_sample` gives them.
        ways_at: the same of what is annealed, for a stage in which anything is.
        batch_size: prompts decoded at a time, over all devices.
        prompt_lengths: of all prompts that may come (separator included): the program has room for the longest.
    """

    def __init__(
        self,
        engine: Engine,
        ways: WaysToSample,
        *,
        batch_size: int,
        prompt_lengths: np.ndarray,
        ways_at: Callable[[Annealed], WaysToSample] | None = None,
    ):
        _, limits = ways
        self._engine = engine = engine.for_decoding
        self._num_generations = limits.num_rollouts
        self._shard_size = -(-batch_size // engine.num_shards)
        # For a batch of the longest prompts. A batch that still needs more rows gets them, and a program of its own.
        longest = np.sort(prompt_lengths)[::-1][: self._shard_size]
        self._shape: PromptShape = shape_for([longest])
        self._program = engine.compile_decode(lambda at: ways if at is None else ways_at(at), keeps_thoughts=True)

    @property
    def prompt_room(self) -> int:
        """The longest prompt that fits."""
        return self._shape.width

    def lower(self, parameters) -> jax.stages.Lowered:
        """The program of a part, not compiled yet, for parameters that may be shapes alone."""
        return self._program.lower(parameters, *self._shapes_of_rows())

    def shapes(self, parameters) -> Decoded:
        """Of what that program gives."""
        return self._program.eval_shape(parameters, *self._shapes_of_rows())

    def _shapes_of_rows(self):
        shards = self._engine.num_shards
        shard = pack_prompts([Prompt(np.zeros(1, np.int32), AUTO_NUMBER)] * self._shard_size, self._shape)
        prompts = jax.tree.map(lambda *parts: np.concatenate(parts), *[shard] * shards)
        num_rollouts = self._shard_size * shards * self._num_generations
        keys_B = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), num_rollouts))
        return self._engine.shapes_of_rows((prompts, keys_B))

    def run(
        self, parameters, prompts: Sequence[Prompt | np.ndarray], key: jax.Array, at: Annealed | None = None
    ) -> Iterator[tuple[slice, Decoded]]:
        """The rollouts of these prompts (separator included) on the host, in parts, each with the prompts it is of.

        All parts are under way when the first is handed out: the caller judges one while the devices decode the next.
        """
        parameters, batch_size = self._engine.placed(parameters), self._shard_size * self._engine.num_shards
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(len(prompts) * self._num_generations))
        keys = keys.reshape(len(prompts), self._num_generations)
        pending = []
        for start in range(0, len(prompts), batch_size):
            part = slice(start, min(start + batch_size, len(prompts)))
            # The last part is filled up with its last prompt.
            filled = np.arange(start, start + batch_size).clip(max=len(prompts) - 1)
            keys_B = keys[filled].reshape(-1)
            pending.append((part, self._start(parameters, [prompts[i] for i in filled], keys_B, at)))
        for part, decoded in pending:
            num_rollouts = (part.stop - part.start) * self._num_generations
            yield part, jax.tree.map(lambda leaf, num=num_rollouts: leaf[:num], fetch(decoded))

    def _start(self, parameters, prompts: Sequence[Prompt | np.ndarray], keys_B, at: Annealed | None) -> Decoded:
        shards = [prompts[i : i + self._shard_size] for i in range(0, len(prompts), self._shard_size)]
        shape = self._shape
        for shard in shards:
            shape = with_room_for(shape, np.array([len(prompt) for prompt in shard]))
        packed = [pack_prompts(shard, shape) for shard in shards]
        packed = jax.tree.map(lambda *parts: np.concatenate(parts), *packed)
        return self._program(parameters, *self._engine.put_rows((packed, keys_B)), at)
