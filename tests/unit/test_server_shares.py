"""Peers beside each other: places, turns and memory that no peer takes from the others."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from policyd_rate_limit.server import acceptor as acceptor_module
from policyd_rate_limit.server import connection as connection_module
from policyd_rate_limit.server import connections as connections_module
from policyd_rate_limit.server import server as server_module
from policyd_rate_limit.server import turns as turns_module
from policyd_rate_limit.server.server import SPARE_FILES
from policyd_rate_limit.sharing import Sharer
from policyd_rate_limit.system import peers
from support.serving import Client, ServerWithClients, messages, requested, serving
from support.wait import until


class Peers:
    """Of whom the next connections are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.next = "attacker"
        monkeypatch.setattr(server_module, "peer_of", lambda _connection: self.next)

    async def connect(self, served: ServerWithClients, name: str, number: int = 1) -> list[Client]:
        self.next = name
        before = served.server.connections.accepted
        clients = [await served.connect_in_vain() for _ in range(number)]
        await until(lambda: served.server.connections.accepted == before + number)
        return clients

    async def refused(self, served: ServerWithClients, name: str) -> None:
        self.next = name
        await (await served.connect_in_vain()).end()


@pytest.fixture
def peers_(monkeypatch: pytest.MonkeyPatch) -> Peers:
    return Peers(monkeypatch)


async def answered(*clients: Client) -> None:
    for client in clients:
        await client.ask("a")
        await client.answers("a")


async def test_beyond_the_bound_the_longest_idle_of_the_heaviest_peer_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, peers_: Peers
) -> None:
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 6)

    async with serving() as served:
        served.service.at_once = lambda name: name
        postfix = await peers_.connect(served, "postfix")
        attackers = await peers_.connect(served, "attacker", 5)
        served.pass_time(1)
        await answered(attackers[0])
        served.pass_time(1)
        for oldest in (attackers[1], attackers[2]):
            [one] = await peers_.connect(served, "postfix")
            await answered(one)
            await oldest.end()
            postfix.append(one)
        # They are not served at the cost of others any more.
        for oldest in (attackers[3], attackers[4]):
            attackers += await peers_.connect(served, "attacker")
            await oldest.end()
        await answered(*postfix, attackers[0], *attackers[5:])
        assert len(served.connections) == len(served.server.connections) == 6
    [message] = messages(caplog)
    assert message == "more than 6 connections, closing the longest idle of attacker, which has 5"


async def test_who_waits_for_an_answer_is_not_ended_for_a_peer_that_has_about_as_much(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, peers_: Peers
) -> None:
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 4)

    async with serving() as served:
        clients = await peers_.connect(served, "postfix", 4)
        for number, client in enumerate(clients):
            await client.ask(str(number))
        await served.asked(*"0123")
        await peers_.refused(served, "postfix")
        served.service.answers[2]("2")
        await clients[2].answers("2")
        await peers_.connect(served, "postfix")
        await clients[2].end()
        for number in (0, 1, 3):
            served.service.answers[number](str(number))
            await clients[number].answers(str(number))
    [message] = messages(caplog)
    assert message == "more than 4 connections, closing new ones"


async def test_places_are_as_many_as_there_are_descriptors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, peers_: Peers
) -> None:
    """Those of connections never take the descriptors that a database needs to connect again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = socket.socket()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (SPARE_FILES + lowest.fileno() + 60, hard))

    async with serving() as served:
        served.service.at_once = lambda name: name
        clients = []
        while not messages(caplog):
            clients += await peers_.connect(served, "attacker")
            assert len(clients) < 100
        [good] = await peers_.connect(served, "postfix")
        await answered(good)
        assert all(client.socket.fileno() < soft for client in clients)
    lowest.close()
    [message] = messages(caplog)
    assert "fewer than 64 descriptors left, closing the longest idle of attacker" in message


async def test_without_a_limit_of_open_files_there_are_as_many_places_as_ever(
    monkeypatch: pytest.MonkeyPatch, peers_: Peers
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    async with serving() as served:
        served.service.at_once = lambda name: name
        assert served.server.most_connections == 8_192
        await answered(*await peers_.connect(served, "postfix", 3))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS])
async def test_out_of_descriptors_whoever_connects_waits_and_it_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, peers_: Peers, number: int
) -> None:
    monkeypatch.setattr(acceptor_module, "ACCEPT_REST_SECONDS", 0.01)

    async with serving() as served:
        served.service.at_once = lambda name: name
        attackers = await peers_.connect(served, "attacker", 3)
        tries = 0

        class Failing:
            """As the listener, out of descriptors for some time."""

            fileno = served.listener.fileno

            def accept(self) -> tuple[socket.socket, object]:
                nonlocal tries
                tries += 1
                if tries <= 3:
                    raise OSError(number, "no more of them")
                return served.listener.accept()

            def close(self) -> None: ...

        failing = Failing()
        loop = asyncio.get_running_loop()
        loop.remove_reader(served.listener.fileno())
        acceptor = served.server._acceptor
        acceptor._listeners[:] = [failing]  # type: ignore[list-item]  # as much of a socket as it needs
        acceptor._listen(failing)  # type: ignore[arg-type]
        peers_.next = "postfix"
        client = await served.connect_in_vain()
        await answered(client)
        for attacker in attackers:  # in the hope that this helps
            await attacker.end()
    [message] = messages(caplog)
    assert message.startswith("cannot accept a connection: no more of them; closing the longest idle of attacker")


async def test_no_more_is_in_flight_than_the_bound_and_peers_have_it_by_turns(
    monkeypatch: pytest.MonkeyPatch, peers_: Peers
) -> None:
    monkeypatch.setattr(turns_module, "MAX_IN_FLIGHT", 4)
    monkeypatch.setattr(connection_module, "MAX_PIPELINED", 3)

    async with serving() as served:
        attackers = await peers_.connect(served, "attacker", 3)
        for number, attacker in enumerate(attackers):
            await attacker.ask(*[f"x{number}"] * 9)
            await served.settled()
        assert served.server.connections.turns.in_flight == 4
        postfix = await peers_.connect(served, "postfix", 2)
        for number, client in enumerate(postfix):
            await client.ask(f"good{number}")
        await served.settled()
        assert len(served.service.asked) == 4
        for number in range(4):  # of what was asked before
            served.service.answers[number]("first")
            await served.settled()
            assert served.server.connections.turns.in_flight == 4
        assert {"good0", "good1"} <= set(served.service.asked[4:8])
        # All are answered in the end, each in its order.
        served.service.at_once = lambda _name: "later"
        for number in range(4, 8):
            served.service.answers[number]("second")
        for client, answers in zip([*attackers, *postfix], (9, 9, 9, 1, 1), strict=True):
            data = b""
            while data.count(b"\n\n") < answers:
                data += await asyncio.get_running_loop().sock_recv(client.socket, 65536)
            assert data.count(b"\n\n") == answers
            assert client.silent()
        assert served.server.connections.turns.in_flight == 0
        assert not served.server.connections.shares.held


async def test_of_what_comes_in_one_turn_of_the_loop_no_peer_has_it_all(
    monkeypatch: pytest.MonkeyPatch, peers_: Peers
) -> None:
    """Also where all is answered at once, so that nothing is ever in flight."""
    monkeypatch.setattr(turns_module, "MAX_IN_FLIGHT", 2)

    async with serving() as served:
        served.service.at_once = lambda name: name
        attackers = await peers_.connect(served, "attacker", 8)
        [good] = await peers_.connect(served, "postfix")
        await served.settled()
        for _ in range(3):
            served.service.asked.clear()
            for attacker in attackers:
                attacker.socket.send(requested("x"))
            good.socket.send(requested("good"))
            await until(lambda: len(served.service.asked) == 9)
            assert served.service.asked.index("good") <= 4
            await served.settled()
            assert served.server.connections.turns._at_once > 0  # who asks now does not have to wait


@pytest.mark.parametrize("end", ["reset", "half closed", "fails", "no answer"])
async def test_nothing_stays_in_flight_of_who_is_gone(monkeypatch: pytest.MonkeyPatch, peers_: Peers, end: str) -> None:
    monkeypatch.setattr(turns_module, "MAX_IN_FLIGHT", 3)

    async with serving() as served:
        [client] = await peers_.connect(served, "a")
        if end == "fails":
            served.service.at_once = lambda _name: str(1 // 0)
        await client.ask("1", "2", "3", "4", "5")
        if end == "fails":
            await client.end()
            served.service.at_once = None
        else:
            await served.asked("1", "2", "3")
            if end == "reset":
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.socket.close()
                await until(lambda: not served.connections)
            elif end == "half closed":
                client.socket.shutdown(socket.SHUT_WR)
                await until(lambda: served.service.given_up == ["1", "2", "3"])
            for number in range(3):
                served.service.answers[number](None if end == "no answer" else "x")
        served.service.at_once = lambda _name: "x"
        if end == "half closed":
            await client.answers(*"xxxxx")
            await client.end()
            assert served.service.given_up == ["1", "2", "3"]
        await until(lambda: not served.connections)
        assert served.server.connections.turns.in_flight == 0
        assert not served.server.connections.shares.held
        await answered_by_x(*await peers_.connect(served, "b", 4))


async def test_what_waited_for_its_turn_at_the_end_of_the_requests_is_given_up_as_all_else(
    monkeypatch: pytest.MonkeyPatch, peers_: Peers
) -> None:
    monkeypatch.setattr(turns_module, "MAX_IN_FLIGHT", 1)

    async with serving() as served:
        [client] = await peers_.connect(served, "a")
        await client.ask("1", "2")
        await served.asked("1")
        client.socket.shutdown(socket.SHUT_WR)
        await until(lambda: served.service.given_up == ["1"])
        served.service.answers[0]("x")
        await served.asked("1", "2")
        assert served.service.given_up == ["1", "2"]
        served.service.answers[1]("y")
        await client.answers("x", "y")
        await client.end()


async def answered_by_x(*clients: Client) -> None:
    for client in clients:
        await client.ask("a")
        await client.answers("x")


async def test_what_waits_for_its_turn_is_answered_when_the_server_stops(
    monkeypatch: pytest.MonkeyPatch, peers_: Peers
) -> None:
    monkeypatch.setattr(turns_module, "MAX_IN_FLIGHT", 2)

    async with serving() as served:
        clients = await peers_.connect(served, "postfix", 5)
        for number, client in enumerate(clients):
            await client.ask(f"{number}")
            await served.settled()
        await served.asked("0", "1")
        stopping = asyncio.create_task(served.server.stop())
        for number, client in enumerate(clients):
            await until(lambda least=number: len(served.service.answers) > least)  # type: ignore[misc]
            served.service.answers[number]("x")
            await client.answers("x")
            await client.end()
        await stopping
        assert not served.connections
        assert not served.service.given_up


async def test_what_waits_is_bounded_in_all_and_the_greediest_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, peers_: Peers
) -> None:
    monkeypatch.setattr(connections_module, "MAX_HELD", 100_000)

    async with serving() as served:
        served.service.at_once = lambda name: name
        [half] = await peers_.connect(served, "postfix")
        await half.send(requested("a")[:20])
        attackers = await peers_.connect(served, "attacker", 30)
        highest = 0
        for attacker in attackers:
            await attacker.send(b"a=" + b"b" * 9_000)
            for _ in range(5):
                await asyncio.sleep(0.001)
                highest = max(highest, served.server.connections.shares.held)
        assert highest <= 100_000
        assert 1 + 9 <= len(served.connections) < 20
        assert served.server.connections.complaints["memory"] == 31 - len(served.connections)
        await half.send(requested("a")[20:])
        await half.answers("a")
    [message] = messages(caplog)
    assert "of requests wait; closing" in message


async def test_who_sends_without_end_is_read_by_turns(monkeypatch: pytest.MonkeyPatch, peers_: Peers) -> None:
    """In one turn of the loop a connection brings one buffer, however much the kernel has of it."""
    monkeypatch.setattr(connections_module, "READ_BYTES", 100)

    async with serving() as served:
        [client] = await peers_.connect(served, "attacker")
        connection = served.connection
        read: list[int] = []
        turns = 0
        push = connection._decoder.push

        class Watching:
            def __getattr__(self, name: str) -> object:
                return getattr(decoder, name)

            def push(self, data: bytes) -> None:
                read.append(turns)
                assert len(data) <= 100
                push(data)

        decoder = connection._decoder
        connection._decoder = Watching()  # type: ignore[assignment]
        await client.send(b"a=" + b"b" * 5_000)
        for _ in range(200):
            turns += 1
            await asyncio.sleep(0)
        assert sum(1 for _ in read) > 10
        assert max(read.count(turn) for turn in read) == 1


async def test_few_of_those_who_send_without_end_are_read_in_one_turn_of_the_loop(
    monkeypatch: pytest.MonkeyPatch, peers_: Peers
) -> None:
    monkeypatch.setattr(turns_module, "MAX_IN_FLIGHT", 16)

    async with serving() as served:
        clients = await peers_.connect(served, "attacker", 12)
        for client in clients:
            await client.send(b"a=" + b"b" * 3 * connections_module.READ_BYTES)
        taken: list[bool] = []
        next_turn = served.server.connections.shares.next_turn

        def counted() -> Sharer | None:
            taken.append(True)
            return next_turn()

        monkeypatch.setattr(served.server.connections.shares, "next_turn", counted)
        most = 0
        for _ in range(100):
            taken.clear()
            await asyncio.sleep(0)
            most = max(most, len(taken))
        assert 1 <= most <= 2  # 16 turns of those who ask


async def test_all_turns_of_a_turn_of_the_loop_are_for_those_who_ask(
    monkeypatch: pytest.MonkeyPatch, peers_: Peers
) -> None:
    monkeypatch.setattr(turns_module, "MAX_IN_FLIGHT", 16)

    async with serving() as served:
        served.service.at_once = lambda name: name
        clients = await peers_.connect(served, "postfix", 12)
        for client in clients:
            await client.ask("a", "b")
        most = before = 0
        while len(served.service.asked) < 24:
            before = len(served.service.asked)
            await asyncio.sleep(0)
            most = max(most, len(served.service.asked) - before)
        assert most > 8


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("192.0.2.1", "[192.0.2.1]"),
        ("::ffff:192.0.2.1", "[192.0.2.1]"),
        ("127.0.0.1", peers.LOOPBACK),
        ("127.200.3.4", peers.LOOPBACK),
        ("::1", peers.LOOPBACK),
        ("::ffff:127.0.0.9", peers.LOOPBACK),
        ("2001:db8:1:2:3:4:5:6", "[2001:db8:1:2::]/64"),
        ("2001:db8:1:2::", "[2001:db8:1:2::]/64"),
        ("fe80::1%eth0", "[fe80::]/64"),
    ],
)
def test_an_address_is_a_peer(address: str, peer: str) -> None:
    assert peers._of_address(address) == peer


def test_real_connections_have_peers(tmp_path: Path) -> None:
    listeners: list[Callable[[], socket.socket]] = [
        lambda: socket.create_server(("127.0.0.1", 0)),
        lambda: socket.create_server(("::1", 0), family=socket.AF_INET6),
        lambda: _unix(tmp_path),
    ]
    found = []
    for make in listeners:
        with make() as listener, socket.socket(listener.family) as client:
            client.connect(listener.getsockname())
            accepted, _ = listener.accept()
            with accepted:
                found.append(peers.peer_of(accepted))
    assert found == [peers.LOOPBACK, peers.LOOPBACK, f"uid {os.getuid()} on the UNIX socket"]


def _unix(directory: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(directory / "s"))
    listener.listen()
    return listener
