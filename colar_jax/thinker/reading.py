"""What was decoded, as text, latents and numbers of the host."""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np

from colar_jax.data.tokenizers import Tokenizer
from colar_jax.decoding.decoder import Decoded
from colar_jax.decoding.streaming import StreamedStart, StreamedThought, StreamedToken
from colar_jax.evaluation.latents import Latent, read_latent
from colar_jax.methods.method import Thinking
from colar_jax.settings.speeds import DECIMALS
from colar_jax.thinker.answer import Answer, Done, Event, Token
from colar_jax.thinker.ask_programs import AskLimits
from colar_jax.thinker.growing_text import GrowingText


@dataclasses.dataclass(frozen=True, eq=False)
class Reader:
    """Reads what one stage has said; `hidden_size` is the length of a latent."""

    stage: str
    tokenizer: Tokenizer
    thinking: Thinking
    hidden_size: int

    def answer(self, decoded: Decoded, row: int, question: str, limits: AskLimits) -> Answer:
        """The answer in a row of a batch that is on the host."""
        count, forced_stop = int(decoded.num_thoughts_B[row]), bool(decoded.forced_stop_B[row])
        thoughts = _Thoughts(
            [jax.tree.map(lambda leaf: leaf[row, place], decoded.thoughts) for place in range(count)],  # noqa: B023
            decoded.thought_log_probs_BL[row, :count],
            decoded.stop_log_probs_BL[row, : count + 1],
            forced_stop,
        )
        tokens = min(int(decoded.num_answer_tokens_B[row]), limits.max_answer_tokens)
        ids_A, log_probs_A = (array[row, :tokens] for array in (decoded.answer_ids_BA, decoded.answer_log_probs_BA))
        own_speed = 0.0 if decoded.own_speeds_B is None else float(decoded.own_speeds_B[row])
        return self.whole(thoughts, ids_A, log_probs_A, question, limits, own_speed)

    def events(self, steps: Iterator, question: str, limits: AskLimits):
        """The events of a stream, from the steps of a `decoding.streaming.Streamer`."""
        return _Stream(self, question, limits).events(steps)

    def whole(
        self, thoughts: "_Thoughts", ids_A, log_probs_A, question: str, limits: AskLimits, own_speed: float
    ) -> Answer:
        """The answer that a chain and the `A` tokens after it are; `own_speed` is 0 where the model chose none."""
        readings, reasoning_ids = (), np.zeros(0, np.int32)
        latents_LD = np.zeros((0, self.hidden_size), np.float32)
        if self.thinking.in_latents:
            readings = tuple(self._readings(thoughts))
            latents_LD = np.stack([reading.vector for reading in readings]) if readings else latents_LD
        elif self.thinking.in_words:
            reasoning_ids = np.array(thoughts.records, np.int32)
        (text,) = self.tokenizer.answer_texts(ids_A[None], np.array([len(ids_A)]))
        return Answer(
            question=question,
            stage=self.stage,
            speed=round(own_speed, DECIMALS) or limits.options.speed,
            text=text,
            latents=latents_LD,
            readings=readings,
            reasoning=self.tokenizer.decode(reasoning_ids.tolist()),
            reasoning_ids=reasoning_ids,
            num_thoughts=len(thoughts.records),
            thought_log_probs=thoughts.log_probs_L,
            stop_log_probs=thoughts.stop_log_probs_L,
            token_ids=ids_A,
            token_log_probs=log_probs_A,
            forced_stop=thoughts.forced_stop,
            cut_answer=bool(ids_A[-1] != self.tokenizer.eos_id),
        )

    def _readings(self, thoughts: "_Thoughts") -> Iterator[Latent]:
        last = None if thoughts.forced_stop else len(thoughts.records) - 1
        decided = zip(thoughts.records, thoughts.log_probs_L, thoughts.stop_log_probs_L[1:], strict=True)
        for place, (record, log_prob, stop_log_prob) in enumerate(decided):
            yield self.latent(record, place, log_prob, stop_log_prob, is_last=place == last)

    def latent(self, record, place: int, log_prob: float, stop_log_prob: float, *, is_last: bool) -> Latent:
        """The latent in a place of a chain; the decision after it was to stop, or not."""
        return read_latent(
            record, stop_log_prob, is_last=is_last, tokenizer=self.tokenizer, index=place, log_prob=log_prob
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Thoughts:
    """A chain: the records of its thoughts, their log-probabilities `[L]`, and those of the decisions `[L + 1]`."""

    records: list
    log_probs_L: np.ndarray
    stop_log_probs_L: np.ndarray
    forced_stop: bool


class _Stream:
    """The events of one question, and what its `Answer` is made of."""

    def __init__(self, reader: Reader, question: str, limits: AskLimits):
        self._reader, self._question, self._limits = reader, question, limits
        self._stop_log_probs: list[float] = []
        self._own_speed = 0.0
        self._thoughts: list[StreamedThought] = []
        self._tokens: list[StreamedToken] = []

    def events(self, steps: Iterator) -> Iterator[Event]:
        reader = self._reader
        reasoning, answer = GrowingText(reader.tokenizer), GrowingText(reader.tokenizer)
        for step in steps:
            if isinstance(step, StreamedStart):
                self._stop_log_probs.append(step.stop_log_prob)
                self._own_speed = step.own_speed
            elif isinstance(step, StreamedThought):
                self._thoughts.append(step)
                self._stop_log_probs.append(step.stop_log_prob)
                if reader.thinking.in_words:
                    yield Token(reasoning.add(int(step.record)), step.log_prob, is_answer=False)
                else:
                    place = len(self._thoughts) - 1
                    decided = np.float32(step.stop_log_prob)  # so that its probability is that of the whole answer
                    yield reader.latent(step.record, place, step.log_prob, decided, is_last=step.is_last)
            else:
                if not self._tokens and (rest := reasoning.finish()):  # a chain that ends within a character
                    yield Token(rest, self._thoughts[-1].log_prob, is_answer=False)
                self._tokens.append(step)
                if step.token_id != reader.tokenizer.eos_id:
                    yield Token(answer.add(step.token_id), step.log_prob)
                if len(self._tokens) == self._limits.max_answer_tokens:
                    break
        if rest := answer.finish():
            yield Token(rest, self._tokens[-1].log_prob)
        yield Done(self._whole())

    def _whole(self) -> Answer:
        count = len(self._thoughts)
        has_stopped = self._thoughts[-1].is_last if count else True
        chain = self._chain(is_over=has_stopped or count < self._limits.max_thoughts)
        ids_A = np.array([token.token_id for token in self._tokens], np.int32)
        log_probs_A = np.array([token.log_prob for token in self._tokens], np.float32)
        return self._reader.whole(chain, ids_A, log_probs_A, self._question, self._limits, self._own_speed)

    def _chain(self, *, is_over: bool) -> "_Thoughts":
        return _Thoughts(
            [thought.record for thought in self._thoughts],
            np.array([thought.log_prob for thought in self._thoughts], np.float32),
            np.array(self._stop_log_probs, np.float32),
            not is_over,
        )
