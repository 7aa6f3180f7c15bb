"""Connections over real sockets, with a service that answers when the test says so."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from policyd_rate_limit import server as server_module
from policyd_rate_limit.domain.request import Request
from policyd_rate_limit.server import PARTIAL_REQUEST_SECONDS, Connection, Server
from policyd_rate_limit.system.logs import Throttle

PATIENCE = 20.0  # seconds, for a machine that is very busy
IDLE = 300.0
LOGGER = "policyd_rate_limit.server"

Scenario = Coroutine[Any, Any, None]
Run = Callable[[Scenario], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a scenario in a loop of each kind, in which time passes only when the scenario says so."""
    monkeypatch.setattr(server_module, "TICK_SECONDS", 3600.0)
    monkeypatch.setattr(server_module, "SETTLE_SECONDS", 0.0)
    return asyncio.run if request.param == "asyncio" else uvloop.run


class Service:
    """Keeps what is asked; the scenario answers. ``at_once``: the answer to everything, right away."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: list[Callable[[str | None], None]] = []
        self.given_up: list[str] = []
        self.at_once: Callable[[str], str | None] | None = None

    def ask(self, request: Request, answer: Callable[[str | None], None]) -> None:
        self.asked.append(request.instance)
        self.answers.append(answer)
        if self.at_once is not None:
            answer(self.at_once(request.instance))

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


class World:
    """A server on a socket, and its clients."""

    def __init__(self, listener: socket.socket) -> None:
        self.service = Service()
        self.server = Server(self.service, idle_seconds=IDLE, bad_client=Throttle(60, lambda: 0.0))
        self.clients: list[Client] = []
        self.listener = listener
        self.family = listener.family
        self.address = listener.getsockname()

    @property
    def connections(self) -> set[Connection]:
        return self.server._connections

    @property
    def connection(self) -> Connection:
        [connection] = self.connections
        return connection

    async def connect(self, receive_buffer: int = 0) -> Client:
        before = len(self.connections)
        client = await self.connect_in_vain(receive_buffer)
        await self.until(lambda: len(self.connections) > before)
        return client

    async def connect_in_vain(self, receive_buffer: int = 0) -> Client:
        sock = socket.socket(self.family)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        self.clients.append(Client(sock))
        await asyncio.get_running_loop().sock_connect(sock, self.address)
        return self.clients[-1]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.001)

    async def settled(self) -> None:
        """Whatever was to happen has happened: several turns of the loop pass without anything."""
        for _ in range(20):
            await asyncio.sleep(0.001)

    async def asked(self, *names: str) -> None:
        await self.until(lambda: len(self.service.asked) >= len(names))
        assert self.service.asked == list(names)

    def pass_time(self, seconds: float) -> None:
        """As the server's tick does it."""
        self.server.now += seconds
        for connection in tuple(self.connections):
            connection.check_time(self.server.now, IDLE)


@contextlib.asynccontextmanager
async def serving(path: Path | None = None, *more: socket.socket) -> AsyncIterator[World]:
    """On a UNIX socket at ``path``, else on TCP; and on ``more`` sockets."""
    listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
    listener.bind(str(path) if path else ("127.0.0.1", 0))
    world = World(listener)
    await world.server.start([world.listener, *more], 100)
    try:
        yield world
    finally:
        for connection in tuple(world.connections):
            connection.abort()
        for client in world.clients:
            client.socket.close()
        await world.server.stop()
        await world.until(lambda: not world.connections)
        world.listener.close()


def requested(name: str) -> bytes:
    return f"request=smtpd_access_policy\ninstance={name}\n\n".encode()


def test_clients_that_ask_are_counted_each_once(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as world:
            world.service.at_once = lambda name: name
            first, second, _ = [await world.connect() for _ in range(3)]
            assert world.server.clients() == 0
            for name in ("1", "2"):
                await first.ask(name)
                await first.answers(name)
            await second.ask("3")
            await second.answers("3")
            assert world.server.clients() == 2
            await second.ask("4")
            await second.answers("4")
            assert world.server.clients() == 1
            assert world.server.clients() == 0

    run(scenario())


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("order", ["0123", "3210", "1302", "2031"])
def test_answers_keep_the_order_of_the_requests(run: Run, order: str) -> None:
    async def scenario() -> None:
        async with serving() as world:
            client = await world.connect()
            await client.ask("a", "b")
            await client.ask("c", "d")
            await world.asked("a", "b", "c", "d")
            given: set[int] = set()
            sent = 0
            for number in map(int, order):
                world.service.answers[number](f"answer {number}")
                given.add(number)
                ready = next(n for n in range(5) if n not in given)
                await client.answers(*(f"answer {n}" for n in range(sent, ready)))
                sent = ready
                await world.settled()
                assert client.silent()
            await client.ask("e")
            await world.until(lambda: len(world.service.asked) == 5)
            world.service.answers[4]("answer 4")
            await client.answers("answer 4")
            assert not world.service.given_up

    run(scenario())


def test_clients_do_not_wait_for_each_other(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as world:
            clients = [await world.connect() for _ in range(3)]
            for number, client in enumerate(clients):
                await client.ask(str(number))
                await world.asked(*"012"[: number + 1])
            for number in (2, 0):
                world.service.answers[number](f"for {number}")
                await clients[number].answers(f"for {number}")
            assert clients[1].silent()

    run(scenario())


def test_a_request_in_pieces(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as world:
            world.service.at_once = lambda name: f"to {name}"
            client = await world.connect()
            data = requested("a") + requested("b")
            for at in range(0, len(data), 10):
                await client.send(data[at : at + 10])
                await asyncio.sleep(0)
            await client.answers("to a", "to b")

    run(scenario())


def test_beyond_the_bound_of_pipelined_requests_nothing_more_is_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_PIPELINED", 4)

    async def scenario() -> None:
        async with serving() as world:
            client = await world.connect()
            names = [str(number) for number in range(12)]
            await client.ask(*names[:4])
            await world.asked(*names[:4])
            await client.ask(*names[4:8])
            await world.settled()
            await world.asked(*names[:4])
            world.service.answers[1]("1")
            await world.settled()
            await world.asked(*names[:4])
            # As soon as the first is answered, so is the second, and there is room for two.
            world.service.answers[0]("0")
            await world.asked(*names[:6])
            await client.ask(*names[8:])
            for number in range(2, 12):
                await world.asked(*names[: min(12, number // 2 * 2 + 4)])
                world.service.answers[number](names[number])
            await client.answers(*names)

    run(scenario())


def test_a_client_that_does_not_read_is_not_read_from_until_it_does(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_UNREAD", 20_000)
    long = "x" * 10_000

    async def scenario() -> None:
        async with serving() as world:
            world.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
            world.service.at_once = lambda _name: long
            client = await world.connect(receive_buffer=10_000)
            connection = world.connection
            other = await world.connect()
            sent = 0

            def taken() -> bool:
                return connection._unread or len(world.service.asked) == sent

            while not connection._unread:
                await client.ask("flood")
                sent += 1
                assert sent < 1000
                await world.until(taken)
                await world.settled()
            asked = len(world.service.asked)
            await client.ask(*["flood"] * 5)
            sent += 5
            await world.settled()
            assert len(world.service.asked) == asked
            # Nobody else notices.
            await other.ask("b")
            await other.answers(long)
            assert len(world.service.asked) == asked + 1
            await client.answers(*[long] * sent)
            assert len(world.service.asked) == sent + 1

    run(scenario())


@pytest.mark.parametrize("unread", [20_000, 10_000_000], ids=["beyond the bound", "below the bound"])
def test_a_client_that_never_reads_is_closed_when_it_is_idle(
    run: Run, monkeypatch: pytest.MonkeyPatch, unread: int
) -> None:
    monkeypatch.setattr(server_module, "MAX_UNREAD", unread)

    async def scenario() -> None:
        async with serving() as world:
            world.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
            world.service.at_once = lambda _name: "x" * 1_000_000
            client = await world.connect(receive_buffer=10_000)
            await client.ask("a")
            await world.asked("a")
            world.pass_time(IDLE - 1)
            await world.settled()
            assert len(world.connections) == 1
            world.pass_time(1)
            world.pass_time(1)
            await world.until(lambda: not world.connections)

    run(scenario())


def test_half_a_request_has_its_time(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with serving() as world:
            client = await world.connect()
            half = requested("a")
            await client.send(half[:5])
            # A byte now and then does not extend it.
            for at in range(5, 25):
                await world.until(lambda: world.connection._decoder.partial)
                world.pass_time((PARTIAL_REQUEST_SECONDS - 1) / 20)
                await client.send(half[at : at + 1])
                await world.settled()
            assert len(world.connections) == 1
            world.pass_time(1.001)
            await client.end()
            assert not world.service.asked

    run(scenario())
    [message] = messages(caplog)
    assert message.startswith("client [127.0.0.1]:")
    assert "half a request" in message


def test_each_request_has_a_time_of_its_own(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as world:
            world.service.at_once = lambda name: name
            client = await world.connect()
            data = requested("a")
            await client.send(data[:7])
            for _ in range(3):
                await world.until(lambda: world.connection._partial_since == world.server.now)
                world.pass_time(PARTIAL_REQUEST_SECONDS - 1)
                await client.send(data[7:] + data[:7])
                await client.answers("a")
            await client.send(data[7:])
            await client.answers("a")
            world.pass_time(PARTIAL_REQUEST_SECONDS)
            await world.settled()
            assert client.silent()

    run(scenario())


def test_an_idle_connection_is_closed(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with serving() as world:
            world.service.at_once = lambda name: name
            idle, busy = await world.connect(), await world.connect()
            world.pass_time(IDLE - 1)
            await busy.ask("a")
            await busy.answers("a")
            world.pass_time(1)
            await idle.end()
            await world.until(lambda: len(world.connections) == 1)
            assert busy.silent()
            world.pass_time(IDLE - 1)
            await busy.end()

    run(scenario())
    assert not messages(caplog)


def test_who_waits_for_an_answer_is_neither_idle_nor_slow(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as world:
            client = await world.connect()
            await client.send(requested("a") + b"request=")
            await world.asked("a")
            world.pass_time(10 * IDLE)
            await world.settled()
            assert client.silent()
            world.service.answers[0]("late")
            # Both times begin with the answer.
            world.pass_time(PARTIAL_REQUEST_SECONDS - 1)
            await client.answers("late")
            await client.send(b"smtpd_access_policy\ninstance=b\n\n")
            await world.asked("a", "b")

    run(scenario())


def test_the_tick_closes_what_is_idle(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "TICK_SECONDS", 0.001)

    async def scenario() -> None:
        async with serving() as world:
            world.server.idle_seconds = 0.0
            client = await world.connect_in_vain()
            await client.end()

    run(scenario())


def test_more_connections_than_the_bound(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 2)

    async def scenario() -> None:
        async with serving() as world:
            world.service.at_once = lambda name: name
            first, second = await world.connect(), await world.connect()
            for _ in range(3):
                await (await world.connect_in_vain()).end()
            for client in (first, second):
                await client.ask("a")
                await client.answers("a")
            first.socket.close()
            await world.until(lambda: len(world.connections) == 1)
            third = await world.connect()
            await third.ask("b")
            await third.answers("b")

    run(scenario())
    [message] = messages(caplog)
    assert "more than 2 connections" in message


def test_the_answers_after_the_end_of_the_requests(run: Run) -> None:
    """Who closes its half gets its answers; but Postfix, which does not, asks again over another connection."""

    async def scenario() -> None:
        async with serving() as world:
            client = await world.connect()
            await client.ask("a", "b")
            client.socket.shutdown(socket.SHUT_WR)
            await world.until(lambda: world.service.given_up == ["a", "b"])
            world.service.answers[1]("second")
            world.service.answers[0]("first")
            await client.answers("first", "second")
            await client.end()
            await world.until(lambda: not world.connections)
            assert world.service.given_up == ["a", "b"]

    run(scenario())


@pytest.mark.parametrize("data", [b"", b"request=smtpd"])
def test_the_end_without_a_request(run: Run, data: bytes) -> None:
    async def scenario() -> None:
        async with serving() as world:
            client = await world.connect()
            await client.send(data)
            client.socket.shutdown(socket.SHUT_WR)
            await client.end()
            await world.until(lambda: not world.connections)

    run(scenario())


@pytest.mark.parametrize("action", ["too late", None])
def test_an_answer_for_a_client_that_is_gone(run: Run, action: str | None, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with serving() as world:
            client = await world.connect()
            await client.ask("a", "b", "c")
            await world.asked("a", "b", "c")
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.socket.close()
            await world.until(lambda: not world.connections)
            for number in (1, 0, 2):
                world.service.answers[number](action)
            await world.settled()
            assert world.service.given_up == ["a", "b", "c"]

    run(scenario())
    assert not caplog.records


def test_what_was_answered_and_read_is_never_given_up(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as world:
            world.service.at_once = lambda name: name
            client = await world.connect()
            await client.ask("a", "b")
            await client.answers("a", "b")
            client.socket.close()
            await world.until(lambda: not world.connections)
            assert not world.service.given_up

    run(scenario())


def test_what_was_answered_and_never_read_is_given_up(run: Run) -> None:
    """The client was gone when the answer came; it asks again over another connection."""

    async def scenario() -> None:
        async with serving() as world:
            world.service.at_once = lambda name: name
            client = await world.connect()
            await client.ask("a", "b")
            await world.until(lambda: not client.silent())
            client.socket.close()
            await world.until(lambda: not world.connections)
            assert world.service.given_up == ["b"]

    run(scenario())


def test_no_answer_closes_the_connection(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with serving() as world:
            client, other = await world.connect(), await world.connect()
            await client.ask("a", "b", "c")
            await world.asked("a", "b", "c")
            world.service.answers[1](None)
            # What comes before the loop has closed it does nothing any more.
            world.service.answers[0]("never read")
            world.service.answers[2]("never read")
            with contextlib.suppress(ConnectionResetError):
                await client.answers()
            await world.until(lambda: len(world.connections) == 1)
            await other.ask("d")
            await world.asked("a", "b", "c", "d")
            world.service.answers[3]("d")
            await other.answers("d")

    run(scenario())
    assert not caplog.records


def test_after_no_answer_nothing_of_the_connection_is_asked(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as world:
            world.service.at_once = lambda _name: None
            client = await world.connect()
            await client.ask("a", "b", "c")
            await client.end()
            assert world.service.asked == ["a"]
            assert world.service.given_up == ["a"]

    run(scenario())


def test_a_service_that_fails_closes_that_connection_alone(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    def fails(name: str) -> str:
        if name == "fatal":
            raise ZeroDivisionError
        return name

    async def scenario() -> None:
        async with serving() as world:
            world.service.at_once = fails
            client, other = await world.connect(), await world.connect()
            await client.ask("fatal")
            await client.end()
            await other.ask("a")
            await other.answers("a")
            await world.until(lambda: len(world.connections) == 1)
            assert world.service.given_up == ["fatal"]

    run(scenario())
    assert any(record.exc_info and record.exc_info[0] is ZeroDivisionError for record in caplog.records)


@pytest.mark.parametrize("unix", [False, True])
def test_what_is_no_request_closes_that_connection_alone(
    run: Run, unix: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path / "policy" if unix else None) as world:
            world.service.at_once = lambda name: name
            other = await world.connect()
            for _ in range(2):
                bad = await world.connect()
                await bad.send(b"GET / HTTP/1.1\r\n\r\n")
                await bad.end()
            await other.ask("a")
            await other.answers("a")

    run(scenario())
    [message] = messages(caplog)
    assert message.startswith("client on the UNIX socket: " if unix else "client [127.0.0.1]:")
    assert message.endswith(r"expected name=value, found 'GET / HTTP/1.1\r'; closing the connection")


def test_bytes_that_come_while_the_connection_ends_are_ignored(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as world:
            client = await world.connect()
            await client.ask("a")
            await world.asked("a")
            world.connection.close_when_done()
            await client.ask("b")
            await world.settled()
            world.service.answers[0]("a")
            await client.answers("a")
            await client.end()
            assert world.service.asked == ["a"]

    run(scenario())


def test_stop_answers_what_was_asked(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server_module, "SETTLE_SECONDS", 0.05)

    async def scenario() -> None:
        async with serving() as world:
            idle, asking, late = [await world.connect() for _ in range(3)]
            await asking.ask("a", "b")
            await world.asked("a", "b")
            # Sent before the end, and not read yet.
            late.socket.send(requested("c"))
            stopping = asyncio.create_task(world.server.stop())
            await world.asked("a", "b", "c")
            await idle.end()
            assert not stopping.done()
            with pytest.raises(ConnectionRefusedError):
                await world.connect_in_vain()
            for number, name in enumerate("abc"):
                world.service.answers[number](name)
            await asking.answers("a", "b")
            await asking.end()
            await late.answers("c")
            await late.end()
            await stopping
            assert not world.connections

    run(scenario())
    assert not messages(caplog)


def test_stop_cuts_who_does_not_finish(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server_module, "DRAIN_SECONDS", 0.05)

    async def scenario() -> None:
        async with serving() as world:
            waiting, half = await world.connect(), await world.connect()
            await waiting.ask("a")
            await half.send(b"request=")
            await world.asked("a")
            await world.server.stop()
            await waiting.end()
            await half.end()
            await world.until(lambda: not world.connections)
            assert world.service.given_up == ["a"]

    run(scenario())
    [message] = messages(caplog)
    assert message.startswith("1 connections are cut")


def test_several_listeners(run: Run) -> None:
    async def scenario() -> None:
        other = socket.create_server(("127.0.0.1", 0))
        async with serving(None, other) as world:
            world.service.at_once = lambda name: f"OK {name}"
            clients = [await world.connect()]
            world.address = other.getsockname()
            clients.append(await world.connect())
            for client in clients:
                await client.ask("a")
                await client.answers("OK a")
            await world.server.stop()
            for client in clients:
                await client.end()
            with pytest.raises(ConnectionRefusedError):
                await world.connect_in_vain()
        other.close()

    run(scenario())


def test_stop_before_start(run: Run) -> None:
    async def scenario() -> None:
        await Server(Service(), idle_seconds=IDLE, bad_client=Throttle(60, lambda: 0.0)).stop()

    run(scenario())


def test_a_connection_that_comes_when_all_is_stopping_is_closed(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with serving() as world:
            world.server._closing = True
            await (await world.connect_in_vain()).end()

    run(scenario())
    assert not messages(caplog)
