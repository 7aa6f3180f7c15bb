"""What a client may take its time for, and when its connection is closed."""

from __future__ import annotations

import socket

import pytest

from policyd_rate_limit import server as server_module
from policyd_rate_limit.server import PARTIAL_REQUEST_SECONDS
from support.serving import IDLE, Run, messages, requested, serving


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
