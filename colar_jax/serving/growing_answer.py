"""An answer as it grows, on the side of those who reply."""

import base64
import dataclasses

from colar_jax.data.answers import extract_answer
from colar_jax.serving.narration import ChosenSpeed, EndOfThinking, Failed, Happening, ToldThought, ToldToken
from colar_jax.serving.refusal import Refusal
from colar_jax.serving.service import Served
from colar_jax.thinker.growing_text import GrowingText


@dataclasses.dataclass(frozen=True)
class Piece:
    """What some happenings add to an answer."""

    reasoning: str = ""
    text: str = ""
    latents: tuple[dict, ...] = ()
    tokens: tuple[tuple[str, float], ...] = ()  # of the answer, with their log-probabilities; its end included
    is_end: bool = False


class GrowingAnswer:
    """One answer. It keeps what a whole reply needs, and hands out what a stream needs."""

    def __init__(self, served: Served):
        self._served = served
        self._text, self._reasoning = GrowingText(served.tokenizer), GrowingText(served.tokenizer)
        self.num_thoughts = self.num_tokens = 0
        self.forced_stop = self.is_over = False
        self.finish_reason: str | None = None
        self.own_speed: float | None = None
        self.tokens: list[tuple[str, float]] = []

    def add(self, happenings: list[Happening]) -> Piece:
        """What is new. Refusal: it will never be finished."""
        reasoning, text, latents, tokens = "", "", [], []
        for happening in happenings:
            match happening:
                case ChosenSpeed():
                    self.own_speed = happening.speed
                case ToldThought():
                    self.num_thoughts += 1
                    if happening.word_id is not None:
                        reasoning += self._reasoning.add(happening.word_id)
                    elif happening.vector_D is not None:
                        latents.append(self._latent(happening))
                case EndOfThinking():
                    self.forced_stop = happening.forced
                    reasoning += self._reasoning.finish()
                case ToldToken():
                    text += self._add_token(happening)
                    tokens.append(self.tokens[-1])
                case Failed():
                    raise Refusal(500, happening.message)
        return Piece(reasoning, text, tuple(latents), tuple(tokens), self.is_over)

    def _add_token(self, token: ToldToken) -> str:
        tokenizer = self._served.tokenizer
        has_ended = token.token_id == tokenizer.eos_id
        self.num_tokens += 1
        self.tokens.append((tokenizer.token_text(token.token_id), token.log_prob))
        text = "" if has_ended else self._text.add(token.token_id)
        if token.is_last:
            self.finish_reason, self.is_over = "stop" if has_ended else "length", True
            text += self._text.finish()
        return text

    def _latent(self, thought: ToldThought) -> dict:
        return {
            "number": self.num_thoughts,
            "words": [[word.text, round(word.score, 4)] for word in thought.words],
            "p_stop": round(thought.p_stop, 6),
            "log_prob": round(thought.log_prob, 6),
            "vector": base64.b64encode(thought.vector_D.astype("<f4").tobytes()).decode(),
        }

    @property
    def text(self) -> str:
        """What the model said after its thoughts."""
        return self._text.text

    @property
    def reasoning(self) -> str:
        """What it thought, where it thinks in words."""
        return self._reasoning.text

    @property
    def own_fields(self) -> dict:
        """Of a choice, what OpenAI's form has no field for."""
        return {
            "answer": extract_answer(self.text).strip(),
            "num_thoughts": self.num_thoughts,
            "forced_stop": self.forced_stop,
        } | ({} if self.own_speed is None else {"thinking_speed": self.own_speed})
