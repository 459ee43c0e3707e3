"""Ask a model questions of one's own: one, and watch it think, or many at once."""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from flax import nnx

from colar_jax.data.answers import extract_answer
from colar_jax.data.prompts import Speed, question_prompt
from colar_jax.data.tokenizers import Tokenizer
from colar_jax.decoding.decoder import Decoded, decode
from colar_jax.decoding.prompt_rows import PromptShape, pack_prompts, shape_for
from colar_jax.decoding.streaming import StreamedThought, Streamer
from colar_jax.engine import Engine
from colar_jax.evaluation.latents import Latent, inspecting, read_latent
from colar_jax.methods import Method
from colar_jax.methods.method import decode_limits
from colar_jax.model.execution import Execution
from colar_jax.settings import DecodeConfig

# Prompts are filled up to a multiple of this, so that questions of about one length share a compiled prefill.
_ROOM = 128


@dataclasses.dataclass(frozen=True)
class Words:
    """A piece of text, as soon as it is there."""

    text: str
    is_answer: bool  # else it is of a chain of thought


@dataclasses.dataclass(frozen=True)
class Reply:
    """All that was said to one question."""

    latents: tuple[Latent, ...]
    reasoning: str
    text: str  # after the reasoning
    num_thoughts: int  # #L
    forced_stop: bool  # thinking was cut at its limit
    cut_answer: bool  # the answer was: it has no end

    @property
    def answer(self) -> str:
        """What the text gives as the answer."""
        return extract_answer(self.text).strip()

    def events(self) -> "Iterator[Latent | Words | Reply]":
        """The reply as `Asker.ask` hands it out, all of it at once."""
        yield from self.latents
        if self.reasoning:
            yield Words(self.reasoning, is_answer=False)
        if self.text:
            yield Words(self.text, is_answer=True)
        yield self


class Asker:
    """Answers questions, greedily or sampled.

    Args:
        engine, method, decode_config: as for `Evaluator`; of several devices the first answers.
        num_words: nearest words, and likeliest ones of the language head, of each latent.
    """

    def __init__(
        self,
        engine: Engine,
        method: Method,
        tokenizer: Tokenizer,
        decode_config: DecodeConfig,
        *,
        greedy: bool,
        num_words: int,
    ):
        self._tokenizer = tokenizer
        self._thinking = method.thinking(decode_config, tokenizer.separator_id, engine.dtype, greedy)
        think = self._thinking.think
        if self._thinking.in_latents:
            think = inspecting(think, num_words, is_gaussian="latent_head" in method.trains)
        self._limits = decode_limits(
            self._thinking,
            decode_config,
            separator_id=tokenizer.separator_id,
            eos_id=tokenizer.eos_id,
            greedy=greedy,
        )
        execution = Execution.of(engine.compute)
        self._streamer = Streamer(engine.graph, think, self._limits, execution)
        self._decode = jax.jit(
            lambda parameters, prompts, keys_B: decode(
                nnx.merge(engine.graph, parameters), prompts, keys_B, think, self._limits, execution
            )
        )

    def ask(self, parameters, question: str, speed: Speed, key: jax.Array) -> Iterator[Latent | Words | Reply]:
        """Latents or words, each as it comes, and at the end the whole reply."""
        prompt = self._prompt(question, speed)
        room = _ROOM * -(-len(prompt) // _ROOM)
        packed = pack_prompts([prompt], PromptShape(rows=1, positions=room, width=room))
        latents, reasoning, answer, num_thoughts = [], _Text(self._tokenizer), _Text(self._tokenizer), 0
        has_stopped, has_ended = not self._limits.max_thoughts, False
        for event in self._streamer.run(parameters, packed, key):
            if isinstance(event, StreamedThought):
                num_thoughts, has_stopped = num_thoughts + 1, event.is_last
                if self._thinking.in_words:
                    yield Words(reasoning.add(int(event.record)), is_answer=False)
                else:
                    latents.append(read_latent(event.record, event.stop_log_prob, event.is_last, self._tokenizer))
                    yield latents[-1]
            elif event == self._tokenizer.eos_id:
                has_ended = True
            else:
                yield Words(answer.add(event), is_answer=True)
        forced_stop = num_thoughts == self._limits.max_thoughts and not has_stopped
        yield Reply(tuple(latents), reasoning.text, answer.text, num_thoughts, forced_stop, cut_answer=not has_ended)

    def answer(self, parameters, questions: Sequence[str], speed: Speed, keys_N: jax.Array) -> list[Reply]:
        """The replies to `N` questions, decoded together: each is what `ask` says with its key."""
        prompts = [self._prompt(question, speed) for question in questions]
        # Filled up to a power of two with the last question, so that similar numbers of questions share a program.
        size = 1 << (len(prompts) - 1).bit_length()
        numbers = np.arange(size).clip(max=len(prompts) - 1)
        shape = shape_for([np.array([len(prompts[number]) for number in numbers])])
        packed = pack_prompts([prompts[number] for number in numbers], shape)
        decoded = jax.device_get(self._decode(parameters, packed, keys_N[numbers]))
        return [self._reply(decoded, index) for index in range(len(prompts))]

    def _prompt(self, question: str, speed: Speed) -> np.ndarray:
        ids = [*self._tokenizer.encode(question_prompt(question, speed)), self._tokenizer.separator_id]
        return np.array(ids, np.int32)

    def _reply(self, decoded: Decoded, index: int) -> Reply:
        tokenizer = self._tokenizer
        count, forced_stop = int(decoded.num_thoughts_B[index]), bool(decoded.forced_stop_B[index])
        reasoning, latents = "", ()
        if self._thinking.in_words:
            reasoning = tokenizer.decode(decoded.thoughts[index, :count].tolist())
        elif self._thinking.in_latents:
            records = jax.tree.map(lambda leaf_BL: leaf_BL[index, :count], decoded.thoughts)
            latents = tuple(
                read_latent(
                    jax.tree.map(lambda leaf_L: leaf_L[place], records),  # noqa: B023 (used at once)
                    decoded.stop_log_probs_BL[index, place + 1],
                    is_last=place == count - 1 and not forced_stop,
                    tokenizer=tokenizer,
                )
                for place in range(count)
            )
        ids_A = decoded.answer_ids_BA[index, : decoded.num_answer_tokens_B[index]]
        (text,) = tokenizer.answer_texts(ids_A[None], np.array([len(ids_A)]))
        return Reply(latents, reasoning, text, count, forced_stop, cut_answer=bool(ids_A[-1] != tokenizer.eos_id))


class _Text:
    """Ids that become text piece by piece; what a tokenizer says of an id depends on those before it."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self._ids, self.text = tokenizer, [], ""

    def add(self, token_id: int) -> str:
        """The text that this id adds; "" where a character is not complete yet."""
        self._ids.append(token_id)
        text = self._tokenizer.decode(self._ids)
        if text.endswith("\N{REPLACEMENT CHARACTER}") or not text.startswith(self.text):
            return ""
        piece, self.text = text[len(self.text) :], text
        return piece
