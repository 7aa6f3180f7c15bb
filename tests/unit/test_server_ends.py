"""How connections end: by their clients, without an answer, with the server."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from policyd_rate_limit.server.acceptor import MAX_ACCEPTED, Acceptor
from policyd_rate_limit.server.server import Server
from policyd_rate_limit.system.throttle import Throttle
from support.serving import IDLE, Service, messages, requested, serving
from support.wait import until


async def test_the_answers_after_the_end_of_the_requests() -> None:
    """Who closes its half gets its answers; but Postfix, which does not, asks again over another connection."""
    async with serving() as served:
        client = await served.connect()
        await client.ask("a", "b")
        client.socket.shutdown(socket.SHUT_WR)
        await until(lambda: served.service.given_up == ["a", "b"])
        served.service.answers[1]("second")
        served.service.answers[0]("first")
        await client.answers("first", "second")
        await client.end()
        await until(lambda: not served.connections)
        assert served.service.given_up == ["a", "b"]


@pytest.mark.parametrize("data", [b"", b"request=smtpd"])
async def test_the_end_without_a_request(data: bytes) -> None:
    async with serving() as served:
        client = await served.connect()
        await client.send(data)
        client.socket.shutdown(socket.SHUT_WR)
        await client.end()
        await until(lambda: not served.connections)


@pytest.mark.parametrize("action", ["too late", None])
async def test_an_answer_for_a_client_that_is_gone(action: str | None, caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as served:
        client = await served.connect()
        await client.ask("a", "b", "c")
        await served.asked("a", "b", "c")
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.socket.close()
        await until(lambda: not served.connections)
        for number in (1, 0, 2):
            served.service.answers[number](action)
        await served.settled()
        assert served.service.given_up == ["a", "b", "c"]
    assert not caplog.records


async def test_what_was_answered_and_read_is_never_given_up() -> None:
    async with serving() as served:
        served.service.at_once = lambda name: name
        client = await served.connect()
        await client.ask("a", "b")
        await client.answers("a", "b")
        client.socket.close()
        await until(lambda: not served.connections)
        assert not served.service.given_up


async def test_an_answer_before_the_last_request_has_been_read() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.ask("a")
        await until(lambda: len(served.service.answers) == 1)
        served.service.answers[0]("a")
        await client.answers("a")
        await client.ask("b")
        await until(lambda: len(served.service.answers) == 2)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.socket.close()
        await until(lambda: not served.connections)
        assert served.service.given_up == ["b"]


async def test_what_was_answered_and_never_read_is_given_up() -> None:
    """The client was gone when the answer came; it asks again over another connection."""
    async with serving() as served:
        served.service.at_once = lambda name: name
        client = await served.connect()
        await client.ask("a", "b")
        await until(lambda: not client.silent())
        client.socket.close()
        await until(lambda: not served.connections)
        assert served.service.given_up == ["b"]


async def test_what_was_answered_and_not_read_is_given_up_where_the_end_hides_the_reset() -> None:
    """The end of what the client sends is seen first; that it has read nothing shows in SO_ERROR alone."""
    async with serving() as served:
        served.service.at_once = lambda name: name
        client = await served.connect()
        await client.ask("a")
        await until(lambda: not client.silent())
        client.socket.shutdown(socket.SHUT_WR)
        client.socket.close()
        await until(lambda: not served.connections)
        assert served.service.given_up == ["a"]


async def test_what_was_answered_and_read_is_not_given_up_at_the_end_of_the_requests() -> None:
    async with serving() as served:
        served.service.at_once = lambda name: name
        client = await served.connect()
        await client.ask("a")
        await client.answers("a")
        client.socket.shutdown(socket.SHUT_WR)
        await client.end()
        await until(lambda: not served.connections)
        assert not served.service.given_up


async def test_what_is_given_up_is_given_up_once() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.ask("a", "b")
        await served.asked("a", "b")
        client.socket.shutdown(socket.SHUT_WR)
        await until(lambda: served.service.given_up == ["a", "b"])
        served.connection.abort()
        await client.end()
        await served.settled()
        assert served.service.given_up == ["a", "b"]


async def test_no_answer_closes_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as served:
        client, other = await served.connect(), await served.connect()
        await client.ask("a", "b", "c")
        await served.asked("a", "b", "c")
        served.service.answers[1](None)
        # What comes before the loop has closed it does nothing any more.
        served.service.answers[0]("never read")
        served.service.answers[2]("never read")
        with contextlib.suppress(ConnectionResetError):
            await client.answers()
        await until(lambda: len(served.connections) == 1)
        await other.ask("d")
        await served.asked("a", "b", "c", "d")
        served.service.answers[3]("d")
        await other.answers("d")
    assert not caplog.records


async def test_who_is_cut_off_has_no_place_from_then_on() -> None:
    """Whoever connects next does not wait until the loop has closed it."""
    async with serving() as served:
        client = await served.connect()
        served.connection.abort()
        assert len(served.server.connections) == 0
        await client.end()


async def test_after_no_answer_nothing_of_the_connection_is_asked() -> None:
    async with serving() as served:
        served.service.at_once = lambda _name: None
        client = await served.connect()
        await client.ask("a", "b", "c")
        await client.end()
        assert served.service.asked == ["a"]
        assert served.service.given_up == ["a"]


async def test_bytes_that_come_while_the_connection_ends_are_ignored() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.ask("a")
        await served.asked("a")
        served.connection.close_when_done()
        await client.ask("b")
        await served.settled()
        served.service.answers[0]("a")
        await client.answers("a")
        await client.end()
        assert served.service.asked == ["a"]


async def test_stop_answers_what_was_asked(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(settle_seconds=0.05) as served:
        idle, asking, late = [await served.connect() for _ in range(3)]
        await asking.ask("a", "b")
        await served.asked("a", "b")
        # Sent before the end, and not read yet.
        late.socket.send(requested("c"))
        stopping = asyncio.create_task(served.server.stop())
        await served.asked("a", "b", "c")
        await idle.end()
        assert not stopping.done()
        with pytest.raises(ConnectionRefusedError):
            await served.connect_in_vain()
        for number, name in enumerate("abc"):
            served.service.answers[number](name)
        await asking.answers("a", "b")
        await asking.end()
        await late.answers("c")
        await late.end()
        await stopping
        assert not served.connections
    assert not messages(caplog)


async def test_stop_cuts_who_does_not_finish(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(drain_seconds=0.05) as served:
        waiting, half = await served.connect(), await served.connect()
        await waiting.ask("a")
        await half.send(b"request=")
        await served.asked("a")
        await served.server.stop()
        await waiting.end()
        await half.end()
        await until(lambda: not served.connections)
        assert served.service.given_up == ["a"]
    [message] = messages(caplog)
    assert message == "closing 1 connection that did not finish"


async def test_stop_before_start() -> None:
    await Server(Service(), idle_seconds=IDLE, bad_client=Throttle(60, lambda: 0.0), settle_seconds=0.0).stop()


async def test_connections_that_come_with_the_end_are_closed(caplog: pytest.LogCaptureFixture) -> None:
    """Those that are being accepted, and those that still wait for it."""
    async with serving() as served:
        clients = [await served.connect_in_vain() for _ in range(3 * MAX_ACCEPTED)]
        await served.server.stop()
        for client in clients:
            await client.end()
    assert not messages(caplog)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # uvloop leaves its own handle open
async def test_a_connection_that_is_gone_before_it_is_served_has_no_place() -> None:
    async with serving() as served:
        ours, theirs = socket.socketpair()
        with theirs:
            served.server._admit(ours)
            assert len(served.server.connections) == 1
            ours.close()
            await served.settled()
            assert len(served.server.connections) == 0


@pytest.mark.parametrize("error", [OSError("not connected"), ValueError("no such descriptor")])
async def test_a_connection_that_is_gone_when_it_is_taken_on_is_closed(error: Exception) -> None:
    """And the next is taken on."""
    accepted: list[socket.socket] = []

    def admit(connection: socket.socket) -> None:
        accepted.append(connection)
        if len(accepted) == 1:
            raise error

    acceptor = Acceptor(admit, pytest.fail)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor.start([listener], 10)
        for number in (1, 2):
            with socket.create_connection(listener.getsockname()):
                await until(lambda number=number: len(accepted) == number)  # type: ignore[misc]
        acceptor.stop()
    gone, there = accepted
    with there:
        assert gone.fileno() < 0 <= there.fileno()
