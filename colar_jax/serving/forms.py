"""Replies in OpenAI's two forms, whole and in pieces."""

import abc
import dataclasses
import secrets
import time
from collections.abc import Sequence

from colar_jax.serving.growing_answer import GrowingAnswer, Piece
from colar_jax.serving.service import Served


@dataclasses.dataclass(frozen=True)
class ReplyForm(abc.ABC):
    """One of the two forms, for one request."""

    served: Served
    wants_log_probs: bool
    num_prompt_tokens: int
    id: str = ""
    kind = prefix = kind_of_pieces = ""

    def whole(self, answers: Sequence[GrowingAnswer]) -> dict:
        """The whole reply."""
        choices = [self.choice(index, answer) for index, answer in enumerate(answers)]
        return self._head(self.kind) | {"choices": choices, "usage": self.usage(answers)}

    def piece(self, choices: list[dict], usage: dict | None = None) -> dict:
        """A piece of the reply, as an event."""
        return self._head(self.kind_of_pieces) | {"choices": choices} | ({"usage": usage} if usage else {})

    def usage(self, answers: Sequence[GrowingAnswer]) -> dict:
        """Tokens of the questions, and of the answers with all that was thought."""
        thoughts, tokens = sum(answer.num_thoughts for answer in answers), sum(answer.num_tokens for answer in answers)
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": thoughts + tokens,
            "total_tokens": self.num_prompt_tokens + thoughts + tokens,
            "completion_tokens_details": {"reasoning_tokens": thoughts},
        }

    @abc.abstractmethod
    def choice(self, index: int, answer: GrowingAnswer) -> dict:
        """A finished answer."""

    @abc.abstractmethod
    def pieces_of(self, index: int, piece: Piece, answer: GrowingAnswer) -> list[dict]:
        """What is new of an answer, as choices of pieces: a latent has one of its own."""

    def opening(self, index: int) -> list[dict]:
        """What a stream says of an answer before anything is there."""
        return []

    def _head(self, kind: str) -> dict:
        return {"id": self.id, "object": kind, "created": int(time.time()), "model": self.served.name}

    @abc.abstractmethod
    def _log_probs(self, tokens: Sequence[tuple[str, float]]) -> dict | None:
        """The log-probabilities of tokens, in this form; None where they were not asked for."""


class CompletionForm(ReplyForm):
    """`/v1/completions`."""

    kind = kind_of_pieces = "text_completion"
    prefix = "cmpl-"

    def choice(self, index: int, answer: GrowingAnswer) -> dict:
        return {
            "index": index,
            "text": answer.text,
            "finish_reason": answer.finish_reason,
            "logprobs": self._log_probs(answer.tokens),
            **({"reasoning": answer.reasoning} if self.served.ways.in_words else {}),
            **answer.own_fields,
        }

    def pieces_of(self, index: int, piece: Piece, answer: GrowingAnswer) -> list[dict]:
        def choice(text: str, **fields) -> dict:
            return {"index": index, "text": text, "finish_reason": None, "logprobs": None} | fields

        choices = [choice("", latent=latent) for latent in piece.latents]
        if piece.reasoning:
            choices.append(choice("", reasoning=piece.reasoning))
        if piece.text or (piece.tokens and self.wants_log_probs):
            choices.append(choice(piece.text, logprobs=self._log_probs(piece.tokens)))
        if piece.is_end:
            choices.append(choice("", finish_reason=answer.finish_reason, **answer.own_fields))
        return choices

    def _log_probs(self, tokens: Sequence[tuple[str, float]]) -> dict | None:
        if not self.wants_log_probs:
            return None
        return {
            "tokens": [text for text, _ in tokens],
            "token_logprobs": [log_prob for _, log_prob in tokens],
            "top_logprobs": None,
            "text_offset": None,
        }


class ChatForm(ReplyForm):
    """`/v1/chat/completions`."""

    kind, kind_of_pieces = "chat.completion", "chat.completion.chunk"
    prefix = "chatcmpl-"

    def choice(self, index: int, answer: GrowingAnswer) -> dict:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        if self.served.ways.in_words:
            message["reasoning_content"] = answer.reasoning
        return {
            "index": index,
            "message": message,
            "finish_reason": answer.finish_reason,
            "logprobs": self._log_probs(answer.tokens),
            **answer.own_fields,
        }

    def opening(self, index: int) -> list[dict]:
        return [self._delta(index, {"role": "assistant", "content": ""})]

    def pieces_of(self, index: int, piece: Piece, answer: GrowingAnswer) -> list[dict]:
        choices = [self._delta(index, {"latent": latent}) for latent in piece.latents]
        if piece.reasoning:
            choices.append(self._delta(index, {"reasoning_content": piece.reasoning}))
        if piece.text or (piece.tokens and self.wants_log_probs):
            choices.append(self._delta(index, {"content": piece.text}, logprobs=self._log_probs(piece.tokens)))
        if piece.is_end:
            choices.append(self._delta(index, {}, finish_reason=answer.finish_reason, **answer.own_fields))
        return choices

    def _delta(self, index: int, delta: dict, **fields) -> dict:
        return {"index": index, "delta": delta, "finish_reason": None, "logprobs": None} | fields

    def _log_probs(self, tokens: Sequence[tuple[str, float]]) -> dict | None:
        if not self.wants_log_probs:
            return None
        content = [
            {"token": text, "logprob": log_prob, "bytes": list(text.encode()), "top_logprobs": []}
            for text, log_prob in tokens
        ]
        return {"content": content, "refusal": None}


def form_of(kind: type[ReplyForm], served: Served, wants_log_probs: bool, num_prompt_tokens: int) -> ReplyForm:
    """A form with a name of its own."""
    return kind(served, wants_log_probs, num_prompt_tokens, id=kind.prefix + secrets.token_hex(12))
