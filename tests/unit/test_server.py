"""Connections over real sockets, with a service that answers when the test says so."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from policyd_rate_limit.server import connection as connection_module
from policyd_rate_limit.server import flow as flow_module
from support.serving import messages, requested, serving
from support.wait import until


async def test_clients_that_ask_are_counted_each_once() -> None:
    async with serving() as served:
        served.service.at_once = lambda name: name
        first, second, _ = [await served.connect() for _ in range(3)]
        assert served.server.connections.clients() == 0
        for name in ("1", "2"):
            await first.ask(name)
            await first.answers(name)
        await second.ask("3")
        await second.answers("3")
        assert served.server.connections.clients() == 2
        await second.ask("4")
        await second.answers("4")
        assert served.server.connections.clients() == 1
        assert served.server.connections.clients() == 0


@pytest.mark.parametrize("order", ["0123", "3210", "1302", "2031"])
async def test_answers_keep_the_order_of_the_requests(order: str) -> None:
    async with serving() as served:
        client = await served.connect()
        await client.ask("a", "b")
        await client.ask("c", "d")
        await served.asked("a", "b", "c", "d")
        given: set[int] = set()
        sent = 0
        for number in map(int, order):
            served.service.answers[number](f"answer {number}")
            given.add(number)
            ready = next(n for n in range(5) if n not in given)
            await client.answers(*(f"answer {n}" for n in range(sent, ready)))
            sent = ready
            await served.settled()
            assert client.silent()
        await client.ask("e")
        await until(lambda: len(served.service.asked) == 5)
        served.service.answers[4]("answer 4")
        await client.answers("answer 4")
        assert not served.service.given_up


async def test_clients_do_not_wait_for_each_other() -> None:
    async with serving() as served:
        clients = [await served.connect() for _ in range(3)]
        for number, client in enumerate(clients):
            await client.ask(str(number))
            await served.asked(*"012"[: number + 1])
        for number in (2, 0):
            served.service.answers[number](f"for {number}")
            await clients[number].answers(f"for {number}")
        assert clients[1].silent()


async def test_a_request_in_pieces() -> None:
    async with serving() as served:
        served.service.at_once = lambda name: f"to {name}"
        client = await served.connect()
        data = requested("a") + requested("b")
        for at in range(0, len(data), 10):
            await client.send(data[at : at + 10])
            await asyncio.sleep(0)
        await client.answers("to a", "to b")


async def test_beyond_the_bound_of_pipelined_requests_nothing_more_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MAX_PIPELINED", 4)

    async with serving() as served:
        client = await served.connect()
        names = [str(number) for number in range(12)]
        await client.ask(*names[:4])
        await served.asked(*names[:4])
        await client.ask(*names[4:8])
        await served.settled()
        await served.asked(*names[:4])
        served.service.answers[1]("1")
        await served.settled()
        await served.asked(*names[:4])
        # As soon as the first is answered, so is the second, and there is room for two.
        served.service.answers[0]("0")
        await served.asked(*names[:6])
        await client.ask(*names[8:])
        for number in range(2, 12):
            await served.asked(*names[: min(12, number // 2 * 2 + 4)])
            served.service.answers[number](names[number])
        await client.answers(*names)


async def test_sixty_four_requests_of_one_connection_are_in_hand_at_a_time() -> None:
    async with serving() as served:
        client = await served.connect()
        names = [str(number) for number in range(70)]
        await client.ask(*names)
        await served.asked(*names[:64])
        await served.settled()
        await served.asked(*names[:64])
        for number in range(64):
            served.service.answers[number](names[number])
        await served.asked(*names)
        await client.answers(*names[:64])


async def test_a_client_that_does_not_read_is_not_read_from_until_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_module, "MAX_UNREAD", 20_000)
    long = "x" * 10_000

    async with serving() as served:
        served.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
        served.service.at_once = lambda _name: long
        client = await served.connect(receive_buffer=10_000)
        connection = served.connection
        other = await served.connect()
        sent = 0

        def taken() -> bool:
            return connection._flow.writing_paused or len(served.service.asked) == sent

        while not connection._flow.writing_paused:
            await client.ask("flood")
            sent += 1
            assert sent < 1000
            await until(taken)
            await served.settled()
        assert connection._transport is not None
        assert connection._transport.get_write_buffer_size() <= 20_000 + len(long) + 9  # the bound, and an answer
        asked = len(served.service.asked)
        await client.ask(*["flood"] * 5)
        sent += 5
        await served.settled()
        assert len(served.service.asked) == asked
        # Nobody else notices.
        await other.ask("b")
        await other.answers(long)
        assert len(served.service.asked) == asked + 1
        await client.answers(*[long] * sent)
        assert len(served.service.asked) == sent + 1


async def test_a_service_that_fails_closes_that_connection_alone(caplog: pytest.LogCaptureFixture) -> None:
    def fails(name: str) -> str:
        if name == "fatal":
            raise ZeroDivisionError
        return name

    async with serving() as served:
        served.service.at_once = fails
        client, other = await served.connect(), await served.connect()
        await client.ask("fatal")
        await client.end()
        await other.ask("a")
        await other.answers("a")
        await until(lambda: len(served.connections) == 1)
        assert served.service.given_up == ["fatal"]
    assert any(record.exc_info and record.exc_info[0] is ZeroDivisionError for record in caplog.records)


@pytest.mark.parametrize("unix", [False, True])
async def test_what_is_no_request_closes_that_connection_alone(
    unix: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "policy" if unix else None) as served:
        served.service.at_once = lambda name: name
        other = await served.connect()
        for _ in range(2):
            bad = await served.connect()
            await bad.send(b"GET / HTTP/1.1\r\n\r\n")
            await bad.end()
        await other.ask("a")
        await other.answers("a")
    [message] = messages(caplog)
    peer = f"client uid {os.getuid()} on the UNIX socket: " if unix else "client [127.0.0.1]:"
    assert message.startswith(peer)
    assert message.endswith(r"expected name=value, found 'GET / HTTP/1.1\r'; closing the connection")


async def test_several_listeners() -> None:
    other = socket.create_server(("127.0.0.1", 0))
    async with serving(None, other) as served:
        served.service.at_once = lambda name: f"OK {name}"
        clients = [await served.connect()]
        served.address = other.getsockname()
        clients.append(await served.connect())
        for client in clients:
            await client.ask("a")
            await client.answers("OK a")
        await served.server.stop()
        for client in clients:
            await client.end()
        with pytest.raises(ConnectionRefusedError):
            await served.connect_in_vain()
    other.close()
