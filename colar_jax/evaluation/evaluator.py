"""Decode a set of problems with one method, and judge every answer."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from colar_jax.config import AUTOMATIC, DecodeConfig, ModelConfig, ParallelConfig
from colar_jax.data.answers import VERIFIERS, extract_answer
from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.prompts import Speed
from colar_jax.data.tokenizers import Tokenizer
from colar_jax.decoding.compiled import compile_decode
from colar_jax.decoding.decoder import Decoded
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.methods import Method
from colar_jax.methods.method import decode_limits
from colar_jax.parallel.hosts import fetch
from colar_jax.parallel.mesh import ROWS, num_shards, put_rows


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What became of each of `N` questions."""

    predictions: list[str]  # the extracted answers
    texts: list[str]  # the whole text after the reasoning
    right_N: np.ndarray  # bool
    lengths_N: np.ndarray  # int, #L
    forced_stop_N: np.ndarray  # bool

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return float(self.right_N.mean())


class Evaluator:
    """Decodes with one compiled program for greedy and one for sampled decoding, whatever the speed.

    Args:
        graph: the model's graph, from `reasoner.build`.
        batch_size: questions decoded at a time, over all devices.
        sets, speeds: what will be decoded, so that one compiled program has room for any batch of it.
    """

    def __init__(
        self,
        graph,
        method: Method,
        tokenizer: Tokenizer,
        decode_config: DecodeConfig,
        compute: ModelConfig,
        mesh: Mesh,
        *,
        batch_size: int,
        sets: list[EncodedProblems],
        speeds: tuple[Speed, ...],
        verifier: str = "numeric",
        parallel: ParallelConfig = AUTOMATIC,
    ):
        self._graph, self._method, self._tokenizer = graph, method, tokenizer
        self._config, self._compute, self._mesh, self._parallel = decode_config, compute, mesh, parallel
        self._shard_size = -(-batch_size // num_shards(mesh))
        lengths = [encoded.prompt_lengths(speed) + 1 for encoded in sets for speed in speeds]
        self._shape = shape_for([part for of_set in lengths for part in self._parts(of_set)])
        self._is_right = VERIFIERS[verifier]
        self._compiled = functools.cache(self._compile)

    def run(self, parameters, encoded: EncodedProblems, speed: Speed, *, seed: int | None) -> Outcome:
        """Answer every problem at `speed`: greedily, or sampled from `seed` (a question's draws are its own)."""
        prompts = [np.append(encoded.prompt(i, speed), np.int32(encoded.separator_id)) for i in range(len(encoded))]
        program = self._compiled(seed is None)
        keys_N = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed or 0), jnp.arange(len(prompts)))
        shards = self._parts(np.arange(len(prompts)))
        pending = []  # the device works on the next batches while the host reads the first
        for start in range(0, len(shards), num_shards(self._mesh)):
            batch = shards[start : start + num_shards(self._mesh)]
            packed = [pack_prompts([prompts[i] for i in shard], self._shape) for shard in batch]
            packed = jax.tree.map(lambda *parts: np.concatenate(parts), *packed)
            pending.append(program(parameters, *put_rows((packed, keys_N[np.concatenate(batch)]), self._mesh)))
        parts = [fetch(part) for part in pending]
        decoded = jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(prompts)], *parts)
        return self._judge(decoded, encoded)

    def lower(self, parameters, *, greedy: bool) -> jax.stages.Lowered:
        """The program of a batch, not compiled yet, for parameters that may be shapes alone."""
        shards = num_shards(self._mesh)
        part = pack_prompts([np.zeros(1, np.int32)] * self._shard_size, self._shape)
        prompts = jax.tree.map(lambda *parts: np.concatenate(parts), *[part] * shards)
        keys_B = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), self._shard_size * shards))
        placed = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(self._mesh, ROWS)),
            (prompts, keys_B),
        )
        return self._compiled(greedy).lower(parameters, *placed)

    def _parts(self, values_N: np.ndarray) -> list[np.ndarray]:
        """Values, one for each question, in parts of a shard's size, a whole number of batches; the last fills up."""
        batch_size = self._shard_size * num_shards(self._mesh)
        num_parts = -(-len(values_N) // batch_size) * num_shards(self._mesh)
        filled = values_N[np.arange(num_parts * self._shard_size).clip(max=len(values_N) - 1)]
        return np.split(filled, num_parts)

    def _compile(self, greedy: bool):
        config, tokenizer = self._config, self._tokenizer
        dtype = jnp.dtype(self._compute.dtype)
        thinking = self._method.thinking(config, tokenizer.separator_id, dtype, greedy)
        limits = decode_limits(
            thinking, config, separator_id=tokenizer.separator_id, eos_id=tokenizer.eos_id, greedy=greedy
        )

        # The thoughts are large, and the judge does not read them.
        return compile_decode(
            self._graph, thinking.think, limits, self._compute, self._mesh, self._parallel, keeps_thoughts=False
        )

    def _judge(self, decoded: Decoded, encoded: EncodedProblems) -> Outcome:
        texts = self._tokenizer.answer_texts(decoded.answer_ids_BA, decoded.num_answer_tokens_B)
        predictions = [extract_answer(text) for text in texts]
        right = [
            self._is_right(prediction, problem.answer)
            for prediction, problem in zip(predictions, encoded.problems, strict=True)
        ]
        return Outcome(predictions, texts, np.array(right), decoded.num_thoughts_B, decoded.forced_stop_B)
