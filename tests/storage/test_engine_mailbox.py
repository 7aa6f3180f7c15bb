"""Hits wait while the database is away, and overrides are not known."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from unittest import mock

import pytest

from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.administration import HitDetails, HourOfHits, Override
from policyd_rate_limit.storage.engine import exchange
from policyd_rate_limit.storage.engine.mailbox import Mailbox
from policyd_rate_limit.storage.hit_history import hour_of
from policyd_rate_limit.storage.log import tables as log_tables
from policyd_rate_limit.storage.log.sqlite.log import SqliteLog
from storage.daemon import LIMIT, Daemon
from storage.stores import HOUR, Clock, Database, SqliteDatabase, demand

MINUTE = Limit(LIMIT, 60)
BLOCK = (Limit(0, 1),)
NOBODY = HitDetails("", "", "", "", "")


def informed(database: Database, clock: Clock) -> tuple[Daemon, Mailbox, list[list[Override]]]:
    """A daemon, where its hits go in, and what it is told of overrides."""
    mailbox = Mailbox(clock)
    told: list[list[Override]] = []
    mailbox.subscribe(lambda overrides, _: told.append(overrides))
    return Daemon(database, clock, mailbox=mailbox), mailbox, told


def test_hits_wait_while_the_database_is_away(database: Database, clock: Clock) -> None:
    """And are written once it is back, or at the end."""
    daemon, mailbox, _ = informed(database, clock)
    daemon.wait()
    mailbox.hit("user:a", MINUTE)
    with database.outage():
        daemon.ask(demand())
        mailbox.hit("user:a", MINUTE)
        daemon.wait()
        assert [hit.hits for hit in mailbox.take()] == [2]
        mailbox.hit("user:a", MINUTE)
    daemon.wait()
    assert mailbox.take() == []
    mailbox.hit("user:a", MINUTE)
    daemon.close()
    assert mailbox.take() == []


def test_the_hit_history_waits_too(database: Database, clock: Clock) -> None:
    """And goes where it belongs: to the hour in which it happened."""
    daemon, mailbox, _ = informed(database, clock)
    daemon.wait()
    mailbox.history.hit("user:a", MINUTE, "refused", NOBODY)
    daemon.wait()
    with database.outage():
        daemon.ask(demand())
        mailbox.history.hit("user:a", MINUTE, "refused", NOBODY)
        mailbox.history.hit("user:b", MINUTE, "marked", NOBODY)
        daemon.wait()
        first = int(clock.now)
        clock.now += HOUR
        mailbox.history.hit("user:a", MINUTE, "refused", NOBODY)
    added: list[HourOfHits] = []
    add = daemon.store.add_history

    def note(rows: Sequence[HourOfHits]) -> None:
        added.extend(rows)
        add(rows)

    with mock.patch.object(daemon.store, "add_history", side_effect=note):
        daemon.wait()
    assert sorted((one.hour, one.key, one.hits, one.last) for one in added) == [
        (hour_of(first), "user:a", 1, first),
        (hour_of(first), "user:b", 1, first),
        (hour_of(first) + HOUR, "user:a", 1, first + HOUR),
    ]
    assert mailbox.history.take(99) == []
    daemon.close()


def test_a_daemon_that_ends_brings_all_that_waits(
    sqlite: SqliteDatabase, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which it else does so much at a time that no answer waits for long."""
    monkeypatch.setattr(exchange, "ROWS_AT_ONCE", 2)
    daemon, mailbox, _ = informed(sqlite, clock)
    daemon.wait()
    for number in range(7):
        mailbox.history.hit(f"user:{number}", MINUTE, "refused", NOBODY)
    daemon.engine.maintain()
    with contextlib.closing(sqlite3.connect(sqlite.path)) as other:
        count = "SELECT count(*) FROM policyd_hit_history"
        assert other.execute(count).fetchone() == (2,)
        daemon.close()
        assert other.execute(count).fetchone() == (7,)


def test_what_is_too_old_is_deleted_each_hour(sqlite: SqliteDatabase, clock: Clock) -> None:
    daemon, _, _ = informed(sqlite, clock)
    cleaned: list[float] = []
    more = [True, False, False, False]

    def clean() -> bool:
        cleaned.append(daemon.monotonic.now)
        return more.pop(0)

    with mock.patch.object(daemon.store, "clean_trails", side_effect=clean):
        for now in (0.0, 59.0, 61.0, 62.0, 63.0, 3_600.0, 3_700.0, 3_701.0):
            daemon.monotonic.now = now
            daemon.engine.maintain()
    assert cleaned == [61.0, 62.0, 3_700.0]
    daemon.close()


def test_a_first_exchange_that_fails_is_said(
    sqlite: SqliteDatabase, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    daemon, _, told = informed(sqlite, clock)
    with mock.patch.object(daemon.store, "overrides", side_effect=StoreUnavailable("not to be read")):
        daemon.wait()
    assert caplog.messages == ["hits and overrides cannot be exchanged with the database: not to be read"]
    assert told == [[]]  # whoever waits for the first word of them does so no longer
    daemon.close()


def test_blocks_wait_while_the_database_is_away(database: Database, clock: Clock) -> None:
    """And are in force for all once it is back, with who is told that they are."""
    mailbox = Mailbox(clock)
    told: list[tuple[list[Override], int]] = []
    mailbox.subscribe(lambda *published: told.append(published))
    daemon = Daemon(database, clock, mailbox=mailbox)
    daemon.wait()
    until = int(clock.now) + HOUR
    first, second, ended = (Override(f"user:{name}", BLOCK, until) for name in "abc")
    assert mailbox.block([first]) == 1
    with database.outage():
        daemon.ask(demand())
        assert mailbox.block([second, ended._replace(until=int(clock.now))]) == 2
        daemon.wait()
        assert told == [([], 0)]
    daemon.wait()
    assert told[-1] == ([first, second], 2)
    assert mailbox.take_blocks() == ([], 2)
    assert mailbox.block([first]) == 3  # which is in force: nothing changes there
    daemon.wait()
    assert told[-1] == ([first, second], 3)
    daemon.close()


def test_what_cannot_be_blocked_is_said_once(
    sqlite: SqliteDatabase, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(log_tables, "MOST_BLOCKS", 1)
    daemon, mailbox, told = informed(sqlite, clock)
    daemon.wait()
    until = int(clock.now) + HOUR
    for names in ("ab", "c"):
        mailbox.block([Override(f"user:{name}", BLOCK, until) for name in names])
        daemon.wait()
    assert [override.key for override in told[-1]] == ["user:a"] or [override.key for override in told[-1]] == [
        "user:b"
    ]
    assert [message for message in caplog.messages if "overrides are in force" in message] == [
        "more than 8000 overrides are in force: rules block nobody beyond that"
    ]
    daemon.close()


def test_a_block_that_the_database_refuses_keeps_no_other_back(
    sqlite: SqliteDatabase, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    daemon, mailbox, told = informed(sqlite, clock)
    daemon.wait()
    with contextlib.closing(sqlite3.connect(sqlite.path)) as other:
        other.execute(
            "CREATE TRIGGER no BEFORE INSERT ON policyd_override WHEN NEW.counter LIKE '%bob%'"
            " BEGIN SELECT raise(ABORT, 'not him'); END"
        )
    until = int(clock.now) + HOUR
    blocks = [Override(f"user:{name}", BLOCK, until) for name in ("alice", "bob", "carol")]
    mailbox.block(blocks)
    for _ in range(4):
        daemon.wait()
        assert daemon.ask(demand(maximum=100)) == [True]
    assert "'user:bob'" in caplog.text
    assert [override.key for override in told[-1]] == ["user:alice", "user:carol"]
    daemon.close()


def test_hits_that_cannot_be_written_are_retried_after_a_while_and_that_is_said_once(
    sqlite: SqliteDatabase, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    daemon, mailbox, told = informed(sqlite, clock)
    daemon.wait()
    assert told == [[]]
    with contextlib.closing(sqlite3.connect(sqlite.path)) as other:
        other.execute("CREATE TRIGGER full BEFORE INSERT ON policyd_hit BEGIN SELECT raise(ABORT, 'full'); END")
    caplog.clear()
    for _ in range(3):
        mailbox.hit("user:a", MINUTE)
        daemon.wait()
        assert daemon.ask(demand(maximum=100)) == [True]
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "hits and overrides cannot be exchanged with the database"
    ]
    with contextlib.closing(sqlite3.connect(sqlite.path)) as other:
        other.execute("DROP TRIGGER full")
        daemon.engine.maintain()  # too early
        assert other.execute("SELECT count(*) FROM policyd_hit").fetchone() == (0,)
        daemon.wait()
        assert other.execute("SELECT hits FROM policyd_hit").fetchone() == (3,)
        other.execute("CREATE TRIGGER full BEFORE INSERT ON policyd_hit BEGIN SELECT raise(ABORT, 'full'); END")
    caplog.clear()
    for _ in range(3):
        mailbox.hit("user:a", MINUTE)
        daemon.wait()
    assert len(caplog.records) == 1  # it is another time
    daemon.close()


def test_a_first_failure_is_retried_soon_whatever_failed_long_ago(sqlite: SqliteDatabase, clock: Clock) -> None:
    daemon, mailbox, _ = informed(sqlite, clock)
    daemon.wait()
    with contextlib.closing(sqlite3.connect(sqlite.path, isolation_level=None)) as other:

        def written(hit_fails: int) -> int:
            """How many hits are in the database after so many tries in vain, and one more 0.1 s later."""
            other.execute("CREATE TRIGGER full BEFORE INSERT ON policyd_hit BEGIN SELECT raise(ABORT, 'full'); END")
            for _ in range(hit_fails):
                daemon.monotonic.now += 10
                mailbox.hit("user:a", MINUTE)
                daemon.engine.maintain()
                assert daemon.ask(demand(maximum=100)) == [True]  # over a new connection
            other.execute("DROP TRIGGER full")
            daemon.monotonic.now += 0.1
            daemon.engine.maintain()
            (hits,) = other.execute("SELECT coalesce(sum(hits), 0) FROM policyd_hit").fetchone()
            return int(hits)

        assert written(6) == 0  # too early
        daemon.monotonic.now += 10
        daemon.engine.maintain()
        assert written(1) == 7
    daemon.close()


def test_while_the_database_is_away_from_the_start_no_overrides_are_known(database: Database, clock: Clock) -> None:
    """That is said once: somebody waits for it."""
    database.store(clock).close()
    with database.outage():
        daemon, _, told = informed(database, clock)
        for _ in range(2):
            daemon.wait()
            assert told == [[]]
    daemon.close()


def test_overrides_are_told_when_they_have_changed(sqlite: SqliteDatabase, clock: Clock) -> None:
    daemon, _, told = informed(sqlite, clock)
    for _ in range(2):
        daemon.wait()
        assert told == [[]]
    override = Override("user:a", (), int(clock.now) + HOUR)
    log = SqliteLog(sqlite.path, clock)
    log_tables.set_override(log, override, int(clock.now), 1.0)
    log.close()
    for _ in range(2):
        daemon.wait()
        assert told == [[], [override]]
    daemon.close()


def test_hits_are_written_though_overrides_cannot_be_read(sqlite: SqliteDatabase, clock: Clock) -> None:
    """And the other way round: what ails one does not keep back the other, however long it lasts."""
    daemon, mailbox, told = informed(sqlite, clock)
    daemon.wait()
    override = Override("user:a", (), int(clock.now) + HOUR)
    for number in (1, 2):  # whichever was the first the last time
        with mock.patch.object(daemon.store, "overrides", side_effect=StoreUnavailable("not to be read")):
            mailbox.hit("user:a", MINUTE)
            for _ in range(2):
                daemon.wait()
                assert daemon.ask(demand(maximum=100)) == [True]  # over a new connection
            assert mailbox.take() == []
        with mock.patch.object(daemon.store, "add_hits", side_effect=StoreUnavailable("not to be written")):
            log = SqliteLog(sqlite.path, clock)
            log_tables.set_override(log, override._replace(until=override.until + number), int(clock.now), 1.0)
            log.close()
            mailbox.hit("user:a", MINUTE)
            for _ in range(2):
                daemon.wait()
                assert daemon.ask(demand(maximum=100)) == [True]
            assert told[-1] == [override._replace(until=override.until + number)]
        daemon.wait()
        daemon.wait()
        assert mailbox.take() == []
    daemon.close()
