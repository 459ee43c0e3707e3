"""HTTP on a socket: uvicorn, with a bound on how long a connection may be open without a whole request."""

import asyncio
import contextlib
import logging
import math
import signal
import socket
import threading
from collections.abc import Callable

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from colar_jax.errors import UserError
from colar_jax.serving.guards import LARGEST_HEAD

# Connections that wait to be accepted.
_BACKLOG = 2048
# What uvicorn says where a reply is left in its middle: of a client that does not read (`guards`), nobody's fault here.
_LEFT = "ASGI callable returned without completing response."


def protocol(seconds_to_send: float) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1, which drops a connection that sends no whole head of a request for so long."""

    class BoundedProtocol(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            self._expect_request()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._expect_request()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.conn.trailing_data[0]:
                self._expect_request()  # the next request began before this answer was out

        def connection_lost(self, exc) -> None:
            super().connection_lost(exc)
            self._expect_nothing()

        def _expect_request(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self._expect_nothing()  # a request is there; the app bounds its body
            elif self._deadline is None:
                self._deadline = self.loop.call_later(seconds_to_send, self._drop)

        def _expect_nothing(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _drop(self) -> None:
            self._deadline = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.abort()

    return BoundedProtocol


def _is_news(record: logging.LogRecord) -> bool:
    return record.msg != _LEFT


def bind(host: str, port: int) -> socket.socket:
    """A socket of this address, before anything is loaded. UserError where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        said = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--host={host} --port={port}: {said}") from None
    return bound


class Server(uvicorn.Server):
    """Serves an application on a socket until SIGTERM; what is under way then is finished."""

    def __init__(self, app, *, seconds_to_send: float, seconds_to_finish: float, most_connections: int):
        config = uvicorn.Config(
            app,
            http=protocol(seconds_to_send),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            limit_concurrency=most_connections + 1,  # uvicorn counts the one that asks, and refuses at its limit
            h11_max_incomplete_event_size=LARGEST_HEAD,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=math.ceil(seconds_to_finish),
        )
        super().__init__(config)
        logging.getLogger("uvicorn.error").addFilter(_is_news)
        self.on_start: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def capture_signals(self):
        """SIGTERM and Ctrl-C end serving; uvicorn would raise them again afterwards, as if it had been killed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        self.on_start()
