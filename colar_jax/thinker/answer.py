"""What a model says to a question: whole, and piece by piece."""

import dataclasses
from typing import Any

import numpy as np

from colar_jax.data.answers import extract_answer
from colar_jax.data.prompts import Speed, speed_text
from colar_jax.evaluation.latents import Latent, Word


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """All that was said to one question: `L` thoughts, each a latent of size `D` or a word; `A` tokens of an answer.

    Attributes:
        question: as it was asked.
        stage: of the run, that answered.
        speed: that it was told, a number or "auto"; of a stage that chooses its own, the one that it chose (at the
            opening, where it may change).
        text: all that was said after the reasoning, such as "Answer: 34".
        latents: `[L, D]` float32, as they were fed: in units of the token embeddings. `[0, D]` for words, or nothing.
            On the chain's own timeline (`latent.timeline=tokens`) without what each is told besides.
        readings: of each latent, what can be read in it (`evaluation.latents.Latent`); none for words.
        reasoning: a chain of thought in words; "" for latents.
        reasoning_ids: `[L]` int32, the tokens of it; `[0]` for latents.
        num_thoughts: `L`, of latents or of words.
        thought_log_probs: `[L]` float32, of each thought as it was drawn; of a latent the mean over its dimensions of
            the log density, in units of the standard deviation of embeddings; 0 where nothing is drawn (greedy).
        stop_log_probs: `[L + 1]` float32, of every decision to go on, and of the one to stop.
        token_ids: `[A]` int32, of the answer; its last one ends the sequence, unless `cut_answer`.
        token_log_probs: `[A]` float32, in nats, of each token as it was drawn; greedy: at temperature 1.
        forced_stop: whether thinking was cut at its limit.
        cut_answer: whether the answer was.
    """

    question: str
    stage: str
    speed: Speed
    text: str
    latents: np.ndarray = dataclasses.field(repr=False)
    readings: tuple[Latent, ...] = dataclasses.field(repr=False)
    reasoning: str
    reasoning_ids: np.ndarray = dataclasses.field(repr=False)
    num_thoughts: int
    thought_log_probs: np.ndarray = dataclasses.field(repr=False)
    stop_log_probs: np.ndarray = dataclasses.field(repr=False)
    token_ids: np.ndarray = dataclasses.field(repr=False)
    token_log_probs: np.ndarray = dataclasses.field(repr=False)
    forced_stop: bool
    cut_answer: bool

    @property
    def answer(self) -> str:
        """What the text gives as the answer, such as "34"."""
        return extract_answer(self.text).strip()

    @property
    def num_latents(self) -> int:
        """How many latents were thought: 0 for a chain of thought in words."""
        return len(self.latents)

    @property
    def words(self) -> tuple[tuple[Word, ...], ...]:
        """Of each latent the tokens with the largest cosine, the nearest first."""
        return tuple(reading.words for reading in self.readings)

    def as_json(self) -> dict[str, Any]:
        """In those fields of samples.jsonl that need no known answer."""
        return {
            "question": self.question,
            "stage": self.stage,
            "speed": speed_text(self.speed),
            "reasoning": self.reasoning,
            "latents": [reading.as_json() for reading in self.readings],
            "length": self.num_thoughts,
            "text": self.text,
            "prediction": self.answer,
            "forced_stop": self.forced_stop,
            "cut_answer": self.cut_answer,
        }


@dataclasses.dataclass(frozen=True)
class Token:
    """A piece of text, as soon as it is there."""

    text: str  # "" where a character is not complete yet
    log_prob: float  # of the token that it came with, as `Answer.token_log_probs`
    is_answer: bool = True  # else it is of a chain of thought in words


@dataclasses.dataclass(frozen=True)
class Done:
    """The last event: all of it."""

    answer: Answer


# What `Thinker.stream` yields.
Event = Latent | Token | Done
