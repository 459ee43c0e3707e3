"""The API: OpenAI's routes, and those for who watches the server."""

import asyncio
import contextlib
import functools
import json
import time
from collections.abc import AsyncIterator, Awaitable

import fastapi
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from colar_jax import __version__
from colar_jax.data.prompts import speed_text
from colar_jax.serving.counters import Metrics
from colar_jax.serving.forms import ChatForm, CompletionForm, ReplyForm, form_of
from colar_jax.serving.growing_answer import GrowingAnswer
from colar_jax.serving.guards import Bounds, Guard
from colar_jax.serving.protocol import ChatRequest, CompletionRequest
from colar_jax.serving.refusal import Refusal, refusal_of_fields
from colar_jax.serving.service import Call, Service


def make_app(service: Service, metrics: Metrics, bounds: Bounds, *, lifespan=None) -> fastapi.FastAPI:
    """The ASGI application."""
    app = fastapi.FastAPI(
        title="colar_jax", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan,
        responses={status: {"description": text} for status, text in _STATUSES.items()},
    )  # fmt: skip
    app.add_middleware(Guard, bounds=bounds, count=metrics.replied)
    api = Api(service, metrics, bounds)
    app.post("/v1/completions")(api.complete)
    app.post("/v1/chat/completions")(api.chat)
    app.get("/v1/models")(api.models)
    app.get("/v1/models/{name:path}")(api.model)
    app.get("/healthz")(api.health)
    app.get("/metrics")(api.metrics)
    app.exception_handler(Refusal)(_say_refusal)
    app.exception_handler(RequestValidationError)(_say_fields)
    app.exception_handler(HTTPException)(_say_http)
    return app


_STATUSES = {
    400: "a field is missing, unknown or not what it should be",
    401: "the API key is missing or wrong",
    404: "there is no such model",
    408: "the body did not come in time",
    413: "the body is too large",
    429: "the queue is full: try again after Retry-After seconds",
    500: "a fault of the server",
    503: "the server is about to stop, or takes no more connections",
    504: "the answer took too long",
}


class Api:
    """The routes."""

    def __init__(self, service: Service, metrics: Metrics, bounds: Bounds):
        self._service, self._metrics, self._bounds = service, metrics, bounds

    async def complete(self, request: fastapi.Request, body: CompletionRequest) -> Response:
        """Answer questions."""
        return await self._reply(request, body, CompletionForm)

    async def chat(self, request: fastapi.Request, body: ChatRequest) -> Response:
        """Answer a question."""
        return await self._reply(request, body, ChatForm)

    async def models(self) -> dict:
        """The one model."""
        return {"object": "list", "data": [self._model()]}

    async def model(self, name: str) -> dict:
        """A model by its name."""
        if name != self._service.served.name:
            raise Refusal(404, f"model: there is no {name!r} here, but {self._service.served.name!r}", param="model")
        return self._model()

    async def health(self) -> JSONResponse:
        """Whether answers are made, and how much there is to do."""
        scheduler = self._service.scheduler
        ready, all_of_them = scheduler.num_programs
        state = {
            "status": "ok" if scheduler.is_alive else "failed",
            "waiting": scheduler.num_waiting,
            "active": scheduler.num_active,
            "slots": scheduler.num_slots,
            "programs": {"compiled": ready, "of": all_of_them},
        }
        return JSONResponse(state, 200 if scheduler.is_alive else 503)

    async def metrics(self) -> Response:
        """Counters for Prometheus."""
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _model(self) -> dict:
        served = self._service.served
        return {
            "id": served.name,
            "object": "model",
            "created": served.created,
            "owned_by": "colar_jax",
            "speeds": [speed_text(speed) for speed in served.speeds] if served.has_speed else [],
            "max_prompt_tokens": served.sizes.max_prompt,
            "max_latents": served.sizes.max_thoughts if served.ways.in_latents else 0,
            "max_tokens": served.sizes.max_tokens,
        }

    async def _reply(self, request: fastapi.Request, body, kind: type[ReplyForm]) -> Response:
        end = time.perf_counter() + self._bounds.seconds_to_answer
        in_bounds = functools.partial(self._in_bounds, request, end)
        try:
            call = await self._service.begin(body, in_bounds)
        except _GivenUp:
            self._metrics.given_up.inc()
            raise
        with contextlib.ExitStack() as owned:
            owned.enter_context(self._ending(call))
            self._metrics.prompt_tokens.inc(call.num_prompt_tokens)
            form = form_of(kind, self._service.served, body.wants_log_probs, call.num_prompt_tokens)
            answers = [GrowingAnswer(self._service.served) for _ in range(call.num_answers)]
            if body.stream:
                includes_usage = body.stream_options is not None and body.stream_options.include_usage
                return _Stream(self._events(call, form, answers, includes_usage), owned.pop_all())
            await in_bounds(self._finish(call, answers))
        return JSONResponse(form.whole(answers))

    async def _finish(self, call: Call, answers: list[GrowingAnswer]) -> None:
        async for index, happenings in call.happenings():
            self._note(call, answers[index], answers[index].add(happenings))
            if all(answer.is_over for answer in answers):
                self._note_end(call)
                return

    async def _events(
        self, call: Call, form: ReplyForm, answers: list[GrowingAnswer], includes_usage: bool
    ) -> AsyncIterator[str]:
        for index in range(len(answers)):
            for choice in form.opening(index):
                yield _event(form.piece([choice]))
        try:
            async for index, happenings in self._in_time(call):
                piece = answers[index].add(happenings)
                self._note(call, answers[index], piece)
                for choice in form.pieces_of(index, piece, answers[index]):
                    yield _event(form.piece([choice]))
                if all(answer.is_over for answer in answers):
                    break
        except Refusal as refusal:  # the status has been sent already
            yield _event(refusal.as_json())
            return
        self._note_end(call)
        if includes_usage:
            yield _event(form.piece([], form.usage(answers)))
        yield "data: [DONE]\n\n"

    async def _in_time(self, call: Call) -> AsyncIterator[tuple]:
        """What happens. _GivenUp: it took too long."""
        end, happenings = call.started + self._bounds.seconds_to_answer, call.happenings()
        while True:
            try:
                yield await asyncio.wait_for(anext(happenings), end - time.perf_counter())
            except TimeoutError:
                raise self._too_late() from None

    async def _in_bounds(self, request: fastapi.Request, end: float, work: Awaitable):
        """What comes of it. _GivenUp: the client has gone away, and nobody reads the reply; or it took too long."""

        async def until_gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        working, watching = asyncio.ensure_future(work), asyncio.ensure_future(until_gone())
        try:
            await asyncio.wait(
                (working, watching), timeout=end - time.perf_counter(), return_when=asyncio.FIRST_COMPLETED
            )
            if working.done():
                return working.result()
            raise _GivenUp(499, "the client went away") if watching.done() else self._too_late()
        finally:
            working.cancel()
            watching.cancel()

    def _too_late(self) -> "_GivenUp":
        return _GivenUp(504, f"the answer took longer than {self._bounds.seconds_to_answer:g} s")

    @contextlib.contextmanager
    def _ending(self, call: Call):
        try:
            yield
        finally:
            if not call.is_over:
                self._metrics.given_up.inc()
            self._service.end(call)

    def _note(self, call: Call, answer: GrowingAnswer, piece) -> None:
        if piece.tokens and not call.has_begun:
            call.has_begun = True
            self._metrics.first_token.observe(time.perf_counter() - call.started)
        if piece.is_end:
            self._metrics.answers.inc()
            self._metrics.latents.inc(answer.num_thoughts)
            self._metrics.tokens.inc(answer.num_tokens)

    def _note_end(self, call: Call) -> None:
        call.is_over = True
        self._metrics.whole_answer.observe(time.perf_counter() - call.started)


class _GivenUp(Refusal):
    """A request that was taken, and is not finished."""


class _Stream(StreamingResponse):
    """Events as they come, and what ends with them.

    Not in the generator of the events: where the client has left before the first of them, that is never begun, and
    where it leaves between two of them, it waits for the garbage collector.
    """

    def __init__(self, events: AsyncIterator[str], ending: contextlib.AbstractContextManager):
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._ending = ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._ending:
            await super().__call__(scope, receive, send)


def _event(data: dict) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def _say_refusal(request: fastapi.Request, refusal: Refusal) -> Response:
    return refusal.response()


def _say_fields(request: fastapi.Request, error: RequestValidationError) -> Response:
    return refusal_of_fields(error.errors()).response()


def _say_http(request: fastapi.Request, error: HTTPException) -> Response:
    reply = Refusal(error.status_code, str(error.detail)).response()
    for name, value in (error.headers or {}).items():
        reply.headers[name] = value
    return reply
