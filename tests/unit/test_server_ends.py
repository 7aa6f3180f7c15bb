"""How connections end: by their clients, without an answer, with the server."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from policyd_rate_limit import server as server_module
from policyd_rate_limit.server import Server
from policyd_rate_limit.system.throttle import Throttle
from support.serving import IDLE, Run, Service, messages, requested, serving


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


def test_an_answer_before_the_last_request_has_been_read(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as world:
            client = await world.connect()
            await client.ask("a")
            await world.until(lambda: len(world.service.answers) == 1)
            world.service.answers[0]("a")
            await client.answers("a")
            await client.ask("b")
            await world.until(lambda: len(world.service.answers) == 2)
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.socket.close()
            await world.until(lambda: not world.connections)
            assert world.service.given_up == ["b"]

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


def test_what_was_answered_and_not_read_is_given_up_where_the_end_hides_the_reset(run: Run) -> None:
    """The end of what the client sends is seen first; that it has read nothing shows in SO_ERROR alone."""

    async def scenario() -> None:
        async with serving() as world:
            world.service.at_once = lambda name: name
            client = await world.connect()
            await client.ask("a")
            await world.until(lambda: not client.silent())
            client.socket.shutdown(socket.SHUT_WR)
            client.socket.close()
            await world.until(lambda: not world.connections)
            assert world.service.given_up == ["a"]

    run(scenario())


def test_what_was_answered_and_read_is_not_given_up_at_the_end_of_the_requests(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as world:
            world.service.at_once = lambda name: name
            client = await world.connect()
            await client.ask("a")
            await client.answers("a")
            client.socket.shutdown(socket.SHUT_WR)
            await client.end()
            await world.until(lambda: not world.connections)
            assert not world.service.given_up

    run(scenario())


def test_what_is_given_up_is_given_up_once(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as world:
            client = await world.connect()
            await client.ask("a", "b")
            await world.asked("a", "b")
            client.socket.shutdown(socket.SHUT_WR)
            await world.until(lambda: world.service.given_up == ["a", "b"])
            world.connection.abort()
            await client.end()
            await world.settled()
            assert world.service.given_up == ["a", "b"]

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
    assert message.startswith("cutting 1 connection, ")


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
