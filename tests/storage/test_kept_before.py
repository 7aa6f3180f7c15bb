"""What the versions before have kept goes on counting: ``kept/*.json`` was written by them.

In ``short_digests.json`` recipients, requests and the ids of mails are known by 64 bits. Alice (10 mails an hour) has
sent to two recipients of one mail and to one of another, whose ``instance`` is long; while the database was away
somebody with a long name has sent two mails, where each request counts, and alice to a third recipient of the first.

``one_rule.json`` is of the versions in which one id was charged for a mail, once. Alice has sent to three recipients of
one mail, of whom DATA knew two, and to one of another; while the database was away to a fourth recipient of the first.
"""

from __future__ import annotations

import base64
import contextlib
import json
import pathlib
import sqlite3
import zlib
from typing import Any

import pytest
from redis import Redis

from policyd_rate_limit.domain.charge import Charge, Demand
from policyd_rate_limit.domain.counting import mail_id, stages
from policyd_rate_limit.domain.ids import fold
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.domain.request import DATA, RCPT, Request
from policyd_rate_limit.storage.contract import Store
from storage.daemon import Daemon
from storage.redis_database import RedisDatabase
from storage.stores import HOUR, PATIENCE, Clock, SqliteDatabase, usage

KEPT = pathlib.Path(__file__).with_name("kept")
ALICE, LONG = "user:alice", f"user:{fold('b' * 400 + '@example.org')}"
SHORT_INSTANCE, LONG_INSTANCE = "1a2b.655b3c9e.4d5e6.0", "9" * 80


def asked(stage: str, recipient: str = "", count: int = 0, instance: str = SHORT_INSTANCE) -> Demand:
    """What a request of alice's demands with ``count_mode`` unset, as the service makes it."""
    request = Request(stage, instance, "", "alice", "s@example.org", recipient, "192.0.2.1", count)
    cost = stages(None)[stage](request)
    charge = Charge(ALICE, cost.amount, (Limit(10, HOUR),), cost.part, cost.settles)
    return Demand((charge,), mail_id(instance))


def charged(store: Store, *demands: Demand) -> list[int]:
    """What is counted for each of ``demands``, all of which are admitted."""
    verdicts = store.admit(demands, (), PATIENCE)
    assert all(verdict.admitted for verdict in verdicts)
    return [sum(verdict.counted) for verdict in verdicts]


@pytest.fixture
def kept() -> dict[str, Any]:
    return read("short_digests")


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((KEPT / f"{name}.json").read_text())
    return found


def write_keys(client: Redis, prefix: str, keys: dict[str, Any]) -> None:
    for name, value in keys.items():
        key = f"{prefix}:{name}"
        if isinstance(value, str):
            client.set(key, bytes.fromhex(value))
        else:
            client.hset(key, mapping={bytes.fromhex(field): bytes.fromhex(of) for field, of in value.items()})
        client.expire(key, HOUR)


def goes_on_counting(store: Store, *, instance_is_known: int = 2) -> None:
    """A recipient who is asked about again across the upgrade is counted again, until DATA says how many there are."""
    before = usage(store, [ALICE])[ALICE]
    assert charged(store, asked(RCPT, "one@example.org"), asked(DATA, count=instance_is_known)) == [1, -1]
    assert charged(store, asked(RCPT, "five@example.org"), asked(RCPT, "five@example.org")) == [1, 0]
    assert usage(store, [ALICE]) == {ALICE: before + 1}


def test_a_database_and_a_spool_file_of_short_digests(
    kept: dict[str, Any], sqlite: SqliteDatabase, clock: Clock
) -> None:
    with contextlib.closing(sqlite.store(clock)) as store:
        store.clean(PATIENCE)  # makes the tables
    with contextlib.closing(sqlite3.connect(sqlite.path)) as database, database:
        database.executemany("INSERT INTO policyd_batch VALUES (?, ?, ?, ?, ?, ?)", kept["rows"])
    spool_file = base64.b64decode(kept["journal"])
    (sqlite.home / f"{sqlite.path.name}-0.journal").write_bytes(spool_file.ljust(1 << 16, b"\0"))
    daemon = Daemon(sqlite, clock)
    daemon.ask()
    assert (daemon.used(ALICE), daemon.used(LONG)) == (4, 2)
    assert sqlite.usage(clock.now) == {ALICE: 4, LONG: 2}
    goes_on_counting(daemon.store, instance_is_known=3)
    daemon.close()


def test_keys_of_redis_with_short_digests(
    kept: dict[str, Any], redis_url: str, tmp_path: pathlib.Path, clock: Clock
) -> None:
    database = RedisDatabase(tmp_path, redis_url)
    with database._administrator() as client:
        write_keys(client, database.user, kept["redis"])
    with contextlib.closing(database.store(clock)) as store:
        assert usage(store, [ALICE, LONG]) == {ALICE: 3, LONG: 2}
        goes_on_counting(store)


def is_known(store: Store, counted: int) -> None:
    """The recipients of before are not counted again, and what DATA says is held against all of them."""
    assert charged(store, *(asked(RCPT, f"{name}@example.org") for name in ("one", "two", "three"))) == [0] * 3
    assert charged(store, asked(RCPT, "one@example.org", instance=LONG_INSTANCE)) == [0]
    assert charged(store, asked(RCPT, "five@example.org"), asked(DATA, count=2)) == [1, 1 - counted]
    assert usage(store, [ALICE]) == {ALICE: 3}


def test_a_database_and_a_spool_of_one_rule_for_a_mail(sqlite: SqliteDatabase, clock: Clock) -> None:
    kept = read("one_rule")
    sqlite.path.write_bytes(zlib.decompress(base64.b64decode(kept["database"])))
    (sqlite.home / f"{sqlite.path.name}-0.journal").write_bytes(zlib.decompress(base64.b64decode(kept["journal"])))
    daemon = Daemon(sqlite, clock)
    daemon.ask()
    assert daemon.used(ALICE) == 4
    assert sqlite.usage(clock.now) == {ALICE: 4}
    is_known(daemon.store, 3)
    daemon.close()


def test_keys_of_redis_of_one_rule_for_a_mail(redis_url: str, tmp_path: pathlib.Path, clock: Clock) -> None:
    database = RedisDatabase(tmp_path, redis_url)
    with database._administrator() as client:
        write_keys(client, database.user, read("one_rule")["redis"])
    with contextlib.closing(database.store(clock)) as store:
        assert usage(store, [ALICE]) == {ALICE: 3}
        is_known(store, 2)
