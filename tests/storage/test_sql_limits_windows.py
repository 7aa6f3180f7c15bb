"""Windows that only a table of limits by id names: they are longer than anything that is configured."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from policyd_rate_limit.domain.charge import Charge, Demand
from policyd_rate_limit.domain.limits import LARGEST, Limit, Limits
from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.log.sqlite.log import SqliteLog
from policyd_rate_limit.storage.log.store import LogStore
from policyd_rate_limit.tables.cache import Unreachable
from storage.stores import HOUR, PATIENCE, START, Clock, SqliteDatabase, admitted, demand, new_memory

DAY = 24 * HOUR
WEEK = 7 * DAY


def weekly(key: str, maximum: int) -> Demand:
    return demand(key, maximum, seconds=WEEK)


def test_the_log_is_read_back_as_far_as_is_needed(sqlite: SqliteDatabase, clock: Clock) -> None:
    first = sqlite.store(clock)
    first.need(WEEK)
    assert admitted(first, *[weekly("user:alice", 5)] * 3) == [True] * 3
    first.close()
    clock.now += 6 * DAY
    second = sqlite.store(clock)
    assert admitted(second, demand("user:bob")) == [True]  # it has read an hour
    second.need(WEEK)
    second.need(DAY)
    assert admitted(second, *[weekly("user:alice", 5)] * 3) == [True, True, False]
    assert admitted(second, demand("user:bob", 1)) == [False]
    second.close()


def test_looking_back_finds_what_a_shorter_window_has_made_memory_forget(sqlite: SqliteDatabase, clock: Clock) -> None:
    store = sqlite.store(clock, longest=WEEK)
    short = demand("user:alice", 100, seconds=60)
    for _ in range(10):
        assert admitted(store, short) == [True]
        clock.now += HOUR
    store.need(WEEK)  # as long as before: nothing is read
    assert admitted(store, weekly("user:alice", 10)) == [True]
    store.look_back(WEEK)
    assert admitted(store, *[weekly("user:alice", 12)] * 2) == [True, False]
    assert store.reach == WEEK
    store.look_back(2 * WEEK)
    assert store.reach == 2 * WEEK
    store.close()


def test_looking_back_while_the_database_is_away(sqlite: SqliteDatabase, clock: Clock) -> None:
    store = sqlite.store(clock)
    for _ in range(3):
        assert admitted(store, demand("user:alice", 100, seconds=60)) == [True]
        clock.now += 120
    store.look_back(HOUR)
    with sqlite.outage(), pytest.raises(StoreUnavailable):
        store.admit([demand("user:alice", 3)], (), 0.0)
    assert admitted(store, demand("user:alice", 3)) == [False]
    store.close()


def test_a_failure_meanwhile_does_not_forget_what_is_needed(sqlite: SqliteDatabase, clock: Clock) -> None:
    first = sqlite.store(clock)
    first.need(WEEK)
    assert admitted(first, weekly("user:alice", 1)) == [True]
    first.close()
    clock.now += 6 * DAY
    second = sqlite.store(clock)
    assert admitted(second, demand("user:bob")) == [True]
    second.need(WEEK)
    with sqlite.outage(), pytest.raises(StoreUnavailable):
        second.admit([weekly("user:alice", 1)], (), 0.0)
    assert admitted(second, weekly("user:alice", 1)) == [False]
    second.close()


def test_a_table_that_is_lost_when_more_is_needed_is_made_of_what_is_in_memory(
    sqlite: SqliteDatabase, clock: Clock
) -> None:
    store = sqlite.store(clock)
    assert admitted(store, demand("user:alice", 1)) == [True]
    for path in sqlite.home.glob(f"{sqlite.path.name}*"):
        path.unlink()
    store.need(WEEK)
    assert admitted(store, demand("user:alice", 1), weekly("user:alice", 1)) == [False, False]
    store.close()


def test_limits_that_become_longer_find_what_was_kept(sqlite: SqliteDatabase, clock: Clock) -> None:
    """A charge says for how long what it counts may be asked for, whatever its own limits."""
    store = sqlite.store(clock, longest=WEEK)
    short = Demand((Charge("user:alice", 1, (Limit(1000, 60),), keep_seconds=WEEK),))
    for _ in range(100):
        assert admitted(store, short) == [True]
        clock.now += HOUR
    assert admitted(store, weekly("user:alice", 101), weekly("user:alice", 101)) == [True, False]
    store.close()


def clean(sqlite: SqliteDatabase, clock: Clock, limits: dict[str, Limits]) -> tuple[int, set[str]]:
    """``--clean``; how many entries it deletes, and about whom it asks."""
    store = sqlite.store(clock)
    asked: set[str] = set()

    def limits_of(counter: str) -> Limits | None:
        asked.add(counter)
        return limits.get(counter)

    deleted = store.clean(PATIENCE, limits_of)
    store.close()
    return deleted, asked


def test_clean_leaves_what_a_window_of_the_table_needs(sqlite: SqliteDatabase, clock: Clock) -> None:
    store = sqlite.store(clock)
    assert admitted(store, demand("user:alice"), demand("user:bob")) == [True, True]
    clock.now += 3 * HOUR
    assert admitted(store, demand("user:carol")) == [True]
    limits = {"user:alice": (Limit(5, 60), Limit(9, WEEK)), "user:carol": (Limit(9, 60),), "user:bob": ()}
    assert clean(sqlite, clock, limits) == (0, {"user:alice", "user:bob"})
    clock.now = START + 2 * WEEK - HOUR
    assert clean(sqlite, clock, limits)[0] == 0
    clock.now += 2 * HOUR
    assert clean(sqlite, clock, limits)[0] == 2
    # Nobody is left whose window is long; the newest row stays, whatever its age.
    assert admitted(store, demand("user:dave")) == [True]
    assert clean(sqlite, clock, limits) == (1, {"user:carol"})
    store.close()


def test_clean_deletes_nothing_when_the_table_cannot_be_asked(sqlite: SqliteDatabase, clock: Clock) -> None:
    store = sqlite.store(clock)
    assert admitted(store, demand("user:alice")) == [True]
    clock.now += WEEK
    assert admitted(store, demand("user:bob")) == [True]
    store.close()

    def fail(counter: str) -> Limits | None:
        raise Unreachable("it is away")

    store = sqlite.store(clock)
    with pytest.raises(Unreachable):
        store.clean(PATIENCE, fail)
    store.close()
    assert clean(sqlite, clock, {})[0] == 1


def test_old_counts_are_taken_over_as_far_back_as_is_said(sqlite: SqliteDatabase, clock: Clock) -> None:
    with contextlib.closing(sqlite3.connect(sqlite.path)) as database, database:
        database.execute("CREATE TABLE mail_count (id varchar(40) NOT NULL, date bigint NOT NULL)")
        database.execute("INSERT INTO mail_count VALUES ('alice', ?)", (int(START) - 6 * DAY,))
    store = LogStore(
        lambda: SqliteLog(sqlite.path, clock),
        new_memory(clock),
        longest=HOUR,
        counters_of_old_id=lambda old_id: (f"user:{old_id}",),
        carried=LARGEST,
    )
    assert store.admit([], (), PATIENCE) == []  # before it is known what is needed
    store.need(WEEK)
    assert admitted(store, weekly("user:alice", 1), weekly("user:bob", 1)) == [False, True]
    store.close()
