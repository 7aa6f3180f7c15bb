"""A server on real sockets, with a service that answers when the test says so."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest

from policyd_rate_limit.domain.outcome import ACCEPT, Outcome
from policyd_rate_limit.domain.request import Request
from policyd_rate_limit.server.connection import Connection
from policyd_rate_limit.server.server import DRAIN_SECONDS, Server
from policyd_rate_limit.service import Asking, PolicyService
from policyd_rate_limit.system.throttle import Throttle
from support.wait import PATIENCE, until

IDLE = 300.0
RARELY = 3600.0
LOGGER = "policyd_rate_limit.server"


class Service(PolicyService):
    """Keeps what is asked; the scenario answers. ``at_once``: the answer to everything, right away."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: list[Callable[[str | None], None]] = []
        self.given_up: list[str] = []
        self.at_once: Callable[[str], str | None] | None = None

    def ask(self, request: Request, asking: Asking) -> None:
        self.asked.append(request.instance)
        self.answers.append(lambda action: asking.answer(Outcome(ACCEPT, action)))
        if self.at_once is not None:
            asking.answer(Outcome(ACCEPT, self.at_once(request.instance)))

    def unanswered(self, request: Request) -> None:
        self.given_up.append(request.instance)


class Client:
    """A socket, and what has been read from it."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def ask(self, *names: str) -> None:
        """Send a request for each of ``names``, all at once."""
        await self.send(b"".join(requested(name) for name in names))

    async def answers(self, *expected: str) -> None:
        """Read as many answers, and nothing behind them."""
        data = b""
        wanted = b"".join(f"action={action}\n\n".encode() for action in expected)
        async with asyncio.timeout(PATIENCE):
            while len(data) < len(wanted):
                received = await asyncio.get_running_loop().sock_recv(self.socket, 65536)
                assert received, f"the end after {data!r}"
                data += received
        assert data == wanted

    def silent(self) -> bool:
        """Whether there is nothing to read, not even the end."""
        try:
            return self.socket.recv(1, socket.MSG_PEEK) is None
        except BlockingIOError:
            return True

    async def end(self) -> None:
        """The server has closed the connection, and has sent nothing before that."""
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.get_running_loop().sock_recv(self.socket, 1) == b""


class ServerWithClients:
    """A server on a socket, and its clients."""

    def __init__(self, service: Service, server: Server, listener: socket.socket) -> None:
        self.service = service
        self.server = server
        self.clients: list[Client] = []
        self.listener = listener
        self.family = listener.family
        self.address = listener.getsockname()

    @property
    def connections(self) -> set[Connection]:
        return set(cast("tuple[Connection, ...]", self.server.connections.members()))

    @property
    def connection(self) -> Connection:
        [connection] = self.connections
        return connection

    async def connect(self, receive_buffer: int = 0) -> Client:
        before = len(self.connections)
        client = await self.connect_in_vain(receive_buffer)
        await until(lambda: len(self.connections) > before)
        return client

    async def connect_in_vain(self, receive_buffer: int = 0) -> Client:
        sock = socket.socket(self.family)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        self.clients.append(Client(sock))
        await asyncio.get_running_loop().sock_connect(sock, self.address)
        return self.clients[-1]

    async def settled(self) -> None:
        """Whatever was to happen has happened: several turns of the loop pass without anything."""
        for _ in range(20):
            await asyncio.sleep(0.001)

    async def asked(self, *names: str) -> None:
        await until(lambda: len(self.service.asked) >= len(names))
        assert self.service.asked == list(names)

    def pass_time(self, seconds: float) -> None:
        """As the server's tick does it."""
        self.server.look_at_the_time(self.server.connections.now + seconds)


@contextlib.asynccontextmanager
async def serving(
    path: Path | None = None,
    *more: socket.socket,
    tick_seconds: float = RARELY,
    settle_seconds: float = 0.0,
    drain_seconds: float = DRAIN_SECONDS,
) -> AsyncIterator[ServerWithClients]:
    """On a UNIX socket at ``path``, else on TCP; and on ``more`` sockets. Time passes only when the test says so."""
    listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
    listener.bind(str(path) if path else ("127.0.0.1", 0))
    service = Service()
    server = Server(
        service,
        idle_seconds=IDLE,
        bad_client=Throttle(60, lambda: 0.0),
        tick_seconds=tick_seconds,
        settle_seconds=settle_seconds,
        drain_seconds=drain_seconds,
    )
    served = ServerWithClients(service, server, listener)
    await served.server.start([served.listener, *more], 100)
    # A whole second: what is added to another time is rounded, up or down by how long the machine has been up.
    server.connections.now = float(int(server.connections.now))
    try:
        yield served
    finally:
        for connection in tuple(served.connections):
            connection.abort()
        for client in served.clients:
            client.socket.close()
        await served.server.stop()
        await until(lambda: not served.connections)
        served.listener.close()


def requested(name: str) -> bytes:
    return f"request=smtpd_access_policy\ninstance={name}\n\n".encode()


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
