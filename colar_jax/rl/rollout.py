"""Rollouts on the devices: each prompt prefilled once, its generations decoded from one cache.

What is drawn for a rollout depends on the iteration, the prompt's place in it and the rollout's number, and on nothing
else: not on how many prompts are decoded at a time, nor on the number of devices.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from colar_jax.config import AUTOMATIC, DecodeConfig, ModelConfig, ParallelConfig
from colar_jax.decoding.compiled import compile_decode
from colar_jax.decoding.decoder import Decoded
from colar_jax.decoding.prompt_rows import PromptShape, pack_prompts, shape_for, with_room_for
from colar_jax.methods.method import Method, decode_limits
from colar_jax.parallel.hosts import fetch
from colar_jax.parallel.mesh import num_shards, put_rows, shapes_of_rows
from colar_jax.rl.tree_batch import Rollouts

_ARRAYS = {  # of `Rollouts`, from `Decoded`
    "latents_BGLD": "thoughts",
    "latent_log_probs_BGL": "thought_log_probs_BL",
    "stop_log_probs_BGL1": "stop_log_probs_BL",
    "num_latents_BG": "num_thoughts_B",
    "forced_stop_BG": "forced_stop_B",
    "answer_ids_BGA": "answer_ids_BA",
    "answer_log_probs_BGA": "answer_log_probs_BA",
    "num_answer_tokens_BG": "num_answer_tokens_B",
}


class Sampler:
    """Samples rollouts with one compiled program.

    Args:
        graph: the model's graph, from `reasoner.build`.
        sampling: how; `min_latent_std` is the policy's floor.
        num_generations: rollouts of a prompt.
        batch_size: prompts decoded at a time, over all devices.
        prompt_lengths: of all prompts that may come (separator included): the program has room for the longest.
    """

    def __init__(
        self,
        graph,
        method: Method,
        sampling: DecodeConfig,
        compute: ModelConfig,
        mesh: Mesh,
        *,
        separator_id: int,
        eos_id: int,
        num_generations: int,
        batch_size: int,
        prompt_lengths: np.ndarray,
        parallel: ParallelConfig = AUTOMATIC,
    ):
        self._mesh, self._num_generations = mesh, num_generations
        self._shard_size = -(-batch_size // num_shards(mesh))
        # The longest prompts at once; a batch that needs more rows all the same gets them, and a program of its own.
        longest = np.sort(prompt_lengths)[::-1][: self._shard_size]
        self._shape: PromptShape = shape_for([longest])
        thinking = method.thinking(sampling, separator_id, jnp.dtype(compute.dtype), False)
        limits = decode_limits(
            thinking, sampling, separator_id=separator_id, eos_id=eos_id, greedy=False, num_rollouts=num_generations
        )

        self._program = compile_decode(
            graph, lambda _: (thinking.think, limits), compute, mesh, parallel, keeps_thoughts=True
        )

    @property
    def prompt_room(self) -> int:
        """The longest prompt that fits."""
        return self._shape.width

    def lower(self, parameters) -> jax.stages.Lowered:
        """The program of a part, not compiled yet, for parameters that may be shapes alone."""
        shards = num_shards(self._mesh)
        shard = pack_prompts([np.zeros(1, np.int32)] * self._shard_size, self._shape)
        prompts = jax.tree.map(lambda *parts: np.concatenate(parts), *[shard] * shards)
        num_rollouts = self._shard_size * shards * self._num_generations
        keys_B = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), num_rollouts))
        return self._program.lower(parameters, *shapes_of_rows((prompts, keys_B), self._mesh))

    def run(self, parameters, prompts: list[np.ndarray], key: jax.Array) -> Iterator[tuple[slice, Rollouts]]:
        """The rollouts of these prompts (separator included), in parts, each with the prompts it is of.

        All parts are under way when the first is handed out: the caller judges one while the devices decode the next.
        """
        batch_size = self._shard_size * num_shards(self._mesh)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(len(prompts) * self._num_generations))
        keys = keys.reshape(len(prompts), self._num_generations)
        pending = []
        for start in range(0, len(prompts), batch_size):
            part = slice(start, min(start + batch_size, len(prompts)))
            # The last part is filled up with its last prompt.
            filled = np.arange(start, start + batch_size).clip(max=len(prompts) - 1)
            pending.append((part, self._start(parameters, [prompts[i] for i in filled], keys[filled].reshape(-1))))
        for part, decoded in pending:
            yield part, self._on_host(prompts[part], fetch(decoded))

    def _start(self, parameters, prompts: list[np.ndarray], keys_B) -> Decoded:
        shards = [prompts[i : i + self._shard_size] for i in range(0, len(prompts), self._shard_size)]
        shape = self._shape
        for shard in shards:
            shape = with_room_for(shape, np.array([len(prompt) for prompt in shard]))
        packed = [pack_prompts(shard, shape) for shard in shards]
        packed = jax.tree.map(lambda *parts: np.concatenate(parts), *packed)
        return self._program(parameters, *put_rows((packed, keys_B), self._mesh))

    def _on_host(self, prompts: list[np.ndarray], decoded: Decoded) -> Rollouts:
        def by_prompt(array: np.ndarray) -> np.ndarray:
            return array.reshape(-1, self._num_generations, *array.shape[1:])[: len(prompts)]

        return Rollouts(prompts, **{name: by_prompt(getattr(decoded, source)) for name, source in _ARRAYS.items()})
