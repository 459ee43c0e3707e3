"""Ask a model a question of one's own, and hear what it thinks while it thinks it."""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np

from colar_jax.config import DecodeConfig
from colar_jax.data.answers import extract_answer
from colar_jax.data.prompts import Speed, question_prompt
from colar_jax.data.tokenizers import Tokenizer
from colar_jax.decoding.prompt_rows import PromptShape, pack_prompts
from colar_jax.decoding.streaming import StreamedThought, Streamer
from colar_jax.engine import Engine
from colar_jax.evaluation.latents import Latent, inspecting, read_latent
from colar_jax.methods import Method
from colar_jax.methods.method import decode_limits
from colar_jax.model.execution import Execution

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

    @property
    def answer(self) -> str:
        """What the text gives as the answer."""
        return extract_answer(self.text).strip()


class Asker:
    """Answers one question at a time, greedily or sampled.

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
            think = inspecting(think, num_words, is_gaussian=method.trains_latent_head)
        limits = decode_limits(
            self._thinking,
            decode_config,
            separator_id=tokenizer.separator_id,
            eos_id=tokenizer.eos_id,
            greedy=greedy,
        )
        self._streamer = Streamer(engine.graph, think, limits, Execution.of(engine.compute))

    def ask(self, parameters, question: str, speed: Speed, key: jax.Array) -> Iterator[Latent | Words | Reply]:
        """Latents or words, each as it comes, and at the end the whole reply."""
        prompt = np.array([*self._tokenizer.encode(question_prompt(question, speed)), self._tokenizer.separator_id])
        room = _ROOM * -(-len(prompt) // _ROOM)
        packed = pack_prompts([prompt.astype(np.int32)], PromptShape(rows=1, positions=room, width=room))
        latents, reasoning, answer, num_thoughts = [], _Text(self._tokenizer), _Text(self._tokenizer), 0
        for event in self._streamer.run(parameters, packed, key):
            if isinstance(event, StreamedThought):
                num_thoughts += 1
                if self._thinking.in_words:
                    yield Words(reasoning.add(int(event.record)), is_answer=False)
                else:
                    latents.append(read_latent(event.record, event.stop_log_prob, event.is_last, self._tokenizer))
                    yield latents[-1]
            elif event != self._tokenizer.eos_id:
                yield Words(answer.add(event), is_answer=True)
        yield Reply(tuple(latents), reasoning.text, answer.text, num_thoughts)


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
