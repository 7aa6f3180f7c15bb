"""Connections over real sockets, with a service that answers when the test says so."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from policyd_rate_limit import server as server_module
from support.serving import Run, messages, requested, serving


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
            assert connection._transport is not None
            assert connection._transport.get_write_buffer_size() <= 20_000 + len(long) + 9  # the bound, and an answer
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
    peer = f"client uid {os.getuid()} on the UNIX socket: " if unix else "client [127.0.0.1]:"
    assert message.startswith(peer)
    assert message.endswith(r"expected name=value, found 'GET / HTTP/1.1\r'; closing the connection")


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
