"""Requests straight to the application, without a socket: when a client leaves is for the test to say."""

import asyncio
import json


class Client:
    """Sends one request, and keeps the reply.

    Args:
        app: the ASGI application.
        has_left: from the start; else `leave` says when.
    """

    def __init__(self, app, *, has_left: bool = False, path: str = "/v1/completions", **body):
        self._app, self._path = app, path
        self._body = json.dumps({"model": "tiny"} | body).encode()
        self._has_sent, self._left, self._messages = False, asyncio.Event(), []
        if has_left:
            self.leave()

    def leave(self) -> None:
        """Close the connection."""
        self._left.set()

    async def ask(self) -> int:
        """The status of the reply, when all of it is there; 0 for none."""
        path = self._path
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
            "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
            "headers": [(b"content-type", b"application/json")], "client": None, "server": None,
        }  # fmt: skip
        await self._app(scope, self._receive, self._send)
        return self._messages[0]["status"] if self._messages else 0

    @property
    def said(self) -> str:
        """The body of the reply."""
        return b"".join(message.get("body", b"") for message in self._messages).decode()

    async def _receive(self) -> dict:
        if not self._has_sent:
            self._has_sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._left.wait()  # does not wait where it has left, as in uvicorn
        return {"type": "http.disconnect"}

    async def _send(self, message: dict) -> None:
        await asyncio.sleep(0)  # as where the socket's buffer is full
        self._messages.append(message)
