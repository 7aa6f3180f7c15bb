"""While the database is away: limits from memory, records in the journal; once it is back, all of them in it, once."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import replace
from unittest import mock

import pytest

from policyd_rate_limit.domain.charge import Charge, Demand, Usage, Verdict
from policyd_rate_limit.domain.limits import LARGEST, Limit
from policyd_rate_limit.errors import StoreFull, StoreUnavailable
from policyd_rate_limit.storage import log_tables
from policyd_rate_limit.storage.administration import Hits, Override
from policyd_rate_limit.storage.base import CommitFailed
from policyd_rate_limit.storage.fallback import Backoff
from policyd_rate_limit.storage.journal import Journal
from policyd_rate_limit.storage.log_store import LogStore
from policyd_rate_limit.storage.notices import Notices
from policyd_rate_limit.storage.record import Record
from policyd_rate_limit.storage.sqlite import SqliteLog
from storage.daemon import Daemon, journals, open_descriptors
from storage.stores import HOUR, START, Clock, Database, SqliteDatabase, demand, usage
from support.outages import small_disk

LIMIT = 10
NAME = "db.sqlite3"


def ask(daemon: Daemon, key: str, mails: int) -> int:
    """How many of ``mails`` mails, each in a batch of its own, are admitted."""
    return sum(sum(daemon.ask(demand(key, LIMIT))) for _ in range(mails))


def found(database: Database, clock: Clock, *keys: str) -> list[int]:
    """What a daemon that starts now finds in the database for each of ``keys``."""
    store = database.store(clock)
    counts = usage(store, keys)
    store.close()
    return list(counts.values())


# --- The database is away


def test_limits_go_on_from_memory(database: Database, clock: Clock) -> None:
    """Through an outage nothing is admitted beyond the limit, and afterwards the database has it all."""
    daemon = Daemon(database, clock)
    assert ask(daemon, "user:a", 4) == 4
    with database.outage():
        assert ask(daemon, "user:a", 3) == 3
        assert ask(daemon, "user:b", LIMIT + 1) == LIMIT
        daemon.wait()
        assert ask(daemon, "user:a", 2) == 2
    daemon.wait()
    assert found(database, clock, "user:a", "user:b") == [9, LIMIT]
    assert ask(daemon, "user:a", 3) == 1
    daemon.close()
    assert found(database, clock, "user:a", "user:b") == [LIMIT, LIMIT]
    assert journals(database.home) == []


def test_decisions_are_explained_from_memory(database: Database, clock: Clock) -> None:
    """By this daemon's own knowledge, while the database is away and when it has just gone."""
    daemon = Daemon(database, clock)
    assert ask(daemon, "user:a", 4) == 4
    expected = [(Usage("user:a", Limit(LIMIT, HOUR), 4, 0),)]
    assert daemon.fallback.explain([demand("user:a", LIMIT)]) == expected
    with database.outage():
        assert daemon.fallback.explain([demand("user:a", LIMIT)]) == expected
        assert ask(daemon, "user:a", 6) == 6
        assert daemon.fallback.explain([demand("user:a", LIMIT)]) == [
            (Usage("user:a", Limit(LIMIT, HOUR), LIMIT, HOUR + 1),)
        ]
    daemon.close()


def test_windows_pass_during_an_outage(database: Database, clock: Clock) -> None:
    """What was admitted then counts from then, not from when the database came back."""
    daemon = Daemon(database, clock)
    assert ask(daemon, "user:a", 4) == 4
    with database.outage():
        assert ask(daemon, "user:a", 1) == 1
        clock.now += HOUR
        assert ask(daemon, "user:a", LIMIT) == 5
        clock.now += 1
        assert ask(daemon, "user:a", LIMIT) == 5
        clock.now += HOUR - 1
    daemon.wait()
    assert found(database, clock, "user:a") == [LIMIT]
    clock.now += 1
    assert found(database, clock, "user:a") == [5]
    daemon.close()


def test_a_mail_that_goes_on_after_the_outage_is_settled(database: Database, clock: Clock) -> None:
    """What was charged for it at RCPT during the outage is known at DATA after it, and to other daemons."""
    daemon, other = Daemon(database, clock), Daemon(database, clock)
    daemon.ask()
    other.ask()
    with database.outage():
        daemon.ask(*(demand("user:a", mail="m", part=part) for part in "abc"))
    daemon.wait()
    other.wait()
    other.ask(demand("user:a", mail="m", part="b"), demand("user:a", mail="m", settles=True, cost=2))
    assert found(database, clock, "user:a") == [2]
    daemon.close()
    other.close()


def test_two_daemons_bring_both_what_they_kept(database: Database, clock: Clock) -> None:
    """Each from its journal, and each knows of both afterwards."""
    one, two = Daemon(database, clock), Daemon(database, clock)
    assert [ask(one, "user:a", 1), ask(two, "user:a", 1)] == [1, 1]
    with database.outage():
        assert [ask(one, "user:a", 3), ask(two, "user:a", 3)] == [3, 3]
        assert len(journals(database.home)) == 2
    one.wait()
    two.wait()
    assert found(database, clock, "user:a") == [8]
    assert [ask(one, "user:a", 1), ask(two, "user:a", 1), ask(one, "user:a", 1)] == [1, 1, 0]
    one.close()
    two.close()
    assert journals(database.home) == []


def test_each_change_is_logged_once(database: Database, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """However many requests and tries there are in between."""
    daemon = Daemon(database, clock)
    for _ in range(3):
        caplog.clear()
        with database.outage():
            for _ in range(4):
                ask(daemon, "user:a", 5)
                daemon.wait()
        daemon.wait()
        daemon.wait()
        assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]
    daemon.close()


def test_an_outage_from_the_start(database: Database, clock: Clock) -> None:
    """The daemon needs no database to start, and what others counted before counts once it is there."""
    earlier = Daemon(database, clock)
    assert ask(earlier, "user:a", 4) == 4
    earlier.close()
    with database.outage():
        daemon = Daemon(database, clock)
        assert ask(daemon, "user:a", 3) == 3
        daemon.wait()
        assert ask(daemon, "user:b", LIMIT + 1) == LIMIT
    daemon.wait()
    assert ask(daemon, "user:a", LIMIT) == 3
    assert ask(daemon, "user:b", 1) == 0
    assert found(database, clock, "user:a", "user:b") == [LIMIT, LIMIT]
    daemon.close()


def test_a_clock_that_steps_back_during_an_outage(database: Database, clock: Clock) -> None:
    """Nothing is granted by it, and nobody is locked out for longer than the window."""
    clock.now = START + 5 * HOUR
    daemon = Daemon(database, clock)
    assert ask(daemon, "user:a", 4) == 4
    with database.outage():
        assert ask(daemon, "user:a", 3) == 3
        clock.now = START
        assert ask(daemon, "user:a", 1) == 1
    daemon.wait()
    assert found(database, clock, "user:a") == [8]
    assert ask(daemon, "user:a", LIMIT) == 2
    clock.now = START + HOUR
    assert ask(daemon, "user:a", 1) == 0
    clock.now += 1
    assert found(database, clock, "user:a") == [0]
    assert ask(daemon, "user:a", LIMIT) == LIMIT
    daemon.close()


# --- The daemon ends while the database is away


def test_an_orderly_end_leaves_the_journal(database: Database, clock: Clock) -> None:
    """The next daemon takes it over, whether the database is back or not; in the end it is gone."""
    with database.outage():
        first = Daemon(database, clock)
        assert ask(first, "user:a", 4) == 4
        first.close()
        second = Daemon(database, clock)
        assert ask(second, "user:a", 3) == 3
        second.close()
        third = Daemon(database, clock)
        assert ask(third, "user:a", 1) == 1
        assert usage_in_memory(third, "user:a") == 8
    third.wait()
    assert found(database, clock, "user:a") == [8]
    assert len(journals(database.home)) == 1
    assert ask(third, "user:a", LIMIT) == 2
    third.close()
    assert journals(database.home) == []


def usage_in_memory(daemon: Daemon, key: str) -> int:
    """What lies in the window of ``key``, as the daemon knows it."""
    (used,) = daemon.memory.ledger.windows.usage(key, demand().charges[0].limits)
    return used


def test_a_daemon_takes_over_what_one_that_died_left(database: Database, clock: Clock) -> None:
    """Its records count before the first answer."""
    with database.outage():
        dead = Daemon(database, clock)
        assert ask(dead, "user:a", 4) == 4
        die(dead)
        heir = Daemon(database, clock)
        assert ask(heir, "user:a", LIMIT) == LIMIT - 4
        die(heir)
    last = Daemon(database, clock)
    assert ask(last, "user:a", 1) == 0
    assert found(database, clock, "user:a") == [LIMIT]
    last.close()
    assert journals(database.home) == []


def die(daemon: Daemon) -> None:
    """The process is killed: the kernel closes what it had open."""
    daemon.store.close()
    for journal in (daemon.fallback._journal, *daemon.fallback._adopted):
        if journal is not None:
            journal.close()


def test_a_journal_is_replayed_once_whoever_died_when(database: Database, clock: Clock) -> None:
    """Death between the commit of the replay and the end of the journal: the next daemon replays nothing twice."""
    with database.outage():
        dead = Daemon(database, clock)
        assert ask(dead, "user:a", 4) == 4
        die(dead)
    for _ in range(3):
        heir = Daemon(database, clock)
        with mock.patch.object(heir.fallback, "_forget_pending"):
            heir.wait()
            assert found(database, clock, "user:a") == [4]
        die(heir)
    last = Daemon(database, clock)
    last.wait()
    assert found(database, clock, "user:a") == [4]
    last.close()
    assert journals(database.home) == []


def test_old_journals_replay_at_their_dates(database: Database, clock: Clock) -> None:
    """A journal that was found long after counts nothing that has left the windows."""
    with database.outage():
        dead = Daemon(database, clock)
        assert ask(dead, "user:a", 4) == 4
        clock.now += 100
        assert ask(dead, "user:a", 2) == 2
        die(dead)
    clock.now += HOUR - 50
    heir = Daemon(database, clock)
    heir.wait()
    assert found(database, clock, "user:a") == [2]
    heir.close()


def test_daemons_of_two_databases_share_a_directory(sqlite: SqliteDatabase, clock: Clock) -> None:
    """Neither takes the journal of the other for its own."""
    other = SqliteDatabase(sqlite.home)
    other.path = sqlite.path.with_name("db.sqlite3-1")
    with sqlite.outage(), other.outage():
        one = Daemon(sqlite, clock)
        two = Daemon(other, clock, journal_name="db.sqlite3-1")
        assert [ask(one, "user:a", 3), ask(two, "user:a", 5)] == [3, 5]
        die(one)
        die(two)
    one, two = Daemon(sqlite, clock), Daemon(other, clock, journal_name="db.sqlite3-1")
    one.wait()
    two.wait()
    assert [found(sqlite, clock, "user:a"), found(other, clock, "user:a")] == [[3], [5]]
    one.close()
    two.close()


# --- The journal is in trouble too


def ask_until_full(daemon: Daemon) -> int:
    """How many mails of different users are admitted until the journal is full."""
    admitted = 0
    for number in range(1000):
        try:
            admitted += sum(daemon.ask(demand(f"user:{number}", 1000)))
        except StoreFull:
            return admitted
    raise AssertionError("never full")


def test_nothing_is_admitted_beyond_the_journal(
    database: Database, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is full once, said once, and what is in it survives; with the database everything goes on."""
    daemon = Daemon(database, clock, journal_size=4096)
    daemon.ask()
    with database.outage():
        kept = ask_until_full(daemon)
        for number in range(100):
            with pytest.raises(StoreFull):
                daemon.ask(demand(f"user:{number}"))
        assert 5 < kept < 100
        daemon.wait()
        with pytest.raises(StoreFull):
            daemon.ask(demand("user:x"))
        die(daemon)
        daemon = Daemon(database, clock, journal_size=4096)
        kept += ask_until_full(daemon)
    daemon.wait()
    keys = [f"user:{number}" for number in range(100)]
    assert sum(found(database, clock, *keys)) == kept
    assert daemon.ask(demand("user:x")) == [True]
    daemon.close()
    assert sum("full" in record.message for record in caplog.records) == 2


class CommitsThatFail:
    """A store that counts, and then cannot say whether it is stored."""

    def __init__(self, daemon: Daemon) -> None:
        self.memory = daemon.memory
        self.reloads = 0

    def prepare(self, demands: Sequence[Demand], patience: float) -> None:
        """Always in the thread."""

    def admit(self, demands: Sequence[Demand], pending: Sequence[Record], patience: float) -> list[Verdict]:
        """Decide, and fail."""
        self.memory.advance()
        verdicts, record = self.memory.decide(demands)
        raise CommitFailed("disk full", verdicts, record)

    def explain(self, demands: Sequence[Demand]) -> list[tuple[Usage, ...]]:
        """Nobody asks."""
        raise AssertionError

    def need(self, seconds: int) -> None:
        """Nobody asks."""
        raise AssertionError

    def look_back(self, seconds: int) -> None:
        """Nobody asks."""
        raise AssertionError

    def add_hits(self, hits: Sequence[Hits]) -> None:
        """Likewise."""
        raise AssertionError

    def overrides(self) -> list[Override] | None:
        """Likewise."""
        raise AssertionError

    def probe(self) -> None:
        """It is there, as far as anybody can see."""

    def reload(self) -> None:
        """Count the calls."""
        self.reloads += 1

    def maintain(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def test_failing_commits_fill_the_journal_and_lose_nothing(sqlite: SqliteDatabase, clock: Clock) -> None:
    """A disk that is full lets transactions begin: each try decides, and what does not fit into the journal is not
    admitted, and does not cost what is in it."""
    daemon = Daemon(sqlite, clock, journal_size=4096)
    daemon.ask()
    store = daemon.store
    daemon.fallback._store = CommitsThatFail(daemon)
    kept = 0
    for number in range(60):
        with contextlib.suppress(StoreFull):
            kept += sum(daemon.ask(demand(f"user:{number}")))
        daemon.monotonic.now += 10
        for thread in threading.enumerate():
            if thread.name == "probe":
                thread.join()
    assert 5 < kept < 60
    assert len(in_journal(daemon)) == kept
    daemon.fallback._store = store
    daemon.wait()
    keys = [f"user:{number}" for number in range(60)]
    assert sum(found(sqlite, clock, *keys)) == kept == sum(usage(daemon.store, keys).values())
    daemon.close()


def in_journal(daemon: Daemon) -> list[Record]:
    """What is in the journal of ``daemon``."""
    journal = daemon.fallback._journal
    assert journal is not None
    with contextlib.closing(Journal(journal.path, os.open(journal.path, os.O_RDONLY), journal.size)) as reader:
        return reader.read()


def test_giving_back_many_charges_at_once_does_not_cost_the_journal(sqlite: SqliteDatabase, clock: Clock) -> None:
    """One small demand that settles a mail makes as many entries as the mail had recipients."""
    daemon = Daemon(sqlite, clock, journal_size=6000)
    daemon.ask(*(demand("user:a", 1000, mail="m" * 60, part=f"{part:016}") for part in range(100)))
    with sqlite.outage():
        assert ask(daemon, "user:b", 3) == 3
        with pytest.raises(StoreFull):
            daemon.ask(demand("user:a", 1000, mail="m" * 60, settles=True, cost=1))
        with pytest.raises(StoreFull):
            daemon.ask(demand("user:c"))
        die(daemon)
        daemon = Daemon(sqlite, clock, journal_size=6000)
        assert usage_in_memory(daemon, "user:b") == 3
    daemon.wait()
    store = sqlite.store(clock)
    assert usage(store, ["user:a", "user:b"], most=200) == {"user:a": 100, "user:b": 3}
    store.close()
    daemon.close()


def test_without_a_journal_memory_keeps_the_records(
    sqlite: SqliteDatabase, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """That is said once, and made up for as soon as a journal can be written."""
    directory = sqlite.home / "journals"
    directory.write_text("in the way")
    daemon = Daemon(sqlite, clock, journal_directory=directory)
    daemon.ask()
    with sqlite.outage():
        assert ask(daemon, "user:a", 4) == 4
        daemon.wait()
        daemon.wait()
        assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR]
        directory.unlink()
        daemon.wait()
        assert ask(daemon, "user:a", 1) == 1
        die(daemon)
        daemon = Daemon(sqlite, clock, journal_directory=directory)
        assert usage_in_memory(daemon, "user:a") == 5
    daemon.wait()
    assert found(sqlite, clock, "user:a") == [5]
    daemon.close()


def test_a_journal_that_somebody_removes_is_made_anew(sqlite: SqliteDatabase, clock: Clock) -> None:
    """With all that was in it, before the next answer."""
    directory = sqlite.home / "journals"
    daemon = Daemon(sqlite, clock, journal_directory=directory)
    daemon.ask()
    with sqlite.outage():
        assert ask(daemon, "user:a", 3) == 3
        (directory / f"{NAME}-0.journal").unlink()
        directory.rmdir()
        assert ask(daemon, "user:a", 1) == 1
        die(daemon)
        daemon = Daemon(sqlite, clock, journal_directory=directory)
        assert usage_in_memory(daemon, "user:a") == 4
        daemon.close()


def test_a_journal_that_cannot_be_written_keeps_what_it_has(sqlite: SqliteDatabase, clock: Clock) -> None:
    """Until the database has it; the journal that takes its place holds it as well, and it counts once."""
    daemon = Daemon(sqlite, clock)
    daemon.ask()
    with sqlite.outage():
        assert ask(daemon, "user:a", 3) == 3
        with mock.patch("os.fdatasync", side_effect=OSError(5, "Input/output error")):
            assert ask(daemon, "user:a", 1) == 1
            for _ in range(3):
                daemon.fallback.maintain()
            assert len(journals(sqlite.home)) == 1
        for _ in range(3):
            daemon.fallback.maintain()
        assert len(journals(sqlite.home)) == 2
        assert ask(daemon, "user:a", 1) == 1
        die(daemon)
        daemon = Daemon(sqlite, clock)
        assert usage_in_memory(daemon, "user:a") == 5
    daemon.wait()
    assert found(sqlite, clock, "user:a") == [5]
    daemon.close()
    assert journals(sqlite.home) == []


def test_a_journal_that_cannot_be_read_is_left_for_later(
    sqlite: SqliteDatabase, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is broken holds up neither the others nor the daemon."""
    with sqlite.outage():
        first, second = Daemon(sqlite, clock), Daemon(sqlite, clock)
        assert [ask(first, "user:a", 3), ask(second, "user:b", 2)] == [3, 2]
        die(first)
        die(second)
    real = os.pread
    broken = (sqlite.home / f"{NAME}-0.journal").stat().st_ino

    def pread(descriptor: int, length: int, at: int) -> bytes:
        if os.fstat(descriptor).st_ino == broken:
            raise OSError(5, "Input/output error")
        return real(descriptor, length, at)

    with mock.patch("os.pread", pread):
        daemon = Daemon(sqlite, clock)
        daemon.wait()
        daemon.close()
    assert found(sqlite, clock, "user:a", "user:b") == [0, 2]
    assert journals(sqlite.home) == [f"{NAME}-0.journal"]
    assert "cannot be read" in caplog.text
    daemon = Daemon(sqlite, clock)
    daemon.wait()
    daemon.close()
    assert found(sqlite, clock, "user:a", "user:b") == [3, 2]
    assert journals(sqlite.home) == []


@pytest.mark.needs_root
def test_a_full_disk(tmp_path: pathlib.Path, clock: Clock) -> None:
    """The journal was there before: neither the database nor the journal loses anything, and the limit is exact."""
    with small_disk(tmp_path) as disk:
        database = SqliteDatabase(disk)
        daemon = Daemon(database, clock, journal_size=1 << 18)
        assert ask(daemon, "user:a", 3) == 3
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        keys = [f"user:{number}-{'x' * 200}" for number in range(50)]
        for key in keys:
            assert ask(daemon, key, 1) == 1
            daemon.wait()
        assert ask(daemon, "user:a", LIMIT) == LIMIT - 3
        die(daemon)
        daemon = Daemon(database, clock, journal_size=1 << 18)
        assert ask(daemon, keys[0], LIMIT) == LIMIT - 1
        filler.unlink()
        daemon.wait()
        assert found(database, clock, "user:a", *keys) == [LIMIT, LIMIT, *[1] * 49]
        daemon.close()


@pytest.mark.needs_root
def test_a_small_disk_gets_a_small_journal(tmp_path: pathlib.Path, clock: Clock) -> None:
    """A quarter of what is free at most: the database needs the rest."""
    with small_disk(tmp_path) as disk:
        daemon = Daemon(SqliteDatabase(disk), clock, journal_size=1 << 30)
        assert 0 < (disk / f"{NAME}-0.journal").stat().st_size <= 1 << 20
        assert ask(daemon, "user:a", 3) == 3
        daemon.close()


# --- db_error_action is set


def test_with_db_error_action_nobody_decides_while_the_database_is_away(database: Database, clock: Clock) -> None:
    """And nothing is counted; from the first answer on after it, the limit is exact."""
    daemon = Daemon(database, clock, enforce=False)
    assert ask(daemon, "user:a", 4) == 4
    with database.outage():
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                daemon.fallback.admit([demand("user:a")])
            daemon.wait()
    assert journals(database.home) == []
    daemon.wait()
    assert ask(daemon, "user:a", LIMIT) == LIMIT - 4
    assert found(database, clock, "user:a") == [LIMIT]
    daemon.close()


def test_with_db_error_action_what_others_count_meanwhile_counts(database: Database, clock: Clock) -> None:
    """The one that was cut off reads it first."""
    daemon, other = Daemon(database, clock, enforce=False), Daemon(database, clock)
    assert ask(daemon, "user:a", 4) == 4
    with mock.patch.object(daemon.store, "admit", side_effect=StoreUnavailable("away")):
        assert ask(daemon, "user:a", 3) == 0
    assert ask(other, "user:a", 3) == 3
    daemon.wait()
    assert ask(daemon, "user:a", LIMIT) == 3
    daemon.close()
    other.close()


def test_with_db_error_action_a_commit_that_failed_counts_only_if_it_is_there(
    sqlite: SqliteDatabase, clock: Clock
) -> None:
    """Nobody was told that the mail may pass: memory believes the database, whatever that says."""
    daemon = Daemon(sqlite, clock, enforce=False)
    assert ask(daemon, "user:a", 4) == 4
    assert isinstance(daemon.store, LogStore)
    log = daemon.store._log
    assert isinstance(log, SqliteLog)
    with mock.patch.object(log, "_execute", wraps=log._execute, side_effect=fail_at_commit):
        verdicts = daemon.ask(demand("user:a"))
    assert verdicts == []
    daemon.wait()
    assert usage(daemon.store, ["user:a"]) == {"user:a": 4}
    assert ask(daemon, "user:a", LIMIT) == LIMIT - 4
    daemon.close()


def fail_at_commit(statement: str, *_: object) -> object:
    """Let all statements but COMMIT be executed."""
    if statement == "COMMIT":
        error = sqlite3.OperationalError("disk full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error
    return mock.DEFAULT


def test_with_db_error_action_an_old_journal_is_still_taken_over(database: Database, clock: Clock) -> None:
    """Of the daemon before the setting was made."""
    with database.outage():
        before = Daemon(database, clock)
        assert ask(before, "user:a", 3) == 3
        before.close()
    daemon = Daemon(database, clock, enforce=False)
    assert ask(daemon, "user:a", LIMIT) == LIMIT - 3
    assert found(database, clock, "user:a") == [LIMIT]
    daemon.close()
    assert journals(database.home) == []


# --- Tries


def due_after(seconds: float, backoff: Backoff, clock: Clock) -> bool:
    """Whether the next try is due ``seconds`` later."""
    clock.now += seconds
    return backoff.due


def test_tries_come_later_and_later() -> None:
    """After 0.1 s at first and 5 s at most, spread at random, and at once after a success."""
    clock = Clock(100.0)
    backoff = Backoff(clock)
    assert due_after(0, backoff, clock)
    for expected in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0):
        backoff.failed()
        assert not due_after(0.49 * expected, backoff, clock)
        assert due_after(0.52 * expected, backoff, clock)
    backoff.failed()
    backoff.succeeded()
    assert due_after(0, backoff, clock)
    backoff.failed()
    assert due_after(0.1, backoff, clock)


def test_a_database_that_hangs_holds_nobody_up(sqlite: SqliteDatabase, clock: Clock) -> None:
    """While somebody knocks, memory decides."""
    daemon = Daemon(sqlite, clock)
    daemon.ask()
    answer = threading.Event()
    with sqlite.outage():
        assert ask(daemon, "user:a", 1) == 1
        real = daemon.store.probe

        def hang() -> None:
            assert answer.wait(60)
            real()

        with mock.patch.object(daemon.store, "probe", hang):
            daemon.monotonic.now += 10
            assert ask(daemon, "user:a", 5) == 5
            daemon.fallback.maintain()
            assert ask(daemon, "user:a", 2) == 2
            answer.set()
    daemon.wait()
    assert found(sqlite, clock, "user:a") == [8]
    daemon.close()


@pytest.mark.parametrize("away", [False, True], ids=["there", "away"])
def test_nothing_is_left_open(database: Database, clock: Clock, away: bool) -> None:
    """No thread, no descriptor, whatever the daemon was doing."""
    threads, descriptors = threading.active_count(), open_descriptors()
    for _ in range(3):
        daemon = Daemon(database, clock)
        assert ask(daemon, "user:a", 2) == 2
        with database.outage() if away else contextlib.nullcontext():
            assert ask(daemon, "user:a", 1) == 1
            daemon.wait()
            daemon.close()
    assert threading.active_count() == threads
    assert open_descriptors() == descriptors


# --- Hits and overrides

MINUTE = Limit(LIMIT, 60)


def informed(database: Database, clock: Clock) -> tuple[Daemon, Notices, list[list[Override]]]:
    """A daemon, where its hits go in, and what it is told of overrides."""
    notices = Notices(clock)
    told: list[list[Override]] = []
    notices.subscribe(told.append)
    return Daemon(database, clock, notices=notices), notices, told


def test_hits_wait_while_the_database_is_away(database: Database, clock: Clock) -> None:
    """And are written once it is back, or at the end."""
    daemon, notices, _ = informed(database, clock)
    daemon.wait()
    notices.hit("user:a", MINUTE)
    with database.outage():
        daemon.ask(demand())
        notices.hit("user:a", MINUTE)
        daemon.wait()
        assert [hit.hits for hit in notices.take()] == [2]
        notices.hit("user:a", MINUTE)
    daemon.wait()
    assert notices.take() == []
    notices.hit("user:a", MINUTE)
    daemon.close()
    assert notices.take() == []


def test_hits_that_cannot_be_written_are_tried_again_after_a_while_and_that_is_said_once(
    sqlite: SqliteDatabase, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    daemon, notices, told = informed(sqlite, clock)
    daemon.wait()
    assert told == [[]]
    with contextlib.closing(sqlite3.connect(sqlite.path)) as other:
        other.execute("CREATE TRIGGER full BEFORE INSERT ON policyd_hit BEGIN SELECT raise(ABORT, 'full'); END")
    caplog.clear()
    for _ in range(3):
        notices.hit("user:a", MINUTE)
        daemon.wait()
        assert daemon.ask(demand(maximum=100)) == [True]
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "hits and overrides cannot be exchanged with the database"
    ]
    with contextlib.closing(sqlite3.connect(sqlite.path)) as other:
        other.execute("DROP TRIGGER full")
        daemon.fallback.maintain()  # too early
        assert other.execute("SELECT count(*) FROM policyd_hit").fetchone() == (0,)
        daemon.wait()
        assert other.execute("SELECT hits FROM policyd_hit").fetchone() == (3,)
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


def test_what_is_there_to_keep_something_in_mind_is_not_told(database: Database, clock: Clock) -> None:
    daemon = Daemon(database, clock)
    asked = Demand((Charge("user:a", "", 1, (Limit(9, 60), Limit(LARGEST, HOUR))),))
    daemon.ask(asked)
    for _ in range(2):
        (usages,) = daemon.fallback.explain([asked])
        assert [(usage.limit, usage.used) for usage in usages] == [(Limit(9, 60), 1)]
        with database.outage():
            daemon.ask(replace(asked, charges=(replace(asked.charges[0], cost=100),)))
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
