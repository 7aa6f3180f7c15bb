"""Connections: how many, and how long one may take to say what it wants. uvicorn itself waits for ever."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from policyd_rate_limit.web.visitors import ON_UNIX_SOCKET

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

MOST_CONNECTIONS = 512
"""At a time. One more has the one closed that has been silent for the longest time; when all are at work, itself."""

HEADER_SECONDS = 10.0
"""So long a connection may take until the head of its request is there."""


class Connection(H11Protocol):
    """One client, which has to say what it wants before long, and to whom it is told by which socket it has come."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        listener = transport.get_extra_info("socket")
        if listener is not None and listener.family == socket.AF_UNIX:
            self.app = _OnUnixSocket(self.app)
        self._wait()
        if len(self.connections) > MOST_CONNECTIONS:
            silent = [one for one in self.connections if isinstance(one, Connection) and one.is_silent]
            longest = min(silent, key=lambda one: one._since, default=self)
            self.connections.discard(longest)  # at once: more may come before it is told that it is lost
            longest.transport.abort()

    @property
    def is_silent(self) -> bool:
        """Whether it is waited for, and not the other way round."""
        return self.cycle is None or self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.is_silent:
            self._stop_waiting()
        elif self._timer is None and not self.transport.is_closing():
            self._wait()  # for the rest of another request

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._since = self.loop.time()
        self._timer = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.is_silent:
            self.transport.abort()


class _OnUnixSocket:
    """The application, for requests that came by the UNIX socket."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[ON_UNIX_SOCKET] = True
        await self._app(scope, receive, send)
