"""From a request to jobs of the scheduler, and from what happens to them to whole answers."""

import asyncio
import contextlib
import dataclasses
import functools
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import numpy as np

from colar_jax.data.prompts import AUTO_SPEED, Speed, question_prompt, speed_text
from colar_jax.data.recipe import Recipe, Told
from colar_jax.data.tokenizers import Tokenizer
from colar_jax.errors import UserError
from colar_jax.serving.jobs import FailedError, Job, QueueFullError, StoppingError
from colar_jax.serving.narration import Happening
from colar_jax.serving.protocol import ChatRequest, CompletionRequest
from colar_jax.serving.refusal import Refusal
from colar_jax.serving.scheduler import Scheduler
from colar_jax.serving.sizes import SlotSizes
from colar_jax.serving.slot_engine import Ask
from colar_jax.serving.traced_ways import TracedWays
from colar_jax.settings.checks import A_SPEED, is_speed
from colar_jax.thinker.asked import COLDEST, check_questions

logger = logging.getLogger(__name__)

_MOST_CHARACTERS_OF_A_TOKEN = 32

# Waits for the questions of a request to be read, or raises where nobody waits for it any more.
InBounds = Callable[[Awaitable[list[np.ndarray]]], Awaitable[list[np.ndarray]]]


@dataclasses.dataclass(frozen=True)
class Served:
    """The model that is served.

    Attributes:
        name: what clients call it.
        speeds: that it was trained at; the first is the one of requests that name none.
        has_speed: whether a request may choose another.
        recipes: of its stage, and of those whose latents that improves with rewards.
    """

    name: str
    ways: TracedWays
    tokenizer: Tokenizer
    speeds: tuple[Speed, ...]
    has_speed: bool
    recipes: tuple[Recipe, ...]
    sizes: SlotSizes
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))

    def was_trained(self, speed: Speed) -> bool:
        """Whether it was trained at a speed."""
        return any(recipe.was_trained(speed) for recipe in self.recipes)


class Call:
    """One request under way: its jobs, and what happens to them as `(number of the answer, happenings)`.

    Args:
        started: when it came, before its questions were read; by `time.perf_counter`.
    """

    def __init__(self, num_prompt_tokens: int, num_answers: int, started: float):
        self.num_prompt_tokens, self.num_answers, self.started = num_prompt_tokens, num_answers, started
        self.jobs: list[Job] = []
        self.has_begun = self.is_over = False
        self._queue: asyncio.Queue[tuple[int, list[Happening]]] = asyncio.Queue()

    def put(self, index: int, happenings: list[Happening]) -> None:
        """Something has happened to an answer; on the event loop."""
        self._queue.put_nowait((index, happenings))

    async def happenings(self) -> AsyncIterator[tuple[int, list[Happening]]]:
        """Until the caller has seen enough."""
        while True:
            yield await self._queue.get()


class Service:
    """Takes requests for one model.

    Args:
        most_answers: of one request, over all its questions.
    """

    def __init__(self, served: Served, scheduler: Scheduler, *, most_answers: int):
        self.served, self.scheduler, self.most_answers = served, scheduler, most_answers
        self._has_warned: set[str] = set()
        self._reading, self._num_unread = asyncio.Lock(), 0

    async def begin(
        self, request: CompletionRequest | ChatRequest, in_bounds: InBounds = lambda reading: reading
    ) -> Call:
        """The request, in the queue. Refusal: it cannot be served, or not now.

        There is nothing to give up before this returns: all that is waited for, in `in_bounds`, comes before the jobs.
        """
        started = time.perf_counter()
        num_answers = self._num_answers(request)
        told, max_thoughts = self._told(request), self._max_thoughts(request)
        with self._room_for(num_answers):
            prompts = await in_bounds(self._read(request, told.said))
            call = Call(sum(map(len, prompts)), num_answers, started)
            call.jobs = [
                Job(ask, request.stream_latents and self.served.ways.in_latents, owner=call, index=ask.index)
                for ask in self._asks(request, prompts, told.number, max_thoughts)
            ]
            with _as_refusals():
                self.scheduler.submit(call.jobs)
        return call

    def _num_answers(self, request) -> int:
        """That are asked for, of a request whose fields go together."""
        served = self.served
        if request.model != served.name:
            raise Refusal(404, f"model: there is no {request.model!r} here, but {served.name!r}", param="model")
        if request.stream_latents and not request.stream:
            raise Refusal(
                400, "stream_latents: latents are told in a stream: set stream as well", param="stream_latents"
            )
        if request.stream_options is not None and not request.stream:
            raise Refusal(400, "stream_options: there is no stream: set stream as well", param="stream_options")
        questions = request.questions
        num_answers = len(questions) * request.n
        if num_answers > self.most_answers:
            raise Refusal(
                400, f"n: {num_answers} answers are asked for, and a request may have {self.most_answers}", param="n"
            )
        return num_answers

    @contextlib.contextmanager
    def _room_for(self, num_answers: int) -> Iterator[None]:
        """Places in the queue while questions are read: else all that come are read before one is refused."""
        with _as_refusals():
            self.scheduler.check_room(self._num_unread + num_answers)
        self._num_unread += num_answers
        try:
            yield
        finally:
            self._num_unread -= num_answers

    async def _read(self, request, speed: Speed) -> list[np.ndarray]:
        """The prompts of a request. Who is cancelled while others are read is not read any more."""
        # Beside the event loop, for long questions take seconds; one request at a time, for they are read in Python.
        # A thread cannot be cancelled: it is waited for by those in line, if not by who sent what it reads.
        await self._reading.acquire()
        reading = asyncio.ensure_future(asyncio.to_thread(self._prompts, request.questions, speed, request))
        reading.add_done_callback(lambda _: self._reading.release())
        return await asyncio.shield(reading)

    def _asks(self, request, prompts: list[np.ndarray], speed_number: float, max_thoughts: int) -> Iterator[Ask]:
        served = self.served
        seed = secrets.randbits(32) if request.seed is None else request.seed
        for index in range(len(prompts) * request.n):
            yield Ask(
                prompts[index // request.n],
                seed,
                index,
                temperature=request.temperature if request.temperature >= COLDEST else 0.0,
                top_p=served.ways.decode.top_p if request.top_p is None else request.top_p,
                max_thoughts=max_thoughts,
                max_tokens=min(request.answer_limit or served.sizes.max_tokens, served.sizes.max_tokens),
                speed_number=speed_number,
            )

    def end(self, call: Call) -> None:
        """Nobody waits for it any more: what is still under way is given up."""
        if not call.is_over:
            self.scheduler.cancel(call.jobs)

    def _told(self, request) -> Told:
        """What the model is told of the speed that is asked for."""
        try:
            return self.served.ways.method.recipe.told(self._speed(request))
        except UserError as error:
            raise Refusal(400, f"thinking_speed: {error}", param="thinking_speed") from None

    def _speed(self, request) -> Speed:
        served, asked = self.served, request.thinking_speed
        if asked is None:
            return served.speeds[0]
        if not served.has_speed:
            message = f"thinking_speed: {served.name} has none to choose; leave the field out"
            raise Refusal(400, message, param="thinking_speed")
        if asked != AUTO_SPEED and not is_speed(asked):
            raise Refusal(400, f"thinking_speed: {asked} is no thinking speed: {A_SPEED}", param="thinking_speed")
        if not served.was_trained(asked):
            trained = ", ".join(map(speed_text, served.speeds))
            self._warn_once(
                "speed", "a request asks for speed %s, and %s was trained at %s: such answers will be poor",
                speed_text(asked), served.name, trained,
            )  # fmt: skip
        return asked

    def _warn_once(self, about: str, message: str, *values) -> None:
        """What clients ask for, however often, is one line of the log."""
        if about not in self._has_warned:
            self._has_warned.add(about)
            logger.warning(f"{message} (said once)", *values)

    def _max_thoughts(self, request) -> int:
        served, asked = self.served, request.max_latents
        if asked is None:
            return min(served.sizes.max_thoughts, served.ways.max_thoughts)
        if not served.ways.limit_is_choosable:
            message = f"max_latents: {served.name} does not choose how long it thinks in latents; leave the field out"
            raise Refusal(400, message, param="max_latents")
        if asked > served.sizes.max_thoughts:
            message = f"max_latents: {asked} is more than this server's {served.sizes.max_thoughts}"
            raise Refusal(400, message, param="max_latents")
        return asked

    def _prompts(self, questions: list[str], speed: Speed, request) -> list[np.ndarray]:
        return [self._prompt(question, speed, request) for question in questions]

    def _prompt(self, question: str, speed: Speed, request) -> np.ndarray:
        """The question as the model was trained to see it, up to the separator that opens the reasoning."""
        tokenizer = self.served.tokenizer
        param = "messages" if isinstance(request, ChatRequest) else "prompt"
        most = self.served.sizes.max_prompt
        if len(question) > _MOST_CHARACTERS_OF_A_TOKEN * most:  # before it is read: reading takes time
            raise Refusal(400, f"{param}: {len(question)} characters are more than {most} tokens", param=param)
        ids = [*tokenizer.ids_of([question_prompt(question, speed)])[0], tokenizer.separator_id]
        if len(ids) > most:
            raise Refusal(400, f"{param}: {len(ids)} tokens with the words around it, and {most} fit", param=param)
        try:
            warn = functools.partial(self._warn_once, "words")
            check_questions([question], tokenizer, allow_unknown_words=False, warn=warn)
        except UserError as error:
            raise Refusal(400, f"{param}: {error}", param=param) from None
        return np.array(ids, np.int32)


@contextlib.contextmanager
def _as_refusals() -> Iterator[None]:
    """What a scheduler does not take, as a client is told."""
    try:
        yield
    except QueueFullError as error:
        raise Refusal(429, str(error), retry_after=error.retry_after) from None
    except FailedError as error:
        raise Refusal(503, str(error)) from None
    except StoppingError as error:
        raise Refusal(503, str(error), retry_after=1) from None
