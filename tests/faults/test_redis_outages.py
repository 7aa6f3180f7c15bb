"""Daemons on one Redis: exact together, and nothing lost or counted twice when it, they, or the network fail.

``admitted + left == limit`` is what all of these come to: what was answered with success, and what is still admitted
afterwards, is the limit. A mail without an answer may have been counted or not.
"""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from policyd_rate_limit.backends import backend_of
from policyd_rate_limit.backends.contract import Backend
from policyd_rate_limit.config.loading import load
from support.commands import call
from support.daemon import Client, Daemon, mail
from support.faketime import Clock
from support.load import BUSY, SUCCESS, Background, Tally, admit_until_refused, answer_times, ask_all, left_for_all
from support.redis_servers import RedisServer
from support.tcp_proxy import TcpProxy
from support.wait import wait_until

DAEMONS = 4
CONNECTIONS = 64
LIMIT = 300
LIMITS = [[LIMIT, 3600], [2 * LIMIT, 86400], [10 * LIMIT, 10]]
HOT = [f"hot{number}" for number in range(6)]
COLD = [f"cold{number}" for number in range(200)]
RECOVERY_SECONDS = 40.0


@pytest.fixture
def server(tmp_path: pathlib.Path) -> Iterator[RedisServer]:
    """A server that is durable to the last answer."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[TcpProxy]:
    """A network between daemons and server."""
    with TcpProxy(("127.0.0.1", server.port)) as proxy:
        yield proxy


def daemon_on(directory: pathlib.Path, port: int, **settings: Any) -> Daemon:
    """A daemon whose Redis is at ``port``."""
    config = {"url": f"redis://127.0.0.1:{port}/0"}
    settings.setdefault("limits", LIMITS)
    settings.setdefault("db_timeout", 1.0)
    directory.mkdir(parents=True, exist_ok=True)
    return Daemon(directory, backend="redis", redis_config=config, journal_directory=str(directory), **settings)


@contextlib.contextmanager
def daemons_on(tmp_path: pathlib.Path, port: int, number: int = DAEMONS) -> Iterator[list[Daemon]]:
    """Daemons that share one limit. A busy machine is no outage for them, in which each would decide by itself."""
    with contextlib.ExitStack() as stack:
        daemons = [daemon_on(tmp_path / f"daemon{index}", port, db_timeout=20) for index in range(number)]
        for daemon in daemons:
            daemon.start(wait=False)
            stack.push(daemon.__exit__)
        for daemon in daemons:
            daemon.wait_until_ready()
        yield daemons


def mixed(chance: random.Random) -> Iterator[str]:
    """Users without end: half of the mails are of a few."""
    while True:
        yield chance.choice(HOT) if chance.random() < 0.5 else chance.choice(COLD)


def ask(daemon: Daemon, user: str, mails: int) -> int:
    """How many of ``mails`` of ``user`` are admitted."""
    with Client(daemon.address) as client:
        return [client.ask(**mail(user)) for _ in range(mails)].count(SUCCESS)


def settled(daemons: Sequence[Daemon]) -> None:
    """Wait until nothing is left to be brought into Redis: what waits goes before anything new.

    The log alone does not tell: its lines leave after the answers, that of the outage too.
    """
    for daemon in daemons:
        backend = backend_of(load(daemon.path).settings)
        with Client(daemon.address, 30) as client:

            def back(client: Client = client, daemon: Daemon = daemon, backend: Backend = backend) -> bool:
                client.ask(**mail("nobody in particular"))
                text = daemon.log_of_this_run()
                is_back = text.rfind("the database is back") >= text.rfind("limits go on from memory")
                return is_back and not any(records for _, records in backend.waiting())

            wait_until(back, "the daemon is on Redis again", RECOVERY_SECONDS)


def check(daemon: Daemon, tally: Tally, users: Sequence[str]) -> None:
    """Every mail that was answered with success counts, once."""
    assert not tally.others
    left = left_for_all(daemon.address, users, LIMIT)
    for user in users:
        total = tally.admitted[user] + left[user]
        assert LIMIT - tally.unanswered[user] <= total <= LIMIT, user


def test_four_daemons_admit_exactly_the_limit(tmp_path: pathlib.Path, server: RedisServer) -> None:
    """Hot ids and cold ones, 64 connections, three windows at once."""
    with daemons_on(tmp_path, server.port) as daemons:
        users = [*(user for user in HOT for _ in range(LIMIT + 100)), *(user for user in COLD for _ in range(15))]
        random.Random(1).shuffle(users)
        tally = ask_all([daemon.address for daemon in daemons], users, connections=CONNECTIONS)
        assert {user: tally.admitted[user] for user in HOT} == dict.fromkeys(HOT, LIMIT)
        assert {tally.admitted[user] for user in COLD} == {15}
        assert not tally.others
        assert left_for_all(daemons[0].address, COLD[:20], LIMIT) == dict.fromkeys(COLD[:20], LIMIT - 15)


def test_daemons_that_are_killed_and_started_again(tmp_path: pathlib.Path, server: RedisServer) -> None:
    chance = random.Random(2)
    with daemons_on(tmp_path, server.port) as daemons:
        addresses = [daemon.address for daemon in daemons]
        with Background(addresses, mixed(chance), connections=CONNECTIONS) as load:
            for daemon in daemons:
                load.wait_for_answers(300)
                daemon.kill()
                load.wait_for_answers(100)
                daemon.start()
            load.wait_for_answers(300)
        check(daemons[0], load.tally, [*HOT, *COLD[:40]])


def test_a_server_that_is_killed_and_started_again(tmp_path: pathlib.Path, server: RedisServer) -> None:
    """``kill -9`` in the middle of batches; what was answered is on its disk. Meanwhile one daemon's memory decides."""
    chance = random.Random(3)
    with daemon_on(tmp_path / "daemon", server.port) as daemon:
        with Background([daemon.address], mixed(chance), connections=CONNECTIONS) as load:
            for _ in range(4):
                load.wait_for_answers(300)
                server.kill()
                load.wait_for_answers(chance.choice([1, 300]))
                server.start()
            load.wait_for_answers(300)
        settled([daemon])
        daemon.kill()
        daemon.start()
        check(daemon, load.tally, [*HOT, *COLD[:40]])


def test_connections_that_are_cut_while_the_server_is_there(
    tmp_path: pathlib.Path, server: RedisServer, proxy: TcpProxy
) -> None:
    """Never over the limit over all daemons: what was in flight is asked again, not guessed."""
    chance = random.Random(4)
    with daemons_on(tmp_path, proxy.port) as daemons:
        with Background([daemon.address for daemon in daemons], mixed(chance), connections=CONNECTIONS) as load:
            for turn in range(30):
                load.wait_for_answers(60)
                # All are connected again: one that is cut twice while it connects may well call that an outage.
                assert [ask(daemon, "nobody in particular", 1) for daemon in daemons] == [1] * DAEMONS
                if turn % 3:
                    load.wait_for_answers(10)
                else:
                    proxy.swallow()  # requests arrive, and answers do not
                    load.wait_for_answers(0)
                proxy.cut()
            load.wait_for_answers(100)
        settled(daemons)
        check(daemons[0], load.tally, [*HOT, *COLD[:40]])
        assert proxy.connections >= 30


@pytest.mark.parametrize("mended_first", [True, False], ids=["mended while dead", "mended after the start"])
def test_what_one_daemon_admitted_alone_is_replayed_once(
    tmp_path: pathlib.Path, server: RedisServer, proxy: TcpProxy, mended_first: bool
) -> None:
    """The network fails, the daemon goes on from memory, dies, and the next one brings in its spool file."""
    with daemon_on(tmp_path / "one", proxy.port) as one, daemon_on(tmp_path / "two", server.port) as two:
        assert ask(one, "through", 50) == ask(two, "through", 50) == 50
        proxy.refuse()
        assert ask(one, "through", 60) == 60
        assert ask(one, "during", LIMIT + 5) == LIMIT
        assert ask(two, "through", 20) == 20
        one.kill()
        if mended_first:
            proxy.admit()
        one.start()
        if not mended_first:
            assert ask(one, "during", 3) == 0
            proxy.admit()
        settled([one])
        left = left_for_all(two.address, ["through", "during", "new"], LIMIT)
        assert left == {"through": LIMIT - 180, "during": 0, "new": LIMIT}
        one.kill()
        one.start()
        assert ask(one, "through", 1) == ask(two, "through", 1) == 0
        assert "Traceback" not in one.log_text() + two.log_text()


def test_packets_that_are_dropped_hold_nobody_up_for_long(
    tmp_path: pathlib.Path, server: RedisServer, proxy: TcpProxy
) -> None:
    """No reset, no answer: one batch waits for ``db_timeout``, the others for a moment; each change is told once."""
    with (
        daemon_on(tmp_path / "daemon", proxy.port, limits=[[10**6, 3600]]) as daemon,
        daemon_on(tmp_path / "calm", server.port, limits=[[10**6, 3600]]) as calm,
    ):
        assert ask(daemon, "alice", 10) == 10
        daemon.logged("ready")  # it may answer before a thread has written that
        lines = len(daemon.log_text().splitlines())
        proxy.mute()
        seconds, usual = answer_times((daemon, calm), 6)
        proxy.unmute()
        settled([daemon])
        assert seconds[-1] < max(3, BUSY * usual[-1])
        most = len(seconds) * 9 // 10
        assert seconds[most] < max(0.2, BUSY * usual[most])
        told = daemon.log_text().splitlines()[lines:]
        assert len(told) == 2, told


def test_a_slow_network(tmp_path: pathlib.Path, proxy: TcpProxy) -> None:
    """An answer that takes longer than ``db_timeout`` each time: that is an outage, and it ends."""
    with daemon_on(tmp_path / "daemon", proxy.port) as daemon:
        assert ask(daemon, "alice", 10) == 10
        proxy.delay = 2.0
        assert ask(daemon, "alice", 20) == 20
        proxy.delay = 0.0
        settled([daemon])
        assert admit_until_refused(daemon.address, "alice", LIMIT) == LIMIT - 30


def test_clocks_that_differ(tmp_path: pathlib.Path, server: RedisServer) -> None:
    """Two daemons, 90 s apart, enforce one limit by the server's clock; so does the one that is left alone."""
    limits = [[20, 60]]
    early, late = tmp_path / "early", tmp_path / "late"
    early.mkdir()
    late.mkdir()
    behind, ahead = Clock(early), Clock(late)
    behind.forward(-45)
    ahead.forward(45)
    with (
        daemon_on(early, server.port, environment=behind.environment, limits=limits) as one,
        daemon_on(late, server.port, environment=ahead.environment, limits=limits) as two,
    ):
        users = [f"user{number}" for number in range(20)]
        asked = [user for user in users for _ in range(30)]
        tally = ask_all([one.address, two.address], itertools.chain(asked), connections=16)
        assert [tally.admitted[user] for user in users] == [20] * 20
        assert ask(one, "alone", 20) == 20
        server.kill()
        assert ask(one, "alone", 3) == 0


def test_start_does_not_need_the_server(tmp_path: pathlib.Path, server: RedisServer) -> None:
    server.kill()
    with daemon_on(tmp_path / "daemon", server.port) as daemon:
        assert ask(daemon, "early", LIMIT + 3) == LIMIT
        server.start()
        settled([daemon])
        daemon.kill()
        daemon.start()
        assert left_for_all(daemon.address, ["early", "new"], LIMIT) == {"early": 0, "new": LIMIT}


def test_db_error_action_is_the_answer_while_the_server_is_away(tmp_path: pathlib.Path, server: RedisServer) -> None:
    action = "defer_if_permit Database is away"
    with daemon_on(tmp_path / "daemon", server.port, db_error_action=action) as daemon:
        assert ask(daemon, "alice", 5) == 5
        server.kill()
        with Client(daemon.address) as client:
            assert [client.ask(**mail("alice")) for _ in range(10)] == [action] * 10
            server.start()
            wait_until(lambda: client.ask(**mail("bob")) == SUCCESS, "a normal answer", RECOVERY_SECONDS)
        assert admit_until_refused(daemon.address, "alice", LIMIT) == LIMIT - 5


def test_clean_has_nothing_to_delete(tmp_path: pathlib.Path, server: RedisServer) -> None:
    daemon = daemon_on(tmp_path / "daemon", server.port)
    with daemon:
        assert ask(daemon, "alice", 5) == 5
    done = call(daemon.path, "--clean")
    assert (done.returncode, done.stdout) == (0, "0 records deleted\n")
    server.kill()
    done = call(daemon.path, "--clean")
    assert done.returncode == 8
    assert "Connection refused" in done.stderr
    assert done.stderr.count("\n") == 1
