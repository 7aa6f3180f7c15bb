"""The store on one server that refuses, hangs, is away or is not ours to change: in time, in one line, uncounted."""

from __future__ import annotations

import contextlib
import pathlib
import signal
import threading
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

from policyd_rate_limit.domain.charge import Verdict, refusal
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.contract import CommitFailed, Refused
from policyd_rate_limit.storage.redis.node import Command, NodeError, Remedy, refusable
from policyd_rate_limit.storage.redis.topology import Servers
from storage.redis_stores import SHORT, TIMEOUT, ask, new_store, refused, store_on
from storage.stores import PATIENCE, admitted, demand
from support.daemon import free_port
from support.redis_servers import External, RedisServer
from support.stopwatch import Stopwatch
from support.wait import wait_until

SAID = {
    "WRONGTYPE Operation against a key holding the wrong kind of value": True,
    "ERR Error running script (call to f_0): @user_script:1: WRONGTYPE Operation against a key": True,
    "NOPERM this user has no permissions to access one of the keys used as arguments": True,
    "OOM command not allowed when used memory > 'maxmemory'.": False,
    "READONLY You can't write against a read only replica.": False,
    "LOADING Redis is loading the dataset in memory": False,
    "MISCONF Redis is configured to save RDB snapshots": False,
    "NOREPLICAS Not enough good replicas to write.": False,
    # Before Redis 7 a script's error begins with words of its own.
    "ERR Error running script (call to f_0): @user_script:1: -OOM command not allowed when used memory": False,
    "ERR Error running script (call to f_0): @user_script: 1: -READONLY You can't write against a replica.": False,
}
"""What servers say, and whether it may be the keys of one command that they refuse."""


@pytest.mark.parametrize("said", SAID, ids=lambda said: said[-30:])
def test_what_a_server_says_to_everybody_is_no_ones_keys(said: str) -> None:
    """To take it for one id's would have each daemon go on by itself, and tell nobody."""
    code, _, rest = said.partition(" ")
    command = refusable(Command(b"key"))
    command.failure = NodeError(said, Remedy.NONE, code, rest)
    assert command.is_refused is SAID[said]
    command.may_be_refused = False
    assert not command.is_refused


def test_a_connection_that_fails_is_no_ones_keys() -> None:
    """Nobody has refused anything."""
    command = refusable(Command(b"key"))
    assert not command.is_refused
    command.failure = NodeError("connection closed by the server", Remedy.RECONNECT)
    assert not command.is_refused


def test_a_script_that_the_server_forgot_is_loaded_again(server: RedisServer | External) -> None:
    with store_on(server) as store, server.client() as client:
        assert admitted(store, demand()) == [True]
        client.script_flush()
        assert admitted(store, demand("user:b", 2), demand("user:b", 2), demand("user:b", 2)) == [True, True, False]


@pytest.mark.parametrize(
    ("setting", "trouble", "remedy", "match"),
    [
        ("maxmemory", "1mb", "0", "command not allowed when used memory > 'maxmemory'"),
        ("min-replicas-to-write", "3", "0", "NOREPLICAS|Not enough good replicas"),
    ],
)
def test_a_server_that_refuses_to_write(own: RedisServer, setting: str, trouble: str, remedy: str, match: str) -> None:
    with store_on(own) as store, own.client() as client:
        assert admitted(store, demand()) == [True]
        client.set("ballast", "x" * (1 << 20))
        client.config_set(setting, trouble)
        refused(store, match)
        client.config_set(setting, remedy)
        assert admitted(store, demand("user:refused", 1)) == [True]


def test_a_replica_is_left(own: RedisServer) -> None:
    with store_on(own, rests=False) as store, own.client() as client:
        client.replicaof("127.0.0.1", free_port())
        refused(store, "read only replica")
        client.replicaof("NO", "ONE")
        assert admitted(store, demand("user:refused", 1)) == [True]


def test_the_cause_is_told_where_no_time_is_left_for_another_try(own: RedisServer) -> None:
    """The last try, which a busy machine has left no time, is not what an administrator can mend."""
    with store_on(own, rests=False, longer=TIMEOUT) as store, own.client() as client:
        client.replicaof("127.0.0.1", free_port())
        refused(store, "read only replica")


def test_a_full_disk(tmp_path: pathlib.Path) -> None:
    """The server cannot write its snapshot, and therefore takes no writes (MISCONF)."""
    server = RedisServer(tmp_path / "redis", appendonly="no", save="3600 1")
    with server, store_on(server) as store, server.client() as client:
        assert admitted(store, demand()) == [True]
        (server.directory / "dump.rdb").mkdir()
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "the snapshot fails")
        refused(store, "MISCONF")
        (server.directory / "dump.rdb").rmdir()
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "ok", "the snapshot is there")
        assert admitted(store, demand("user:refused", 1)) == [True]


def test_a_script_of_somebody_else_that_does_not_end(tmp_path: pathlib.Path) -> None:
    server = RedisServer(tmp_path / "redis", lua_time_limit="10")
    with server, store_on(server, rests=False) as store, server.client() as client:
        assert admitted(store, demand()) == [True]
        script = client.register_script("while true do end")

        def run() -> None:
            with contextlib.suppress(RedisError), server.client() as other:
                script(client=other)

        thread = threading.Thread(target=run)
        thread.start()
        wait_until(lambda: is_busy(client), "the script runs")
        refused(store, "BUSY")
        client.script_kill()
        thread.join()
        assert admitted(store, demand("user:refused", 1)) == [True]


def is_busy(client: Redis) -> bool:
    try:
        client.ping()
    except RedisError as error:
        return "BUSY" in str(error)
    return False


def test_a_server_that_is_still_reading_its_data(tmp_path: pathlib.Path) -> None:
    """For longer than anybody asks it: it looks up after each key, the first of hundreds that take 0.02 s each."""
    options = {"save": "3600 1", "appendonly": "no", "rdbcompression": "no"}
    with RedisServer(tmp_path / "redis", **options) as server, server.client() as client:
        client.mset({f"ballast{number}": "x" * 1024 for number in range(5_000)})
        client.save()
        server.kill()
        server.options["key-load-delay"] = "20000"
        server.options["loading-process-events-interval-bytes"] = "1024"
        server.start(wait=False)
        with store_on(server) as store:
            wait_until(lambda: says_loading(client), "the server reads")
            refused(store, "loading the dataset")
            server.kill()
            del server.options["key-load-delay"]
            server.start()
            assert admitted(store, demand("user:refused", 1)) == [True]


def says_loading(client: Redis) -> bool:
    try:
        client.ping()
    except RedisError as error:
        return "loading" in str(error).lower()
    return False


def test_a_counter_of_a_newer_version_is_left_alone(server: RedisServer | External) -> None:
    with store_on(server) as store, server.client() as client:
        key = f"{store._keys.prefix}:c:{{12:user:refused}}"
        client.hset(key, "m", b"\x91\x7f")
        with pytest.raises(Refused, match="another version of policyd-rate-limit"):
            ask(store, demand("user:refused", 1))
        client.delete(key)
        assert admitted(store, demand("user:refused", 1)) == [True]


def test_no_server(own: RedisServer) -> None:
    """Refused at once, and found again: with a restart between two batches nothing is noticed at all."""
    with store_on(own) as store:
        assert admitted(store, demand(maximum=2)) == [True]
        own.kill()
        own.start()
        assert admitted(store, demand(maximum=2), demand(maximum=2)) == [True, False]
    own.kill()
    with store_on(own) as store:
        refused(store, "Connection refused")
        with pytest.raises(Exception, match="Connection refused"):
            store.probe(PATIENCE)
        own.start()
        store.probe(PATIENCE)
        store.probe(PATIENCE)
        assert admitted(store, demand("user:refused", 1)) == [True]


def test_a_server_that_hangs(own: RedisServer) -> None:
    """Before it was ever reached, and with a batch in flight: memory decides that, and the server counts it once."""
    own.signal(signal.SIGSTOP)
    with store_on(own) as store:
        store._link.timeout = SHORT
        watch = Stopwatch()
        refused(store, "no connection in time")
        assert watch.seconds < 4 * SHORT
        own.signal(signal.SIGCONT)
        store._link.timeout = TIMEOUT
        assert admitted(store, demand(maximum=3)) == [True]
        own.signal(signal.SIGSTOP)
        store._link.timeout = SHORT
        watch = Stopwatch()
        with pytest.raises(CommitFailed) as failure:
            ask(store, demand(maximum=3), demand(maximum=3), demand(maximum=3))
        assert watch.seconds < 4 * SHORT
        assert [verdict.admitted for verdict in failure.value.verdicts] == [True, True, False]
        record = failure.value.record
        assert record is not None
        own.signal(signal.SIGCONT)
        store._link.timeout = TIMEOUT
        assert store.admit((), [record], 1.0) == []
        assert store.admit([demand(maximum=4), demand(maximum=4)], [record], 1.0) == [
            Verdict((1,)),
            refusal(Limit(4, 3600)),
        ]


def test_a_name_that_the_resolver_takes_long_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting ends in time, and a connection that comes later is closed."""
    closed = threading.Event()

    class Late:
        def close(self) -> None:
            closed.set()

    asked = threading.Event()

    def connect(_: Servers) -> Any:
        asked.wait()
        return Late()

    monkeypatch.setattr(Servers, "connect", connect)
    monkeypatch.setattr("policyd_rate_limit.storage.redis.link.Session", Late)
    with contextlib.closing(new_store({}, timeout=0.1)) as store:
        with pytest.raises(StoreUnavailable, match="no connection in time"):
            store.admit((), (), 0.0)
        asked.set()
        assert closed.wait(TIMEOUT)
