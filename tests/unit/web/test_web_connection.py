"""Connections that say nothing, or slowly, and too many of them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import uvicorn
from uvicorn.server import ServerState

from policyd_rate_limit.web import connection
from policyd_rate_limit.web.connection import Connection
from policyd_rate_limit.web.visitors import ON_UNIX_SOCKET
from support.web_site import World

REQUEST = b"GET /login HTTP/1.1\r\nhost: localhost\r\n\r\n"
HALF_A_FORM = (
    b"POST /login HTTP/1.1\r\nhost: localhost\r\norigin: http://localhost\r\n"
    b"content-type: application/x-www-form-urlencoded\r\ncontent-length: 20\r\n\r\nname=anna"
)


class Served:
    """Where a site listens, and whether its requests know by which socket they came."""

    def __init__(self, world: World) -> None:
        self.path = str(world.path.parent / "web.sock")
        self.port = 0
        self.by_unix_socket: list[bool] = []
        self._app = world.app

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        self.by_unix_socket.append(scope.get(ON_UNIX_SOCKET, False))
        await self._app(scope, receive, send)


@pytest_asyncio.fixture
async def served(world: World) -> AsyncIterator[Served]:
    """The site of ``world``, on a UNIX socket and on loopback."""
    made = Served(world)
    config = uvicorn.Config(made, http=Connection, ws="none", log_config=None, lifespan="off", proxy_headers=False)
    config.load()
    loop, state = asyncio.get_running_loop(), ServerState()

    def protocol() -> Connection:
        return Connection(config, state, {}, loop)

    by_path = await loop.create_unix_server(protocol, made.path)
    by_port = await loop.create_server(protocol, "127.0.0.1", 0)
    made.port = by_port.sockets[0].getsockname()[1]
    yield made
    for server in (by_path, by_port):
        server.close()
    for one in list(state.connections):
        assert isinstance(one, Connection)
        one.transport.abort()
    await asyncio.gather(*state.tasks)
    for server in (by_path, by_port):
        await server.wait_closed()


async def test_a_request_knows_by_which_socket_it_came(served: Served) -> None:
    for reader, writer in (
        await asyncio.open_unix_connection(served.path),
        await asyncio.open_connection("127.0.0.1", served.port),
    ):
        for _ in range(2):
            writer.write(REQUEST)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
        await closed(writer)
    assert served.by_unix_socket == [True, True, False, False]


@pytest.mark.parametrize("said", [b"", b"GET /login HT", REQUEST[:-2], REQUEST + b"GET / HTTP/1.1\r\nhost: l"])
async def test_who_does_not_say_what_they_want_is_not_waited_for(
    served: Served, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEADER_SECONDS", 0.1)
    reader, writer = await asyncio.open_unix_connection(served.path)

    async def drip() -> None:
        for byte in said + b"x" * 500:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0 if byte != ord("x") else 0.02)

    task = asyncio.create_task(drip())
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await closed(writer)


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close the connection, whatever the other side has done."""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_who_does_not_read_the_answer_is_not_waited_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REQUEST_SECONDS", 0.1)
    one = socket.socket(socket.AF_UNIX)
    one.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(one, served.path)
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(5):
            while True:  # until nothing more fits: answers to all of them would be megabytes
                await loop.sock_sendall(one, REQUEST * 100)
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            while await loop.sock_recv(one, 1 << 20):
                pass
    one.close()


@pytest.mark.parametrize("said", [b"", HALF_A_FORM])
async def test_many_that_are_silent_keep_nobody_else_out(
    served: Served, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MOST_CONNECTIONS", 20)
    silent = []
    for _ in range(60):
        one = socket.socket(socket.AF_UNIX)
        one.setblocking(False)
        await asyncio.get_running_loop().sock_connect(one, served.path)
        silent.append(one)
        await asyncio.get_running_loop().sock_sendall(one, said)
        for _ in range(10 if said else 1):  # until it has been read
            await asyncio.sleep(0)
    reader, writer = await asyncio.open_unix_connection(served.path)
    writer.write(REQUEST)
    async with asyncio.timeout(5):
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    await closed(writer)
    ended = [_is_closed(one) for one in silent]
    assert sum(ended) >= 40
    assert not any(ended[-10:]), "those that have been silent for the longest time are closed"
    for one in silent:
        one.close()


def _is_closed(one: socket.socket) -> bool:
    try:
        return one.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


async def test_what_is_no_http_is_answered_so(served: Served) -> None:
    for said in (b"\x16\x03\x01" + b"\x00" * 50 + b"\r\n\r\n", b"GET / HTTP/1.1 x\r\n\r\n", b"G" * 200_000):
        reader, writer = await asyncio.open_unix_connection(served.path)
        writer.write(said)
        async with asyncio.timeout(5):
            assert (await reader.read(65536)).startswith(b"HTTP/1.1 400")
        await closed(writer)
