"""What is told of an answer while it is made: thoughts, the end of thinking, tokens."""

import dataclasses

import numpy as np

from colar_jax.evaluation.latents import Word
from colar_jax.serving.slots import Act
from colar_jax.settings.speeds import DECIMALS


@dataclasses.dataclass(frozen=True)
class ChosenSpeed:
    """The model has chosen at which speed it thinks."""

    speed: float


@dataclasses.dataclass(frozen=True)
class ToldThought:
    """A thought that was fed."""

    word_id: int | None  # of a thought in words
    log_prob: float
    p_stop: float  # the probability to stop after it, whatever was decided
    vector_D: np.ndarray | None = None  # float32, as it was fed; for who asked to see it
    words: tuple[Word, ...] = ()  # nearest to it; likewise


@dataclasses.dataclass(frozen=True)
class EndOfThinking:
    """The answer begins."""

    forced: bool  # thinking was cut at its limit


@dataclasses.dataclass(frozen=True)
class ToldToken:
    """A token of the answer."""

    token_id: int
    log_prob: float
    is_last: bool


@dataclasses.dataclass(frozen=True)
class Failed:
    """There will be no more of it."""

    message: str


Happening = ChosenSpeed | ToldThought | EndOfThinking | ToldToken | Failed


class Narrator:
    """Tells of one slot. A thought is told with the decision after it, which comes a step later."""

    def __init__(self, *, in_words: bool):
        self._in_words, self._pending = in_words, None

    def tell(self, kind_T, token_T, log_prob_T, stop_log_prob_T, own_speed_T, latents_TD=None) -> list[Happening]:
        """What happened in some steps of the slot; `latents_TD` for who asked to see them."""
        told: list[Happening] = [ChosenSpeed(round(speed, DECIMALS)) for speed in own_speed_T.tolist() if speed]
        for step, kind in enumerate(kind_T.tolist()):
            if kind == Act.NOTHING:
                continue
            if self._pending is not None:
                told.append(self._thought(float(stop_log_prob_T[step]), has_stopped=kind == Act.STOPPED))
            if kind == Act.THOUGHT:
                vector_D = None if latents_TD is None else np.array(latents_TD[step])
                self._pending = int(token_T[step]), float(log_prob_T[step]), vector_D
            elif kind in (Act.STOPPED, Act.CUT):
                told.append(EndOfThinking(forced=kind == Act.CUT))
            else:
                told.append(ToldToken(int(token_T[step]), float(log_prob_T[step]), is_last=kind == Act.LAST_TOKEN))
        return told

    def _thought(self, stop_log_prob: float, *, has_stopped: bool) -> ToldThought:
        (word_id, log_prob, vector_D), self._pending = self._pending, None
        probability = float(np.exp(stop_log_prob))
        p_stop = probability if has_stopped else 1.0 - probability
        return ToldThought(word_id if self._in_words else None, log_prob, p_stop, vector_D)
