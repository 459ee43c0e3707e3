"""Decode a set of problems with one method, and judge every answer."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from colar_jax.config import DecodeConfig, ModelConfig
from colar_jax.data.answers import VERIFIERS, extract_answer
from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.prompts import Speed
from colar_jax.data.tokenizers import Tokenizer
from colar_jax.decoding.decoder import Decoded, DecodeLimits, decode
from colar_jax.methods import Method
from colar_jax.parallel.mesh import REPLICATED, ROWS, num_shards, put_rows

WIDTH_STEP = 16  # prompt widths are multiples of it, so that sets of nearly one width share a compiled decode


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
        width: the longest prompt, with its separator, that will be decoded.
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
        width: int,
        verifier: str = "numeric",
    ):
        self._graph, self._method, self._tokenizer = graph, method, tokenizer
        self._config, self._compute, self._mesh = decode_config, compute, mesh
        shards = num_shards(mesh)
        self._batch_size = -(-batch_size // shards) * shards
        self._width = -(-width // WIDTH_STEP) * WIDTH_STEP
        self._is_right = VERIFIERS[verifier]
        self._compiled = functools.cache(self._compile)

    def run(self, parameters, encoded: EncodedProblems, speed: Speed, *, seed: int | None) -> Outcome:
        """Answer every problem at `speed`: greedily, or sampled from `seed` (a question's draws are its own)."""
        prompts = [np.append(encoded.prompt(i, speed), np.int32(encoded.separator_id)) for i in range(len(encoded))]
        longest = max(len(prompt) for prompt in prompts)
        if longest > self._width:
            raise ValueError(f"a prompt of {longest} tokens does not fit the decoder's {self._width}")
        program = self._compiled(seed is None)
        keys_N = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed or 0), jnp.arange(len(prompts)))
        pending = []  # the device works on the next batches while the host reads the first
        for start in range(0, len(prompts), self._batch_size):
            chosen = np.arange(start, start + self._batch_size).clip(max=len(prompts) - 1)  # the last one fills up
            ids_BP, lengths_B = _pad([prompts[i] for i in chosen], self._width)
            pending.append(program(parameters, *put_rows((ids_BP, lengths_B, keys_N[chosen]), self._mesh)))
        parts = [jax.device_get(part) for part in pending]
        decoded = jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(prompts)], *parts)
        return self._judge(decoded, encoded)

    def _compile(self, greedy: bool):
        config, tokenizer = self._config, self._tokenizer
        dtype = jnp.dtype(self._compute.dtype)
        thinking = self._method.thinking(config, tokenizer.separator_id, dtype, greedy)
        limits = DecodeLimits(
            max_thoughts=thinking.max_thoughts,
            min_thoughts=thinking.min_thoughts,
            max_answer_tokens=config.max_answer_tokens,
            greedy=greedy,
            answer_temperature=config.answer_temperature,
            answer_top_p=config.top_p,
            separator_id=tokenizer.separator_id,
            eos_id=tokenizer.eos_id,
        )

        def program(parameters, ids_BP, lengths_B, keys_B) -> Decoded:
            model = nnx.merge(self._graph, parameters)
            decoded = decode(model, ids_BP, lengths_B, keys_B, thinking.think, limits, dtype=dtype)
            # The thoughts are large, and the judge does not read them.
            return dataclasses.replace(decoded, thoughts=None)

        # Each shard leaves its loops when its own rows are done, so what it holds varies from device to device by
        # construction; check_vma would want every loop's zeros to be told so.
        sharded = jax.shard_map(
            program, mesh=self._mesh, in_specs=(REPLICATED, ROWS, ROWS, ROWS), out_specs=ROWS, check_vma=False
        )
        return jax.jit(sharded)

    def _judge(self, decoded: Decoded, encoded: EncodedProblems) -> Outcome:
        texts = []
        for ids, count in zip(decoded.answer_ids_BA, decoded.num_answer_tokens_B, strict=True):
            ids = ids[:count].tolist()
            texts.append(self._tokenizer.decode(ids[:-1] if ids and ids[-1] == encoded.eos_id else ids))
        predictions = [extract_answer(text) for text in texts]
        right = [
            self._is_right(prediction, problem.answer)
            for prediction, problem in zip(predictions, encoded.problems, strict=True)
        ]
        return Outcome(predictions, texts, np.array(right), decoded.num_thoughts_B, decoded.forced_stop_B)


def longest_prompt(sets: list[EncodedProblems], speeds: tuple[Speed, ...]) -> int:
    """The number of tokens of the longest prompt of these sets at these speeds, its separator included."""
    return 1 + max(int(encoded.prompt_lengths(speed).max()) for encoded in sets for speed in speeds)


def _pad(prompts: list[np.ndarray], width: int) -> tuple[np.ndarray, np.ndarray]:
    ids_BP = np.zeros((len(prompts), width), np.int32)
    for row, prompt in enumerate(prompts):
        ids_BP[row, : len(prompt)] = prompt
    return ids_BP, np.array([len(prompt) for prompt in prompts], np.int32)
