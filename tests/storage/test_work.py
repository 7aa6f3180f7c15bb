"""What a batch costs each store, counted and not timed: statements, round trips, bytes, instructions, memory.

The bounds are what it costs now, and a little for another version of a driver. Whoever makes it cheaper lowers them;
whoever raises one makes every mail dearer, and the benchmark says by how much.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pathlib
import socket
import sys
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from policyd_rate_limit.backends import backend_of
from policyd_rate_limit.config import Settings
from policyd_rate_limit.domain.charge import Demand, Verdict, Waiting
from policyd_rate_limit.domain.charging import Charged
from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.domain.rules.attributes import ADDRESS, NAME
from policyd_rate_limit.domain.rules.conditions import Condition, Conditions
from policyd_rate_limit.domain.rules.keys import parse_key
from policyd_rate_limit.domain.rules.listed import Listed
from policyd_rate_limit.domain.rules.patterns import parse_pattern
from policyd_rate_limit.domain.rules.subjects import KeyedSubjects
from policyd_rate_limit.policy import Actions, Rule
from policyd_rate_limit.protocol.codec import Decoder
from policyd_rate_limit.service import Service
from policyd_rate_limit.storage.administration import Hits
from policyd_rate_limit.storage.batch import Batch
from policyd_rate_limit.storage.contract import Store
from policyd_rate_limit.storage.log.sqlite.checkpoint import PAGE_BYTES
from policyd_rate_limit.storage.log.sqlite.cleaning import PAGES_PER_VACUUM
from policyd_rate_limit.storage.log.sqlite.log import SqliteLog
from policyd_rate_limit.storage.record import pack
from policyd_rate_limit.storage.redis import store as redis
from policyd_rate_limit.storage.redis.store import RedisStore
from policyd_rate_limit.storage.replica import Memory
from policyd_rate_limit.system.throttle import Throttle
from storage.stores import PATIENCE, Clock, SqliteDatabase, demand
from support.asked import asked
from support.callbacks import Answering
from support.demands import demand_of
from support.policies import Nobody, policy, subjects
from support.redis_servers import RedisServer
from support.stores_for_daemons import STORES
from support.wait import wait_until
from support.work import CountingProxy, instructions, statements_of_sqlite

LIMITS = (Limit(1_000, 60), Limit(10_000, 86_400))
RULES = subjects(LIMITS)
BATCH = 50

# By store: round trips of a batch, and bytes to the server for each of BATCH mails in one. PostgreSQL gets parameters
# apart from the statements, with lengths.
TRIPS = {"postgresql": 2, "mariadb": 2, "redis": 1}
BYTES = {"postgresql": 65, "mariadb": 64, "redis": 138}
STATEMENTS = 4
WRITTEN_BYTES = 330  # to SQLite's log, for each mail of a batch
# From the bytes of a request to the action, SQLite included. Other versions of Python count otherwise.
INSTRUCTIONS_ADMITTED = 1_510
INSTRUCTIONS_REFUSED = 1_290
OF_ANOTHER_PYTHON = 1.0 if sys.version_info[:2] == (3, 11) else 1.3
INSTRUCTIONS_TABLES = 1_700  # of finding whom a rule charges that asks two tables, about an address that is new
INSTRUCTIONS_REDIS = 740  # of sending one mail of a batch and taking its answer
BYTES_PER_COUNTER = 213


def mails(first: int, number: int, **options: Any) -> list[Demand]:
    """As many mails, of a user each."""
    return [
        demand(f"user:user{user:07d}", 1_000, mail=f"1f3a.{user:07d}.0", **options)
        for user in range(first, first + number)
    ]


def admit(store: Store, demands: Sequence[Demand]) -> list[Verdict]:
    """As the daemon has it done."""
    return store.admit(demands, (), PATIENCE)


def test_statements_of_a_batch(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statements = statements_of_sqlite(monkeypatch)
    store = SqliteDatabase(tmp_path).store(Clock())
    admit(store, mails(0, 1))
    for size in (1, BATCH, 10 * BATCH):
        statements.clear()
        assert all(verdict.admitted for verdict in admit(store, mails(1_000, size, cost=1)))
        assert len(statements) <= STATEMENTS, statements
    statements.clear()
    assert not any(verdict.admitted for verdict in admit(store, mails(2_000, BATCH, cost=1_001)))
    assert not [text for text in statements if text.startswith(("INSERT", "UPDATE", "DELETE"))]
    store.close()


def test_bytes_that_a_batch_writes(tmp_path: pathlib.Path) -> None:
    database = SqliteDatabase(tmp_path)
    store = database.store(Clock())
    log = database.path.with_name(f"{database.path.name}-wal")
    admit(store, mails(0, 1))
    before = log.stat().st_size
    batches = 20
    for number in range(batches):
        admit(store, mails(number * BATCH, BATCH))
    assert (log.stat().st_size - before) / (batches * BATCH) <= WRITTEN_BYTES
    store.close()


def test_commits_of_a_clean_up(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room is given back many pages at a time: each commit waits for the disk, and for the daemons."""
    path = tmp_path / "db.sqlite3"
    statements = statements_of_sqlite(monkeypatch)
    log = SqliteLog(path, Clock())
    log.begin(PATIENCE)
    log.prepare(lambda _: ())
    for number in range(1, 1_001):
        log.append(pack(1, number, 1_000, [Entry(f"user:user{user:07d}", 1, 1_000, "", "") for user in range(100)]))
    log.commit()
    pages = path.stat().st_size + path.with_name("db.sqlite3-wal").stat().st_size
    assert log.clean(2_000, PATIENCE) == 100_000
    statements.clear()
    log.compact(PATIENCE)
    assert statements.count("COMMIT") <= 1 + pages / PAGE_BYTES / PAGES_PER_VACUUM
    log.close()
    assert path.stat().st_size < 22 * PAGE_BYTES


@pytest.mark.parametrize("name", sorted(TRIPS))
def test_round_trips_and_bytes_of_a_batch(tmp_path: pathlib.Path, name: str) -> None:
    with STORES[name](tmp_path) as shared:
        assert shared.server is not None
        with CountingProxy(shared.server.address) as proxy:
            settings = Settings(**shared.server.settings_at("127.0.0.1", proxy.port))
            store = backend_of(settings).make_store(RULES, Memory(Ledger(100_000), time.time))
            admit(store, mails(0, BATCH))
            for size in (1, BATCH):
                proxy.reset()
                assert all(verdict.admitted for verdict in admit(store, mails(1_000 * size, size)))
                assert proxy.trips <= TRIPS[name]
            assert proxy.bytes / BATCH <= BYTES[name]
            store.close()


@pytest.mark.parametrize(
    ("before", "commands"),
    [
        ({}, {"hmget": 1, "exists": 1, "hset": 1, "expire": 1}),
        ({"replayed": True}, {"hmget": 1, "hset": 1}),
        ({"mail": "other"}, {"hmget": 1, "set": 1, "hset": 1}),
        ({"part": "two"}, {"hmget": 1, "type": 1, "hset": 2, "expire": 1}),
        ({"part": "two+three"}, {"hmget": 1, "type": 1, "expire": 1, "hsetnx": 1, "hset": 1}),
    ],
    ids=["new-id", "known-id", "second-mail", "second-recipient", "third-recipient"],
)
def test_commands_of_a_mail_in_redis(tmp_path: pathlib.Path, before: dict[str, Any], commands: dict[str, int]) -> None:
    """What the script asks of the server: reading and writing the counter, and the mail with its end."""
    with RedisServer(tmp_path) as server, server.client() as client:
        config = {"url": server.url}
        store = RedisStore(config, Memory(Ledger(100_000), time.time), longest=86_400, timeout=20.0)
        if before.pop("replayed", False):
            entries = [Entry(one.charges[0].counter, 1, int(time.time()) - 3_600, "", "") for one in mails(0, BATCH)]
            store.admit((), [pack(1, 1, int(time.time()), entries)], PATIENCE)
        elif before:
            for part in before.pop("part", "part").split("+"):
                admit(store, [replace(demand_of(one.charges, one.mail, part), **before) for one in mails(0, BATCH)])
        admit(store, ())  # whose database it is, is asked once
        client.config_resetstat()
        assert all(verdict.admitted for verdict in admit(store, mails(0, BATCH)))
        calls = {
            name.removeprefix("cmdstat_"): told["calls"] / BATCH
            for name, told in client.info("commandstats").items()
            if told["calls"] >= BATCH
        }
        assert calls == commands
        store.close()


def test_instructions_of_a_batch_in_flight_to_redis(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis, "BATCHES_PER_TRIM", 10**9)  # or now and then it would be more
    with RedisServer(tmp_path) as server:
        store = RedisStore({"url": server.url}, Memory(Ledger(100_000), time.time), longest=86_400, timeout=20.0)
        admit(store, mails(0, BATCH))
        batches = [mails(0, BATCH, part=part) for part in ("another", "third")]
        in_flight: list[Batch] = []
        verdicts: list[Verdict] = []

        def send() -> None:
            for batch in batches:
                prepared = store.prepare(batch, PATIENCE)
                assert prepared is not None
                in_flight.append(prepared)

        def receive() -> None:
            for batch in in_flight:
                verdicts.extend(batch.poll() or ())

        count = instructions(send)
        with socket.socket(fileno=os.dup(in_flight[0].descriptors[0])) as connection:

            def are_there() -> bool:
                """Whether the answers to both are there, each with the time."""
                with contextlib.suppress(BlockingIOError):
                    return connection.recv(1 << 16, socket.MSG_PEEK).count(b"*2\r\n") == len(batches)
                return False

            wait_until(are_there, "the answers are there")
        count += instructions(receive)
        assert len(verdicts) == 2 * BATCH
        assert all(verdict.admitted for verdict in verdicts)
        assert count / len(verdicts) <= INSTRUCTIONS_REDIS * OF_ANOTHER_PYTHON
        store.close()


class Way:
    """The way of requests from bytes to actions, through one thread; nobody is told of decisions."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.decoder = Decoder()
        self.demands: list[Demand] = []
        self.waiting: list[Waiting] = []
        self.actions: list[str | None] = []
        self.service = Service(
            policy(RULES, Actions("dunno", "defer_if_permit later", None, "reject"), None),
            self._submit,
            observer=Nobody(),
            uncounted=Throttle(60, lambda: 0.0),
            policy_service="inet:127.0.0.1:10000",
            clock=lambda: 0.0,
        )

    def _submit(self, demanded: Demand, waiting: Waiting) -> None:
        self.demands.append(demanded)
        self.waiting.append(waiting)

    def go(self, data: Sequence[bytes]) -> None:
        """Answer the requests in ``data``, which come one by one."""
        self.actions.clear()
        for one in data:
            for request in self.decoder.feed(one):
                self.service.ask(request, Answering(self.actions.append))
        for waiting, verdict in zip(self.waiting, admit(self.store, self.demands), strict=True):
            waiting.conclude(verdict)
        self.demands.clear()
        self.waiting.clear()


# As Postfix 3.7 sends it, in its order.
REQUEST = """\
request=smtpd_access_policy
protocol_state=RCPT
protocol_name=ESMTP
client_address=192.0.2.25
client_name=dsl-192-0-2-25.customers.example.com
client_port=49152
reverse_client_name=dsl-192-0-2-25.customers.example.com
server_address=198.51.100.4
server_port=587
helo_name=laptop.customers.example.com
sender={user}@example.org
recipient=recipient@example.net
recipient_count=0
queue_id=
instance=1f3a.{mail:07d}.0
size=18342
etrn_domain=
stress=
sasl_method=PLAIN
sasl_username={user}
sasl_sender=
ccert_subject=
ccert_issuer=
ccert_fingerprint=D4:1D:8C:D9:8F:00:B2:04:E9:80:09:98:EC:F8:42:7E
ccert_pubkey_fingerprint=E3:B0:C4:42:98:FC:1C:14:9A:FB:F4:C8:99:6F:B9:24
encryption_protocol=TLSv1.3
encryption_cipher=TLS_AES_256_GCM_SHA384
encryption_keysize=256
policy_context=

"""


def requests(prefix: str, number: int, first: int = 0) -> list[bytes]:
    """A mail of each of ``number`` users, whose names begin with ``prefix``."""
    return [REQUEST.format(user=f"{prefix}{user:07d}", mail=first + user).encode() for user in range(number)]


def test_instructions_of_a_request(tmp_path: pathlib.Path) -> None:
    store = SqliteDatabase(tmp_path).store(Clock())
    spent = [demand(f"user:over{user:07d}", 1_000, cost=1_000, seconds=60) for user in range(BATCH)]
    admit(store, spent)
    way = Way(store)
    way.go(requests("user", BATCH))  # what is done once is done
    data = requests("user", BATCH, 100), requests("over", BATCH, 200)
    admitted = instructions(lambda: way.go(data[0])) / BATCH
    assert way.actions == ["dunno"] * BATCH
    refused = instructions(lambda: way.go(data[1])) / BATCH
    assert way.actions == ["defer_if_permit later"] * BATCH
    assert admitted <= INSTRUCTIONS_ADMITTED * OF_ANOTHER_PYTHON
    assert refused <= INSTRUCTIONS_REFUSED * OF_ANOTHER_PYTHON
    store.close()


def whom(number: int) -> str:
    return f"user{number}@example.org"


def network(number: int) -> str:
    """One of IPv4 or of IPv6, of which there are as many as there are numbers up to 100,000."""
    high, low = number >> 8, number & 255
    return f"10.{high & 255}.{low}.0/24" if number % 2 else f"2001:db8:{number:x}::/48"


def test_instructions_of_large_tables() -> None:
    """A rule with 100,000 exact overrides that asks tables of as many names and networks costs what one of ten does."""
    counts: dict[int, list[int]] = {}
    for entries in (10, 10, 100_000):  # at first some instructions are not counted on Python 3.13: see support.work
        names = Listed("staff", [(whom(number), None) for number in range(entries)])
        networks = Listed("campus", [(network(number), None) for number in range(entries)])
        tables = {"staff": names, "campus": networks}
        overrides = [(parse_pattern(whom(number), NAME), LIMITS) for number in range(entries)]
        rule = Rule(
            "person",
            KeyedSubjects(parse_key("sasl_username", 64), (), overrides),
            {},
            match=Conditions([[Condition("sasl_username", [parse_pattern("$staff", NAME)], tables)]]),
            unless=Conditions([[Condition("client_address", [parse_pattern("$campus", ADDRESS)], tables)]]),
        )
        counts[entries] = []
        for user, address, limits in (
            (whom(entries - 1), "10.0.1.1", None),  # in a network
            (whom(entries - 1), "192.0.2.1", LIMITS),
            (whom(entries - 1), "2001:db9::1", LIMITS),
            (whom(entries), "192.0.2.2", None),  # in no table
        ):
            request, charged = asked(sasl_username=user, client_address=address), list[Charged | None]()
            counts[entries].append(instructions(lambda: charged.append(rule.charged(request))))  # noqa: B023 - at once
            assert [None if one is None else one.limits for one in charged] == [limits]
    few, many = counts[10], counts[100_000]
    assert all(abs(one - other) <= 20 for one, other in zip(few, many, strict=True)), counts
    assert max(many) <= INSTRUCTIONS_TABLES * OF_ANOTHER_PYTHON


def test_statements_of_many_hits(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As few as fit: each takes a round trip of the thread that demands wait for, or a part of one."""
    statements = statements_of_sqlite(monkeypatch)
    store = SqliteDatabase(tmp_path).store(Clock())
    admit(store, mails(0, 1))
    statements.clear()
    store.add_hits([Hits(f"user:user{number:07d}", 60, 1, 1) for number in range(1_500)])
    assert sum(text.startswith("INSERT INTO policyd_hit") for text in statements) == 10
    statements.clear()
    store.add_hits([Hits(f"user:{'x' * 10_000}{number}", 60, 1, 1) for number in range(100)])
    assert 8 <= sum(text.startswith("INSERT INTO policyd_hit") for text in statements) <= 9
    store.close()


@pytest.mark.parametrize("rules", [1, 3])
def test_memory_of_a_counter(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, rules: int) -> None:
    """Without ``mail``: of recent mails more is remembered, within a bound of its own; so it is of recent records."""
    monkeypatch.setattr("policyd_rate_limit.storage.log.recent.RECENT_BYTES", 0)
    clock = Clock()
    memory = Memory(Ledger(100_000), clock)
    store = SqliteDatabase(tmp_path).store(clock, memory=memory)
    ids = 5_000

    def charged_by_all(one: Demand) -> Demand:
        (first,) = one.charges
        further = (replace(first, counter=f"rule{number}|{first.counter}") for number in range(1, rules))
        return replace(one, charges=(first, *further), mail="")

    def round_of_mails() -> None:
        for first in range(0, ids, 500):
            admit(store, [charged_by_all(one) for one in mails(first, 500)])

    admit(store, mails(0, 1))
    gc.collect()
    tracemalloc.start()
    try:
        round_of_mails()
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] / (ids * rules) <= BYTES_PER_COUNTER
    finally:
        tracemalloc.stop()
    round_of_mails()
    blocks = sys.getallocatedblocks()
    round_of_mails()
    gc.collect()
    assert sys.getallocatedblocks() - blocks < ids / 10  # one more mail in the same second needs no more room
    store.close()
