"""What a client may send: OpenAI's form, and a few fields of our own. Anything else is refused by its name."""

from typing import Annotated, Literal

import pydantic
from pydantic import Field

# Of one request, whatever the server's own limits are.
MOST_CHARACTERS = 100_000
MOST_PROMPTS = 64
LARGEST_SEED = 2**32 - 1

Question = Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS)]
AskedSpeed = Annotated[float, Field(ge=1, le=100)] | Literal["auto"]


class StrictForm(pydantic.BaseModel):
    """Fields are of their own type, numbers are numbers, and unknown fields are mistakes."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(StrictForm):
    """What a stream says besides the answer."""

    include_usage: bool = False


class ApiRequest(StrictForm):
    """What both ways to ask have in common."""

    model: str = Field(description="the name of the model, as /v1/models says it")
    n: int = Field(1, ge=1, le=128, description="answers to each question; with temperature 0 they are all the same")
    temperature: float = Field(0.0, ge=0, le=10, description="of latents, decisions and words; 0: greedy")
    top_p: float | None = Field(None, gt=0, le=1, description="the nucleus that words are drawn from")
    seed: int | None = Field(None, ge=0, le=LARGEST_SEED, description="of what is drawn; none: another each time")
    stream: bool = Field(False, description="server-sent events, piece by piece")
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, max_length=1000, description="not read")
    thinking_speed: AskedSpeed | None = Field(None, description="tokens that a latent stands for, or auto")
    max_latents: int | None = Field(None, ge=0, description="thinking is cut there")
    stream_latents: bool = Field(False, description="with stream: each latent as it is thought")


class CompletionRequest(ApiRequest):
    """`/v1/completions`: the prompt is the question, without the words that the model was trained to see round it."""

    prompt: Question | Annotated[list[Question], Field(min_length=1, max_length=MOST_PROMPTS)]
    max_tokens: int | None = Field(None, ge=1, description="of the answer; thoughts are not counted")
    logprobs: Annotated[int, Field(ge=0, le=0)] | None = Field(None, description="0: those of the answer's tokens")

    @property
    def questions(self) -> list[str]:
        """What is asked."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def wants_log_probs(self) -> bool:
        return self.logprobs is not None

    @property
    def answer_limit(self) -> int | None:
        """Tokens of the answer at most."""
        return self.max_tokens


class TextPart(StrictForm):
    """A piece of a message."""

    type: Literal["text"]
    text: str = Field(max_length=MOST_CHARACTERS)


class Message(StrictForm):
    """The one message of a chat: these models answer a question, and remember nothing."""

    role: Literal["user"] = Field(description="these models were trained on questions alone: no system, no history")
    content: Question | Annotated[list[TextPart], Field(min_length=1, max_length=MOST_PROMPTS)]
    name: str | None = Field(None, max_length=1000, description="not read")

    @property
    def text(self) -> str:
        """All of it."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(ApiRequest):
    """`/v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1, max_length=1, description="one question")
    max_tokens: int | None = Field(None, ge=1, description="of the answer; thoughts are not counted")
    max_completion_tokens: int | None = Field(None, ge=1, description="the same")
    logprobs: bool = Field(False, description="those of the answer's tokens")

    @property
    def questions(self) -> list[str]:
        """What is asked."""
        return [self.messages[0].text]

    @property
    def wants_log_probs(self) -> bool:
        return self.logprobs

    @property
    def answer_limit(self) -> int | None:
        """Tokens of the answer at most."""
        given = [limit for limit in (self.max_tokens, self.max_completion_tokens) if limit is not None]
        return min(given, default=None)
