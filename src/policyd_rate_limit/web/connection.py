"""Connections: how many, and how long one may take to say what it wants. uvicorn itself waits for ever."""

from __future__ import annotations

import asyncio
import itertools
import socket
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from policyd_rate_limit.web.visitors import ON_UNIX_SOCKET

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

MOST_CONNECTIONS = 512
"""At a time. One more has the one closed that has been waited for longest; when all are at work, itself."""

HEADER_SECONDS = 10.0
"""So long a connection may take until the head of its request is there."""

REQUEST_SECONDS = 60.0
"""So long a request may take in all, also because nobody reads the answer."""


_moments = itertools.count(1)


class Connection(H11Protocol):
    """One client, which has to say what it wants before long, and to whom it is told by which socket it has come."""

    _timer: asyncio.TimerHandle | None = None
    _awaited_since = 0  # a number that grows

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        listener = transport.get_extra_info("socket")
        if listener is not None and listener.family == socket.AF_UNIX:
            self.app = _OnUnixSocket(self.app)
        self._awaited_since = next(_moments)
        self._end_after(HEADER_SECONDS)
        if len(self.connections) > MOST_CONNECTIONS:
            awaited = [one for one in self.connections if isinstance(one, Connection) and one.is_awaited]
            longest = min(awaited, key=lambda one: one._awaited_since, default=self)
            self.connections.discard(longest)  # at once: more may come before it is told that it is lost
            longest.transport.abort()

    @property
    def is_silent(self) -> bool:
        """Whether it has asked for nothing, or has the answer."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def is_awaited(self) -> bool:
        """Whether it is waited for, for a request or the rest of one's body, and not the other way round."""
        return self.is_silent or self.cycle.more_body

    def data_received(self, data: bytes) -> None:
        was_silent = self.is_silent
        super().data_received(data)
        if self.transport.is_closing():
            return
        if not self.is_silent:
            if was_silent:
                self._awaited_since = next(_moments)
                self._end_after(REQUEST_SECONDS)
        elif self._timer is None:
            self._end_after(HEADER_SECONDS)  # for the rest of another request

    def on_response_complete(self) -> None:
        self._stop_timer()
        self._awaited_since = next(_moments)
        super().on_response_complete()
        if not self.is_silent:  # what was sent behind the request is the next one
            self._end_after(REQUEST_SECONDS)

    def timeout_keep_alive_handler(self) -> None:
        """Not only closed, which waits for ever for whoever does not read what was answered."""
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _end_after(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _OnUnixSocket:
    """The application, for requests that came by the UNIX socket."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[ON_UNIX_SOCKET] = True
        await self._app(scope, receive, send)
