"""What stands before the API: the key, how large a body may be, and how long a client may take to send or read."""

import asyncio
import dataclasses
import hmac
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from colar_jax.serving.refusal import Refusal

# What answers without a key: who watches a server has none.
_OPEN = ("/healthz", "/metrics")

LARGEST_HEAD = 32 * 1024  # bytes of a path with its headers

# Is told of every reply: its path and its status.
Count = Callable[[str, int], None]


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a client may send, and how long it may take.

    Attributes:
        body: bytes of a body at most.
        seconds_to_send: a request has to be there after so long, from its first byte.
        seconds_to_read: a piece of a reply has to be taken after so long.
        seconds_to_answer: a request is given up after so long.
        api_key: empty: none is asked for.
    """

    body: int = 1 << 20
    seconds_to_send: float = 20.0
    seconds_to_read: float = 30.0
    seconds_to_answer: float = 120.0
    api_key: str = ""


class SlowReaderError(Exception):
    """A client does not take its reply."""


class Guard:
    """ASGI: lets through what is within bounds."""

    def __init__(self, app: ASGIApp, bounds: Bounds, count: Count):
        self._app, self._bounds, self._count = app, bounds, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_in_time(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._count(scope["path"], message["status"])
            try:
                await asyncio.wait_for(send(message), self._bounds.seconds_to_read)
            except TimeoutError:  # one who does not read fills the buffers
                raise SlowReaderError from None

        try:
            self._check_head(scope)
            self._check_key(scope)
            body = await self._body(scope, receive)
        except Refusal as refusal:
            reply = refusal.response()
            reply.headers["Connection"] = "close"  # the rest of the body is not read
            await reply(scope, receive, send_in_time)
            return
        if body is None:
            return
        is_read = False

        async def receive_read() -> Message:
            nonlocal is_read
            if is_read:
                return await receive()
            is_read = True
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            await self._app(scope, receive_read, send_in_time)
        except* SlowReaderError:
            pass  # a reply that ends in its middle closes the connection

    def _check_head(self, scope: Scope) -> None:
        size = len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(a) + len(b) for a, b in scope["headers"])
        if size > LARGEST_HEAD:  # one that came in a single piece; others have ended before
            raise Refusal(431, f"the path and the headers have {size} bytes, and may have {LARGEST_HEAD}")

    def _check_key(self, scope: Scope) -> None:
        wanted = self._bounds.api_key
        if not wanted or scope["path"] in _OPEN:
            return
        kind, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(
            given.strip().encode("latin-1"), wanted.encode()
        )  # of headers: bytes as they came
        if kind.lower() != "bearer" or not is_right:
            raise Refusal(401, "the API key is missing or wrong: send Authorization: Bearer <key>")

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None where the client went away before it was there."""
        most, parts, size = self._bounds.body, [], 0
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared[:20]) > most:
            raise Refusal(413, f"the body has {declared[:20]} bytes, and may have {most}")
        try:
            async with asyncio.timeout(self._bounds.seconds_to_send):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise Refusal(413, f"the body has more than {most} bytes")
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            message = f"the body did not come within {self._bounds.seconds_to_send:g} s"
            raise Refusal(408, message) from None
