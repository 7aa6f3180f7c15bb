"""The store on one server: what it counts and where, what it says when it cannot, and how it connects."""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import RedisError

from policyd_rate_limit.domain.charge import RECIPIENTS, Charge, Demand, Verdict
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.domain.mails import REMEMBERED_SECONDS
from policyd_rate_limit.errors import ConfigError, StoreError, StoreUnavailable
from policyd_rate_limit.storage.administration import Hits, Override
from policyd_rate_limit.storage.base import CommitFailed
from policyd_rate_limit.storage.redis import RedisStore
from policyd_rate_limit.storage.redis_administration import RedisAdministration
from policyd_rate_limit.storage.redis_keys import Keys
from policyd_rate_limit.storage.redis_nodes import NodeError, Remedy, Servers, Session
from storage.stores import new_memory
from support.daemon import free_port
from support.programs import require
from support.redis_servers import External, RedisServer, single
from support.wait import wait_until

TIMEOUT = 10.0
SHORT = 0.5
SECRET = "s3cret/#?%"
_prefixes = (f"test{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer | External]:
    """A server for the tests that leave it as it is."""
    with single(tmp_path_factory.mktemp("redis")) as server, server.client() as client:
        yield server
        client.flushdb()


@pytest.fixture
def own(tmp_path: pathlib.Path) -> Iterator[RedisServer]:
    """A server that a test may do anything to."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


def new_store(config: dict[str, Any], timeout: float = TIMEOUT) -> RedisStore:
    return RedisStore(config, new_memory(time.time), longest=86400, timeout=timeout)


@contextlib.contextmanager
def store_on(server: RedisServer | External, timeout: float = TIMEOUT, **options: Any) -> Iterator[RedisStore]:
    """A store with a prefix of its own, unless ``options`` name one."""
    with contextlib.closing(new_store({"url": server.url, "prefix": next(_prefixes), **options}, timeout)) as store:
        yield store


def ask(store: RedisStore, *demands: Demand) -> list[Verdict]:
    return store.admit(demands, (), 1.0)


def admitted(store: RedisStore, *demands: Demand) -> list[bool]:
    return [verdict.admitted for verdict in ask(store, *demands)]


def demand(
    key: str = "user:alice",
    maximum: int = 10,
    *,
    cost: int = 1,
    seconds: int = 3600,
    mail: str = "",
    part: str = "",
    settles: bool = False,
) -> Demand:
    """A mail of ``cost`` recipients of one key with one limit."""
    return Demand((Charge(key, RECIPIENTS, cost, (Limit(maximum, seconds),)),), mail, part, settles)


# What is counted


def test_a_limit_within_a_batch_and_over_batches(server: RedisServer | External) -> None:
    with store_on(server) as store:
        for left in (3, 0):
            assert admitted(store, *([demand(maximum=3)] * 5)) == [index < left for index in range(5)]
        assert ask(store, demand(maximum=3)) == [Verdict(False, "user:alice", Limit(3, 3600))]
        assert ask(store, demand("user:bob", 3, cost=3), demand("user:bob", 3)) == [
            Verdict(True, charged=3),
            Verdict(False, "user:bob", Limit(3, 3600)),
        ]


def test_charges_of_one_mail_are_admitted_all_or_none(server: RedisServer | External) -> None:
    limits = (Limit(5, 60), Limit(3, 3600))

    def asks(**costs: int) -> Demand:
        return Demand(tuple(Charge(key, RECIPIENTS, cost, limits) for key, cost in costs.items()), "m", "")

    with store_on(server) as store:
        assert ask(store, asks(user=2, domain=4)) == [Verdict(False, "domain", Limit(3, 3600))]
        assert ask(store, asks(user=2, domain=6)) == [Verdict(False, "domain", Limit(5, 60))]
        assert ask(store, asks(user=3, domain=2)) == [Verdict(True, charged=3)]


def test_units_of_one_key_are_counted_apart(server: RedisServer | External) -> None:
    limits = (Limit(1, 60),)
    asks = [Demand((Charge("user:alice", unit, 1, limits),)) for unit in ("", "#bytes", "", "#bytes")]
    with store_on(server) as store:
        assert admitted(store, *asks) == [True, True, False, False]


def test_daemons_share_counts_and_mails(server: RedisServer | External) -> None:
    with store_on(server) as one, store_on(server, prefix=one._keys.prefix) as two:
        first = demand(maximum=2, mail="m", part="one")
        second = demand(maximum=2, mail="m", part="two")
        assert admitted(one, first) == admitted(two, second) == [True]
        assert [verdict.charged for verdict in ask(two, first)] == [0]
        assert admitted(one, demand(maximum=2)) == [False]
        settled = demand(maximum=2, cost=1, mail="m", settles=True)
        assert ask(one, settled) == [Verdict(True, charged=-1)]
        assert admitted(two, demand(maximum=2), demand(maximum=2)) == [True, False]


def test_databases_and_prefixes_are_apart(server: RedisServer | External) -> None:
    with store_on(server) as one, store_on(server) as two:
        assert admitted(one, demand(maximum=1)) == admitted(two, demand(maximum=1)) == [True]
    with store_on(server, db=1, prefix="policyd") as one, store_on(server, db=2, prefix="policyd") as two:
        key = f"user:{time.time()}"
        assert admitted(one, demand(key, 1)) == admitted(two, demand(key, 1)) == [True]
        assert admitted(one, demand(key, 1)) == [False]


IDS = (
    "user:\N{PILE OF POO}@example.org",
    'user:o\'hara "quoted" \\ back',
    "user:\udcff\udc80 bytes that are not UTF-8",
    "user:\ud800 a lone surrogate",
    "user:{braces}",
    "user:}",
    "}",
    "user:a\nb\r\n\0c",
    "user:*?[a-z]",
    "user:" + "x" * 16_000,
    "user:" + "x" * 16_001,
    "user:" + "\N{PILE OF POO}" * 200,
)


def test_any_id_is_counted_for_itself(server: RedisServer | External) -> None:
    with store_on(server) as store:
        asks = [demand(key, 2, mail="m", part="\udcff\ud800") for key in IDS]
        assert [verdict.charged for verdict in ask(store, *asks, *asks)] == [1] * len(IDS) + [0] * len(IDS)
        again = [demand(key, 2, mail="\udcff}") for key in IDS]
        assert admitted(store, *again, *again) == [True] * len(IDS) + [True] * len(IDS)
        assert admitted(store, *(demand(key, 2) for key in IDS)) == [False] * len(IDS)


NAMES = st.text(st.sampled_from("a:{}1#\N{PILE OF POO}\ud800"), max_size=8)


@given(st.tuples(NAMES, NAMES), st.tuples(NAMES, NAMES))
def test_no_two_names_share_a_key(one: tuple[str, str], other: tuple[str, str]) -> None:
    keys = Keys("policyd", clustered=False)
    if one != other:
        assert keys.mail(*one) != keys.mail(*other)
    if one[0] != other[0]:
        assert keys.counter(one[0]) != keys.counter(other[0])
    assert keys.counter(one[0]) not in (keys.mail(*one), keys.mail(*other))


def test_keys_expire_by_themselves(server: RedisServer | External) -> None:
    """Each with what it is for; nothing stays for ever."""
    with store_on(server) as store, server.client() as client:
        short = [demand("user:short", seconds=60, mail=mail, part="r") for mail in ("first", "m")]
        ask(store, *short, demand("user:long", seconds=86400))
        prefix = store._keys.prefix
        lives = {key: client.ttl(key) for key in client.scan_iter(f"{prefix}:*")}
        assert set(lives) == {
            f"{prefix}:c:{{10:user:short}}",
            f"{prefix}:m:{{10:user:short}}m",
            f"{prefix}:c:{{9:user:long}}",
        }
        # The first mail is kept with it.
        assert REMEMBERED_SECONDS < lives[f"{prefix}:c:{{10:user:short}}"] <= REMEMBERED_SECONDS * 9 // 8 + 2
        assert 86400 < lives[f"{prefix}:c:{{9:user:long}}"] <= 86400 * 9 // 8 + 1
        assert REMEMBERED_SECONDS - 20 < lives[f"{prefix}:m:{{10:user:short}}m"] <= REMEMBERED_SECONDS


def test_a_refusal_writes_nothing(server: RedisServer | External) -> None:
    with store_on(server) as store, server.client() as client:
        assert admitted(store, demand(maximum=1)) == [True]
        before = dump(client, store)
        assert admitted(store, demand(maximum=1), demand("user:nobody", 0)) == [False, False]
        assert dump(client, store) == before


def dump(client: Any, store: RedisStore) -> dict[str, object]:
    return {
        key: client.execute_command("DUMP", key, NEVER_DECODE=True)
        for key in client.scan_iter(f"{store._keys.prefix}:*")
    }


def test_memory_knows_what_was_admitted(server: RedisServer | External) -> None:
    """It decides when the server is away."""
    limits = (Limit(10, 3600),)
    with store_on(server) as store:
        ask(store, demand(cost=2), demand(cost=1, mail="m", part="r"), demand(cost=4, mail="m", settles=True))
        windows = store._memory.ledger.windows
        assert windows.usage("user:alice", limits) == (6,)
        ask(store, demand(cost=2, mail="m", settles=True), demand(cost=8))
        assert windows.usage("user:alice", limits) == (4,)
        store.reload()
        assert store._memory.ledger.windows.usage("user:alice", limits) == (0,)


def test_the_servers_clock_is_the_clock(server: RedisServer | External) -> None:
    """A daemon whose own clock is wrong knows the server's from the first batch on."""
    memory = new_memory(lambda: time.time() - 90.0)
    config = {"url": server.url, "prefix": next(_prefixes)}
    with contextlib.closing(RedisStore(config, memory, longest=60, timeout=TIMEOUT)) as store:
        ask(store, demand(seconds=60))
        assert abs(memory.date - time.time()) < 5
        assert memory.ledger.windows.usage("user:alice", (Limit(9, 60),)) == (1,)


def test_clean_says_that_nothing_needed_to_be_deleted(own: RedisServer) -> None:
    with store_on(own, SHORT) as store:
        ask(store, demand())
        assert store.clean(1.0) == 0
    own.kill()
    with store_on(own, SHORT) as store, pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1"):
        store.clean(1.0)


def test_a_connection_that_is_cut_while_it_is_made_is_no_outage(
    server: RedisServer | External, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store_on(server) as store:
        connect, cuts = store._servers.connect, [True, True]

        def cut() -> Session:
            if cuts:
                cuts.pop()
                raise NodeError("cut", Remedy.RECONNECT)
            return connect()

        monkeypatch.setattr(store._servers, "connect", cut)
        assert admitted(store, demand()) == [True]
        assert not cuts


def test_without_room_for_a_thread_it_is_away(server: RedisServer | External, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with store_on(server, timeout=SHORT) as store:
        monkeypatch.setattr(threading.Thread, "start", start)
        with pytest.raises(StoreUnavailable, match="can't start new thread"):
            admitted(store, demand())
        monkeypatch.undo()
        assert admitted(store, demand()) == [True]


def test_a_record_that_cannot_be_understood_holds_nobody_up(
    server: RedisServer | External, caplog: pytest.LogCaptureFixture
) -> None:
    memory = new_memory(time.time)
    memory.advance()
    good = memory.decide([demand(cost=2)])[1]
    assert good is not None
    with store_on(server) as store:
        bad = good._replace(number=7, entries='[["user:alice","many",0,"",""]]')
        assert store.admit([demand(maximum=2)], [good, bad], 1.0) == [Verdict(False, "user:alice", Limit(2, 3600))]
        assert [record.levelname for record in caplog.records if "cannot be understood" in record.message] == ["ERROR"]


# When it cannot


def test_a_script_that_the_server_forgot_is_loaded_again(server: RedisServer | External) -> None:
    with store_on(server) as store, server.client() as client:
        assert admitted(store, demand()) == [True]
        client.script_flush()
        assert admitted(store, demand("user:b", 2), demand("user:b", 2), demand("user:b", 2)) == [True, True, False]


def refused(store: RedisStore, match: str) -> None:
    """A batch fails, in one line, in time, and without having counted."""
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match=match) as failure:
        ask(store, demand("user:refused", 1))
    assert time.monotonic() - began < TIMEOUT
    assert "\n" not in str(failure.value)
    assert SECRET not in str(failure.value)


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
    with store_on(own, SHORT) as store, own.client() as client:
        client.replicaof("127.0.0.1", free_port())
        refused(store, "read only replica")
        client.replicaof("NO", "ONE")
        assert admitted(store, demand("user:refused", 1)) == [True]


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
    with server, store_on(server) as store, server.client() as client:
        assert admitted(store, demand()) == [True]
        script = client.register_script("while true do end")

        def run() -> None:
            with contextlib.suppress(RedisError), server.client() as other:
                script(client=other)

        thread = threading.Thread(target=run)
        thread.start()
        wait_until(lambda: is_busy(client), "the script runs")
        store._timeout = SHORT
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
    with RedisServer(tmp_path / "redis", save="3600 1", appendonly="no") as server, server.client() as client:
        for number in range(200):
            client.set(f"ballast{number}", "x" * 4096)
        client.save()
        server.kill()
        server.options["key-load-delay"] = "20000"
        server.options["loading-process-events-interval-bytes"] = "1024"
        server.start(wait=False)
        with store_on(server, SHORT) as store:
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
        with pytest.raises(CommitFailed, match="another version of policyd-rate-limit"):
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
            store.probe()
        own.start()
        store.probe()
        store.probe()
        assert admitted(store, demand("user:refused", 1)) == [True]


def test_a_server_that_hangs(own: RedisServer) -> None:
    """Before it was ever reached, and with a batch on its way: memory decides that, and the server counts it once."""
    own.signal(signal.SIGSTOP)
    with store_on(own, SHORT) as store:
        began = time.monotonic()
        refused(store, "in time|[Tt]imeout")
        assert time.monotonic() - began < 4 * SHORT
        own.signal(signal.SIGCONT)
        assert admitted(store, demand(maximum=3)) == [True]
        own.signal(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(CommitFailed) as failure:
            ask(store, demand(maximum=3), demand(maximum=3), demand(maximum=3))
        assert time.monotonic() - began < 4 * SHORT
        assert [verdict.admitted for verdict in failure.value.verdicts] == [True, True, False]
        record = failure.value.record
        assert record is not None
        own.signal(signal.SIGCONT)
        store._timeout = TIMEOUT
        assert store.admit((), [record], 1.0) == []
        assert store.admit([demand(maximum=4), demand(maximum=4)], [record], 1.0) == [
            Verdict(True, charged=1),
            Verdict(False, "user:alice", Limit(4, 3600)),
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
    monkeypatch.setattr("policyd_rate_limit.storage.redis.Session", Late)
    with contextlib.closing(new_store({}, timeout=0.1)) as store:
        with pytest.raises(StoreUnavailable, match="no connection in time"):
            store.admit((), (), 0.0)
        asked.set()
        assert closed.wait(TIMEOUT)


# Warnings


def warnings_of(caplog: pytest.LogCaptureFixture, server: RedisServer, **options: Any) -> list[str]:
    caplog.clear()
    with store_on(server, **options) as store:
        for number in range(3):
            assert admitted(store, demand(f"user:{number}")) == [True]
            store._disconnect()
    return [record.getMessage() for record in caplog.records]


def test_what_may_lose_counts_is_told_once(own: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(caplog, own) == []
    with own.client() as client:
        client.config_set("appendfsync", "everysec")
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        one, two = warnings_of(caplog, own)
        assert "appendfsync is everysec" in one
        assert "maxmemory-policy is allkeys-lru" in two
        client.config_set("appendonly", "no")
        client.config_set("maxmemory", "0")
        (one,) = warnings_of(caplog, own)
        assert "appendonly is off" in one


LEAST_RIGHTS = (
    "~policyd:* +select +time +script|exists +script|load +evalsha "
    "+hget +hmget +hgetall +hkeys +hexists +hset +hsetnx +hdel +get +set +del +exists +type +expire"
)


def test_the_least_rights_that_suffice(own: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """As docs/redis.md names them. What CONFIG would tell may not be asked, and is not missed."""
    with own.client() as client:
        client.execute_command("ACL", "SETUSER", "policyd", "on", f">{SECRET}", "resetchannels", *LEAST_RIGHTS.split())
    options: dict[str, Any] = {"username": "policyd", "password": SECRET, "prefix": "policyd", "db": 1}
    assert warnings_of(caplog, own, **options) == []
    with store_on(own, **options) as store:
        asks = demand("user:b", 9, cost=4, mail="m", settles=True)
        less = demand("user:b", 9, cost=1, mail="m", settles=True)
        assert admitted(store, demand("user:b", 9, mail="m", part="r"), asks, less) == [True] * 3
    for _ in range(10):
        with store_on(own, **options) as store:
            assert admitted(store, demand("user:c", 20)) == [True]
    with store_on(own, **options) as store:
        administration = RedisAdministration(store)
        administration.set_override(Override("user:b", (), administration.now() + 60))
        assert administration.remove_override("user:b")
        store.add_hits([Hits("user:b", 60, 1, 1)])
        administration.forget_hits(administration.hits())
        assert sum(entry.amount for entry in administration.entries(["user:c"], 0)) == 10
        assert administration.reset("user:c") == 10
        with pytest.raises(StoreError, match=r"permission|NOPERM"):
            list(administration.entries(None, 0))
        with own.client() as client:
            client.execute_command("ACL", "SETUSER", "policyd", "+scan")
        counters = {entry.counter for entry in administration.entries(None, 0)}
        assert "user:b" in counters
        assert "user:c" not in counters
    docs = pathlib.Path(__file__).parents[2] / "docs" / "redis.md"
    assert LEAST_RIGHTS in docs.read_text(encoding="utf-8")
    with store_on(own, **{**options, "prefix": "other"}) as store:
        refused(store, "permission|NOPERM")


# Ways to connect


def test_a_wrong_password(tmp_path: pathlib.Path) -> None:
    with RedisServer(tmp_path / "redis", requirepass=f'"{SECRET}"') as server:
        wrong: list[dict[str, Any]] = [{}, {"password": f"not {SECRET}"}, {"username": "nobody", "password": SECRET}]
        for options in wrong:
            with store_on(server, **options) as store:
                refused(store, "NOAUTH|WRONGPASS|[Aa]uthentication|invalid username-password")
        with store_on(server, password=SECRET) as store:
            assert admitted(store, demand()) == [True]
        quoted = "s3cret%2F%23%3F%25"
        with contextlib.closing(new_store({"url": f"redis://:{quoted}@127.0.0.1:{server.port}/0"})) as store:
            assert admitted(store, demand()) == [True]


def test_a_unix_socket(own: RedisServer) -> None:
    config = {"url": f"unix://{own.directory / 'socket'}", "db": 3}
    with contextlib.closing(new_store(config)) as store:
        assert admitted(store, demand(maximum=1), demand(maximum=1)) == [True, False]
    own.kill()
    with contextlib.closing(new_store(config)) as store:
        refused(store, str(own.directory / "socket"))


def test_tls(tmp_path: pathlib.Path) -> None:
    """Only with the certificate of who is asked for."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        [
            require("openssl"),
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            key,
            "-out",
            certificate,
            *subject,
        ],
        check=True,
        capture_output=True,
    )
    port = free_port()
    tls = {"tls_port": str(port), "tls_cert_file": str(certificate), "tls_key_file": str(key), "tls_auth_clients": "no"}
    with RedisServer(tmp_path / "redis", **tls):
        url = f"rediss://localhost:{port}/0"
        with contextlib.closing(new_store({"url": url, "ssl_ca_certs": str(certificate)})) as store:
            assert admitted(store, demand(maximum=1), demand(maximum=1)) == [True, False]
        with contextlib.closing(new_store({"url": url})) as store:
            refused(store, "certificate")
        address = url.replace("localhost", "127.0.0.1")
        with contextlib.closing(new_store({"url": address, "ssl_ca_certs": str(certificate)})) as store:
            refused(store, "certificate")
        with contextlib.closing(new_store({"url": address, "ssl_cert_reqs": "none"})) as store:
            assert admitted(store, demand("user:bob")) == [True]


@pytest.mark.parametrize(
    ("config", "setting"),
    [
        ({"url": "http://localhost"}, "url"),
        ({"url": f"redis://:{SECRET}@localhost"}, "url"),
        ({"url": "redis://localhost", "port": "x"}, "url"),
        ({"sentinels": [["localhost"]], "service_name": "x"}, "sentinels"),
        ({"sentinels": "localhost:26379", "service_name": "x"}, "sentinels"),
        ({"sentinels": [["localhost", 26379]]}, "service_name"),
        ({"service_name": "x"}, "service_name"),
        ({"cluster": True, "url": "redis://localhost/1"}, "cluster"),
        ({"cluster": True, "sentinels": [["localhost", 1]], "service_name": "x"}, "cluster"),
        ({"cluster": True, "nodes": [[1]]}, "nodes"),
        ({"pasword": SECRET}, "pasword"),
        ({"ssl_ca_certs": "/x"}, "ssl_ca_certs"),
    ],
)
def test_a_wrong_option_is_named_and_its_value_is_not(config: dict[str, Any], setting: str) -> None:
    with pytest.raises(ConfigError) as failure:
        new_store(config)
    (problem,) = failure.value.problems
    assert problem.setting == f"redis_config.{setting}"
    assert "s3cret" not in str(problem)


def test_without_the_driver() -> None:
    """One line that says what installs it."""
    program = """
import sys
sys.modules["redis"] = None
from policyd_rate_limit.errors import ConfigError
try:
    import policyd_rate_limit.storage.redis
except ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'policyd-rate-limit[redis]'" in done.stdout
    assert done.stdout.count("\n") == 1


def test_the_driver_is_not_loaded_for_other_databases() -> None:
    program = "import sys, policyd_rate_limit.app; print('redis' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
