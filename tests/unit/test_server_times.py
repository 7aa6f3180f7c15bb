"""What a client may take its time for, and when its connection is closed."""

from __future__ import annotations

import socket

import pytest

from policyd_rate_limit.server import flow as flow_module
from policyd_rate_limit.server.connection import PARTIAL_REQUEST_SECONDS
from support.serving import IDLE, messages, requested, serving
from support.wait import until


@pytest.mark.parametrize("unread", [20_000, 10_000_000], ids=["beyond the bound", "below the bound"])
async def test_a_client_that_never_reads_is_closed_when_it_is_idle(
    monkeypatch: pytest.MonkeyPatch, unread: int
) -> None:
    monkeypatch.setattr(flow_module, "MAX_UNREAD", unread)

    async with serving() as served:
        served.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
        served.service.at_once = lambda _name: "x" * 1_000_000
        client = await served.connect(receive_buffer=10_000)
        await client.ask("a")
        await served.asked("a")
        served.pass_time(IDLE - 1)
        await served.settled()
        assert len(served.connections) == 1
        served.pass_time(1)
        served.pass_time(1)
        await until(lambda: not served.connections)


async def test_a_client_that_asks_on_and_never_reads_is_closed_when_it_is_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is not asked, since the answers before are not read, waits for the client and not for us."""
    monkeypatch.setattr(flow_module, "MAX_UNREAD", 20_000)

    async with serving() as served:
        served.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
        served.service.at_once = lambda _name: "x" * 1_000_000
        client = await served.connect(receive_buffer=10_000)
        await client.ask("a")
        await served.asked("a")
        await client.ask("b")
        await served.settled()
        served.pass_time(IDLE)
        served.pass_time(1)
        await until(lambda: not served.connections)
        assert served.service.asked == ["a"]


async def test_half_a_request_has_its_time(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as served:
        client = await served.connect()
        half = requested("a")
        await client.send(half[:5])
        # A byte now and then does not extend it.
        for at in range(5, 25):
            await until(lambda: served.connection._decoder.partial)
            served.pass_time((PARTIAL_REQUEST_SECONDS - 1) / 20)
            await client.send(half[at : at + 1])
            await served.settled()
        assert len(served.connections) == 1
        served.pass_time(1.001)
        await client.end()
        assert not served.service.asked
    [message] = messages(caplog)
    assert message.startswith("client [127.0.0.1]:")
    assert "half a request" in message


async def test_each_request_has_a_time_of_its_own() -> None:
    async with serving() as served:
        served.service.at_once = lambda name: name
        client = await served.connect()
        data = requested("a")
        await client.send(data[:7])
        for _ in range(3):
            await until(lambda: served.connection._partial_since == served.server.connections.now)
            served.pass_time(PARTIAL_REQUEST_SECONDS - 1)
            await client.send(data[7:] + data[:7])
            await client.answers("a")
        await client.send(data[7:])
        await client.answers("a")
        served.pass_time(PARTIAL_REQUEST_SECONDS)
        await served.settled()
        assert client.silent()


async def test_an_idle_connection_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as served:
        served.service.at_once = lambda name: name
        idle, busy = await served.connect(), await served.connect()
        served.pass_time(IDLE - 1)
        await busy.ask("a")
        await busy.answers("a")
        served.pass_time(1)
        await idle.end()
        await until(lambda: len(served.connections) == 1)
        assert busy.silent()
        served.pass_time(IDLE - 1)
        await busy.end()
    assert not messages(caplog)


async def test_who_waits_for_an_answer_is_neither_idle_nor_slow() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.send(requested("a") + b"request=")
        await served.asked("a")
        served.pass_time(10 * IDLE)
        await served.settled()
        assert client.silent()
        served.service.answers[0]("late")
        # Both times begin with the answer.
        served.pass_time(PARTIAL_REQUEST_SECONDS - 1)
        await client.answers("late")
        await client.send(b"smtpd_access_policy\ninstance=b\n\n")
        await served.asked("a", "b")


async def test_the_tick_closes_what_is_idle() -> None:
    async with serving(tick_seconds=0.001) as served:
        served.server.idle_seconds = 0.0
        client = await served.connect_in_vain()
        await client.end()
