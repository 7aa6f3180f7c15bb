"""How a daemon ends and how it treats idle connections."""

from __future__ import annotations

import itertools
import pathlib
import signal
import socket
import time

import pytest

from support.daemon import Client, Daemon, encode, mail, running
from support.load import Background, left_for_all


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda number: number.name)
def test_stop_answers_every_request_that_was_sent_before(tmp_path: pathlib.Path, number: signal.Signals) -> None:
    """Requests sent completely before the signal are answered, and their mails counted; exit status 0."""
    limit, each = 30, 20
    users = [f"user{index}" for index in range(40)]
    daemon = Daemon(tmp_path, limits=[[limit, 3600]])
    with daemon:
        clients = [Client(daemon.address) for _ in users]
        for client, user in zip(clients, users, strict=True):
            assert client.ask(**mail(user)) == "dunno"  # the daemon has accepted this connection
        for client, user in zip(clients, users, strict=True):
            client.socket.sendall(b"".join(encode(**mail(user)) for _ in range(each)))
        daemon.process.send_signal(number)
        for client in clients:
            assert [client.answer() for _ in range(each)] == ["dunno"] * each
        for client in clients:
            with pytest.raises((EOFError, ConnectionError)):
                client.answer()
            client.close()
        assert daemon.process.wait(20) == 0
    with daemon:
        assert left_for_all(daemon.address, users, limit) == dict.fromkeys(users, limit - 1 - each)


@pytest.mark.long(10)
def test_stop_under_load_forgets_nothing(tmp_path: pathlib.Path) -> None:
    """Ten orderly stops under load: every success answer is counted, and each stop is quick and clean."""
    limit = 60
    users = [f"user{index}" for index in range(100)]
    daemon = Daemon(tmp_path, limits=[[limit, 3600]])
    endless = itertools.cycle(users)
    with daemon, Background([daemon.address], endless, connections=32) as load:
        for _ in range(10):
            load.wait_for_answers(100)
            assert daemon.stop() == 0
            daemon.start()
    tally = load.tally
    assert not tally.others
    with daemon:
        left = left_for_all(daemon.address, users, limit)
    for user in users:
        total = tally.admitted[user] + left[user]
        assert limit - tally.unanswered[user] <= total <= limit, user


def test_stop_does_not_wait_for_idle_or_silent_clients(tmp_path: pathlib.Path) -> None:
    """A client in the middle of a request, an idle one and one that never reads do not hold the daemon up."""
    with (
        running(tmp_path, limits=[[10**6, 3600]]) as daemon,
        Client(daemon.address) as idle,
        Client(daemon.address) as half,
        Client(daemon.address) as deaf,
    ):
        if True:
            assert idle.ask(**mail("idle")) == "dunno"
            half.socket.sendall(encode(**mail("half"))[:-10])
            deaf.socket.setblocking(False)
            block = b"".join(encode(**mail("deaf")) for _ in range(100))
            try:
                for _ in range(1000):
                    deaf.socket.send(block)
            except BlockingIOError:
                pass
            began = time.monotonic()
            assert daemon.stop() == 0
            assert time.monotonic() - began < 15


def test_an_idle_connection_is_closed_after_delay_to_close(tmp_path: pathlib.Path) -> None:
    """Two seconds without a request: closed, with nothing sent. A connection that talks stays open."""
    with running(tmp_path, delay_to_close=2) as daemon, Client(daemon.address) as busy:
        with Client(daemon.address) as idle, Client(daemon.address) as fresh:
            assert idle.ask(**mail("alice")) == "dunno"
            began = time.monotonic()
            closed: dict[socket.socket, float] = {}
            for client in (idle, fresh):
                client.socket.setblocking(False)
            while len(closed) < 2 and time.monotonic() - began < 12:
                assert busy.ask(**mail("bob", sasl_username="")) == "dunno"
                for client in (idle, fresh):
                    if client.socket not in closed:
                        try:
                            assert client.socket.recv(1) == b""
                            closed[client.socket] = time.monotonic() - began
                        except BlockingIOError:
                            time.sleep(0.05)
        assert len(closed) == 2, "an idle connection is still open"
        assert min(closed.values()) > 1.5
        assert max(closed.values()) < 8
        assert busy.ask(**mail("bob", sasl_username="")) == "dunno"
