"""Greedy decodes that keep what was thought, and answers after thoughts that were changed.

The evaluator's programs record nothing of the thoughts. So looking costs a decode of its own, and plain decoding costs
nothing more.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.prompts import Speed
from colar_jax.decoding.decoder import Decoded
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.decoding.replay import FedThoughts, answer_after
from colar_jax.decoding.thinking import Think
from colar_jax.engine import Engine
from colar_jax.evaluation.judge import Judge
from colar_jax.evaluation.latents import Latent, inspecting, read_latent
from colar_jax.methods import Method
from colar_jax.methods.method import decode_limits
from colar_jax.parallel.hosts import fetch
from colar_jax.settings import DecodeConfig

# (parameters, (prompts, keys_B, more arrays of rows...)) -> what became of the rows
RowsProgram = Callable[..., object]


@dataclasses.dataclass(frozen=True)
class Chain:
    """What was thought about one question, and what came of it."""

    reasoning: str  # a chain of thought in words; "" for latents
    latents: tuple[Latent, ...]  # none for words
    text: str  # the whole text after the reasoning
    prediction: str  # the extracted answer
    right: bool


class Inspector:
    """Decodes sets of problems with one method, in any order, and looks at what it thinks.

    Args:
        engine, method, judge, decode_config: as for `Evaluator`.
        batch_size: questions decoded at a time, over all devices.
    """

    def __init__(self, engine: Engine, method: Method, judge: Judge, decode_config: DecodeConfig, *, batch_size: int):
        engine = engine.for_decoding
        self._engine, self._method, self._judge, self._batch_size = engine, method, judge, batch_size
        separator_id, eos_id = judge.tokenizer.separator_id, judge.tokenizer.eos_id
        self._thinking = method.thinking(decode_config, separator_id, greedy=True)
        self._limits = decode_limits(
            self._thinking, decode_config, separator_id=separator_id, eos_id=eos_id, greedy=True
        )

        def decoding(num_words: int | None) -> RowsProgram:
            ways = self._think(num_words), self._limits
            decode = engine.compile_decode(lambda _: ways, keeps_thoughts=True)
            return lambda parameters, rows: decode(parameters, *rows)

        def replay(model, compute, prompts, keys_B, given, _):
            answering = answer_after(model, prompts, given, keys_B, self._limits, compute)
            return answering.ids_BA, answering.num_tokens_B

        self._decoding = functools.cache(decoding)
        self._replaying = engine.compile_rows(replay)

    @property
    def thinks_in_latents(self) -> bool:
        """Whether there are latents to look at."""
        return self._thinking.in_latents

    @property
    def num_is_fixed(self) -> bool:
        """Whether every chain has as many latents, in training as well."""
        return self._thinking.is_fixed

    def look(self, parameters, encoded: EncodedProblems, speed: Speed, *, num_words: int) -> list[Chain]:
        """What the model thinks about every problem, each latent in its `num_words` nearest words, and answers."""
        decoded = self._run(self._decoding(num_words), parameters, encoded, speed)
        return [self._read(decoded, encoded, index) for index in range(len(encoded))]

    def thoughts(self, parameters, encoded: EncodedProblems, speed: Speed) -> FedThoughts:
        """What the model feeds itself while it thinks about every problem."""
        decoded = self._run(self._decoding(None), parameters, encoded, speed)
        return FedThoughts(decoded.thoughts, decoded.num_thoughts_B, decoded.speeds_BL, decoded.own_speeds_B)

    def right_after(self, parameters, encoded: EncodedProblems, speed: Speed, given: FedThoughts) -> np.ndarray:
        """Which problems are answered rightly after the `given` thoughts, bool `[N]`."""
        ids_NA, num_tokens_N = self._run(self._replaying, parameters, encoded, speed, given)
        _, predictions = self._judge.read(ids_NA, num_tokens_N)
        return self._judge.judge(encoded.problems, predictions)

    def _run(self, program: RowsProgram, parameters, encoded: EncodedProblems, speed: Speed, *trees_N):
        """The results of all problems, in their order, from `program` on batches of them."""
        parts, parameters = [], self._engine.placed(parameters)
        for packed, keys, chosen in self._batches(encoded, speed):
            of_batch = jax.tree.map(lambda array_N: array_N[chosen], trees_N)  # noqa: B023 (used at once)
            rows = self._engine.put_rows((packed, keys, *of_batch))
            parts.append(fetch(program(parameters, rows)))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(encoded)], *parts)

    def _batches(self, encoded: EncodedProblems, speed: Speed) -> Iterator[tuple]:
        """Packed prompts, keys and the numbers of the problems; the last problem fills the last batch up."""
        size = -(-min(self._batch_size, len(encoded)) // self._engine.num_shards)
        per_batch = size * self._engine.num_shards
        numbers = np.arange(-(-len(encoded) // per_batch) * per_batch).clip(max=len(encoded) - 1)
        told = self._method.recipe.told(speed)
        prompts = [encoded.ask(i, told) for i in range(len(encoded))]
        shards = np.split(numbers, len(numbers) // size)
        shape = shape_for([np.array([len(prompts[i]) for i in shard]) for shard in shards])
        keys = jax.random.split(jax.random.key(0), per_batch)  # greedy: nothing is drawn
        for start in range(0, len(shards), self._engine.num_shards):
            batch = shards[start : start + self._engine.num_shards]
            packed = [pack_prompts([prompts[i] for i in shard], shape) for shard in batch]
            yield jax.tree.map(lambda *leaves: np.concatenate(leaves), *packed), keys, np.concatenate(batch)

    def _think(self, num_words: int | None) -> Think:
        """Thinking that keeps words, what can be read in latents, or (None) the embeddings that were fed."""
        think = self._thinking.think
        if num_words is None:
            return _keeping_embeddings(think)
        if self._thinking.in_latents:
            return inspecting(think, num_words, is_gaussian=self._method.draws_latents)
        return think

    def _read(self, decoded: Decoded, encoded: EncodedProblems, index: int) -> Chain:
        count, forced = int(decoded.num_thoughts_B[index]), bool(decoded.forced_stop_B[index])
        reasoning, latents = "", ()
        if self._thinking.in_words:
            reasoning = self._judge.tokenizer.decode(decoded.thoughts[index, :count].tolist())
        elif self._thinking.in_latents:
            latents = tuple(
                read_latent(
                    jax.tree.map(lambda leaf: leaf[index, place], decoded.thoughts),  # noqa: B023 (used at once)
                    decoded.stop_log_probs_BL[index, place + 1],
                    is_last=place == count - 1 and not forced,
                    tokenizer=self._judge.tokenizer,
                )
                for place in range(count)
            )
        one = slice(index, index + 1)
        (text,), (prediction,) = self._judge.read(decoded.answer_ids_BA[one], decoded.num_answer_tokens_B[one])
        (right,) = self._judge.judge(encoded.problems[one], [prediction])
        return Chain(reasoning, latents, text, prediction, bool(right))


def _keeping_embeddings(think: Think) -> Think:
    def keep(model, hidden_BD, keys_B):
        thought = think(model, hidden_BD, keys_B)
        return dataclasses.replace(thought, record=thought.embed_BD.astype(jnp.float32))

    return keep
