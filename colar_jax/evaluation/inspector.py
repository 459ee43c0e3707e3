"""Greedy decodes that keep what was thought, and answers after thoughts that were changed.

Beside the evaluator, whose programs keep nothing of the thoughts: looking costs a decode of its own, and plain decoding
nothing.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from colar_jax.config import AUTOMATIC, DecodeConfig, ModelConfig, ParallelConfig
from colar_jax.data.answers import VERIFIERS, extract_answer
from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.prompts import Speed
from colar_jax.data.tokenizers import Tokenizer
from colar_jax.decoding.compiled import compile_decode, compile_rows
from colar_jax.decoding.decoder import Decoded
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.decoding.replay import answer_after
from colar_jax.decoding.thinking import Think
from colar_jax.evaluation.latents import Latent, inspecting, read_latent
from colar_jax.methods import Method
from colar_jax.methods.method import decode_limits
from colar_jax.parallel.hosts import fetch
from colar_jax.parallel.mesh import num_shards, put_rows

# (parameters, (prompts, keys_B, more arrays of rows...)) -> what became of the rows
Program = Callable[..., object]


@dataclasses.dataclass(frozen=True)
class Chain:
    """What was thought about one question, and what came of it."""

    reasoning: str  # a chain of thought in words; "" for latents
    latents: tuple[Latent, ...]  # none for words
    text: str  # the whole text after the reasoning
    prediction: str  # the extracted answer
    right: bool


@dataclasses.dataclass(frozen=True, eq=False)
class FedThoughts:
    """The embeddings that `N` chains fed; those at and after a chain's end are meaningless."""

    embeds_NLD: np.ndarray
    num_thoughts_N: np.ndarray


class Inspector:
    """Decodes sets of problems with one method, in any order, and looks at what it thinks.

    Args:
        graph, method, tokenizer, decode_config, compute, mesh, verifier, parallel: as for `Evaluator`.
        batch_size: questions decoded at a time, over all devices.
    """

    def __init__(
        self,
        graph,
        method: Method,
        tokenizer: Tokenizer,
        decode_config: DecodeConfig,
        compute: ModelConfig,
        mesh: jax.sharding.Mesh,
        *,
        batch_size: int,
        verifier: str = "numeric",
        parallel: ParallelConfig = AUTOMATIC,
    ):
        self._method, self._tokenizer, self._mesh, dtype = method, tokenizer, mesh, jnp.dtype(compute.dtype)
        self._thinking = method.thinking(decode_config, tokenizer.separator_id, dtype, True)
        self._limits = decode_limits(
            self._thinking, decode_config, separator_id=tokenizer.separator_id, eos_id=tokenizer.eos_id, greedy=True
        )
        self._batch_size, self._is_right = batch_size, VERIFIERS[verifier]

        def decoding(num_words: int | None) -> Program:
            ways = self._think(num_words), self._limits
            decode = compile_decode(graph, lambda _: ways, compute, mesh, parallel, keeps_thoughts=True)
            return lambda parameters, rows: decode(parameters, *rows)

        def replay(model, prompts, keys_B, embeds_BLD, num_thoughts_B, _):
            answering = answer_after(model, prompts, embeds_BLD, num_thoughts_B, keys_B, self._limits, dtype=dtype)
            return answering.ids_BA, answering.num_tokens_B

        self._decoding = functools.cache(decoding)
        self._replaying = compile_rows(graph, replay, compute, mesh, parallel)

    @property
    def thinks_in_latents(self) -> bool:
        """Whether there are latents to look at."""
        return self._thinking.in_latents

    def look(self, parameters, encoded: EncodedProblems, speed: Speed, *, num_words: int) -> list[Chain]:
        """What the model thinks about every problem, each latent in its `num_words` nearest words, and answers."""
        decoded = self._run(self._decoding(num_words), parameters, encoded, speed)
        return [self._read(decoded, encoded, index) for index in range(len(encoded))]

    def thoughts(self, parameters, encoded: EncodedProblems, speed: Speed) -> FedThoughts:
        """What the model feeds itself while it thinks about every problem."""
        decoded = self._run(self._decoding(None), parameters, encoded, speed)
        return FedThoughts(decoded.thoughts, decoded.num_thoughts_B)

    def right_after(self, parameters, encoded: EncodedProblems, speed: Speed, given: FedThoughts) -> np.ndarray:
        """Which problems are answered rightly after the `given` thoughts, bool `[N]`."""
        arrays = given.embeds_NLD, given.num_thoughts_N
        ids_NA, num_tokens_N = self._run(self._replaying, parameters, encoded, speed, *arrays)
        texts = self._tokenizer.answer_texts(ids_NA, num_tokens_N)
        judged = zip(texts, encoded.problems, strict=True)
        return np.array([self._is_right(extract_answer(text), problem.answer) for text, problem in judged])

    def _run(self, program: Program, parameters, encoded: EncodedProblems, speed: Speed, *arrays_N):
        """The results of all problems, in their order, from `program` on batches of them."""
        parts = []
        for packed, keys, chosen in self._batches(encoded, speed):
            rows = put_rows((packed, keys, *(array_N[chosen] for array_N in arrays_N)), self._mesh)
            parts.append(fetch(program(parameters, rows)))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(encoded)], *parts)

    def _batches(self, encoded: EncodedProblems, speed: Speed) -> Iterator[tuple]:
        """Packed prompts, keys and the numbers of the problems; the last problem fills the last batch up."""
        size = -(-min(self._batch_size, len(encoded)) // num_shards(self._mesh))
        per_batch = size * num_shards(self._mesh)
        numbers = np.arange(-(-len(encoded) // per_batch) * per_batch).clip(max=len(encoded) - 1)
        prompts = [np.append(encoded.prompt(i, speed), np.int32(encoded.separator_id)) for i in range(len(encoded))]
        shards = np.split(numbers, len(numbers) // size)
        shape = shape_for([np.array([len(prompts[i]) for i in shard]) for shard in shards])
        keys = jax.random.split(jax.random.key(0), per_batch)  # greedy: nothing is drawn
        for start in range(0, len(shards), num_shards(self._mesh)):
            batch = shards[start : start + num_shards(self._mesh)]
            packed = [pack_prompts([prompts[i] for i in shard], shape) for shard in batch]
            yield jax.tree.map(lambda *leaves: np.concatenate(leaves), *packed), keys, np.concatenate(batch)

    def _think(self, num_words: int | None) -> Think:
        """Thinking that keeps words, what can be read in latents, or (None) the embeddings that were fed."""
        think = self._thinking.think
        if num_words is None:
            return _keeping_embeddings(think)
        if self._thinking.in_latents:
            return inspecting(think, num_words, is_gaussian=self._method.trains_latent_head)
        return think

    def _read(self, decoded: Decoded, encoded: EncodedProblems, index: int) -> Chain:
        count, forced = int(decoded.num_thoughts_B[index]), bool(decoded.forced_stop_B[index])
        reasoning, latents = "", ()
        if self._thinking.in_words:
            reasoning = self._tokenizer.decode(decoded.thoughts[index, :count].tolist())
        elif self._thinking.in_latents:
            latents = tuple(
                read_latent(
                    jax.tree.map(lambda leaf: leaf[index, place], decoded.thoughts),  # noqa: B023 (used at once)
                    decoded.stop_log_probs_BL[index, place + 1],
                    is_last=place == count - 1 and not forced,
                    tokenizer=self._tokenizer,
                )
                for place in range(count)
            )
        ids, num_tokens = decoded.answer_ids_BA[index : index + 1], decoded.num_answer_tokens_B[index : index + 1]
        (text,) = self._tokenizer.answer_texts(ids, num_tokens)
        prediction = extract_answer(text)
        right = self._is_right(prediction, encoded.problems[index].answer)
        return Chain(reasoning, latents, text, prediction, right)


def _keeping_embeddings(think: Think) -> Think:
    def keep(model, hidden_BD, keys_B):
        thought = think(model, hidden_BD, keys_B)
        return dataclasses.replace(thought, record=thought.embed_BD.astype(jnp.float32))

    return keep
