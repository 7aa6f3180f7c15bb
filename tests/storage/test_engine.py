"""While the database is away: limits from memory, records in the spool; once it is back, all of them in it, once."""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from unittest import mock

import pytest

from policyd_rate_limit.domain.charge import Usage
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.storage.engine.backoff import Backoff
from policyd_rate_limit.storage.engine.spool_file import SpoolFile
from storage.daemon import LIMIT, Daemon, ask, found, open_descriptors, spool_files
from storage.stores import HOUR, START, Clock, Database, SqliteDatabase, demand

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
    assert spool_files(database.home) == []


def test_decisions_are_explained_from_memory(database: Database, clock: Clock) -> None:
    """By this daemon's own knowledge, while the database is away and when it has just gone."""
    daemon = Daemon(database, clock)
    assert ask(daemon, "user:a", 4) == 4
    expected = [(Usage("user:a", Limit(LIMIT, HOUR), 4, 0),)]
    assert daemon.engine.explain([demand("user:a", LIMIT)]) == expected
    with database.outage():
        assert daemon.engine.explain([demand("user:a", LIMIT)]) == expected
        assert ask(daemon, "user:a", 6) == 6
        assert daemon.engine.explain([demand("user:a", LIMIT)]) == [
            (Usage("user:a", Limit(LIMIT, HOUR), LIMIT, HOUR + 1),)
        ]
    # It is within reach again, and does not know yet what was decided without it.
    expected = [(Usage("user:a", Limit(LIMIT, HOUR), LIMIT, HOUR + 1),)]
    assert daemon.engine.explain([demand("user:a", LIMIT)]) == expected
    daemon.wait()
    assert daemon.engine.explain([demand("user:a", LIMIT)]) == expected
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
    """Each from its spool file, and each knows of both afterwards."""
    one, two = Daemon(database, clock), Daemon(database, clock)
    assert [ask(one, "user:a", 1), ask(two, "user:a", 1)] == [1, 1]
    with database.outage():
        assert [ask(one, "user:a", 3), ask(two, "user:a", 3)] == [3, 3]
        assert len(spool_files(database.home)) == 2
    one.wait()
    two.wait()
    assert found(database, clock, "user:a") == [8]
    assert [ask(one, "user:a", 1), ask(two, "user:a", 1), ask(one, "user:a", 1)] == [1, 1, 0]
    one.close()
    two.close()
    assert spool_files(database.home) == []


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


def test_an_orderly_end_leaves_the_spool_file(database: Database, clock: Clock) -> None:
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
        assert third.used("user:a") == 8
    third.wait()
    assert found(database, clock, "user:a") == [8]
    assert len(spool_files(database.home)) == 1
    assert ask(third, "user:a", LIMIT) == 2
    third.close()
    assert spool_files(database.home) == []


def test_an_empty_spool_file_stays_where_the_database_is_away(sqlite: SqliteDatabase, clock: Clock) -> None:
    """Its room is there for the next daemon, also where something else has filled the disk meanwhile."""
    daemon = Daemon(sqlite, clock)
    assert ask(daemon, "user:a", LIMIT) == LIMIT
    with sqlite.outage():
        assert ask(daemon, "user:a", 1) == 0
        assert daemon.engine.away_since is not None
        (file,) = spool_files(sqlite.home)
        daemon.close()
        assert spool_files(sqlite.home) == [file]
        with mock.patch.object(SpoolFile, "create", side_effect=OSError(errno.ENOSPC, "no space left")):
            second = Daemon(sqlite, clock)
            assert ask(second, "user:b", 1) == 1
        assert spool_files(sqlite.home) == [file]
        second.die()
    third = Daemon(sqlite, clock)
    third.wait()
    third.close()
    assert spool_files(sqlite.home) == []
    assert found(sqlite, clock, "user:a", "user:b") == [LIMIT, 1]


def test_a_start_without_an_outage_reads_the_database_once(sqlite: SqliteDatabase, clock: Clock) -> None:
    """With what a daemon before has left, too: a million ids take seconds to read."""
    with sqlite.outage():
        before = Daemon(sqlite, clock)
        assert ask(before, "user:a", 2) == 2
        before.die()
    daemon = Daemon(sqlite, clock)
    with mock.patch.object(daemon.store, "reload", wraps=daemon.store.reload) as reload:
        assert ask(daemon, "user:a", LIMIT) == LIMIT - 2
    assert reload.call_count == 0
    daemon.close()


def test_a_daemon_takes_over_what_one_that_died_left(database: Database, clock: Clock) -> None:
    """Its records count before the first answer."""
    with database.outage():
        dead = Daemon(database, clock)
        assert ask(dead, "user:a", 4) == 4
        dead.die()
        heir = Daemon(database, clock)
        assert ask(heir, "user:a", LIMIT) == LIMIT - 4
        heir.die()
    last = Daemon(database, clock)
    assert ask(last, "user:a", 1) == 0
    assert found(database, clock, "user:a") == [LIMIT]
    last.close()
    assert spool_files(database.home) == []


def test_a_spool_file_is_replayed_once_whoever_died_when(database: Database, clock: Clock) -> None:
    """Death between the commit of the replay and the end of the spool: the next daemon replays nothing twice."""
    with database.outage():
        dead = Daemon(database, clock)
        assert ask(dead, "user:a", 4) == 4
        dead.die()
    for _ in range(3):
        heir = Daemon(database, clock)
        with mock.patch.object(heir.engine._spool, "clear"):
            heir.wait()
            assert found(database, clock, "user:a") == [4]
        heir.die()
    last = Daemon(database, clock)
    last.wait()
    assert found(database, clock, "user:a") == [4]
    last.close()
    assert spool_files(database.home) == []


def test_old_spool_files_replay_at_their_dates(database: Database, clock: Clock) -> None:
    """A spool file that was found long after counts nothing that has left the windows."""
    with database.outage():
        dead = Daemon(database, clock)
        assert ask(dead, "user:a", 4) == 4
        clock.now += 100
        assert ask(dead, "user:a", 2) == 2
        dead.die()
    clock.now += HOUR - 50
    heir = Daemon(database, clock)
    heir.wait()
    assert found(database, clock, "user:a") == [2]
    heir.close()


def test_daemons_of_two_databases_share_a_directory(sqlite: SqliteDatabase, clock: Clock) -> None:
    """Neither takes the spool of the other for its own."""
    other = SqliteDatabase(sqlite.home)
    other.path = sqlite.path.with_name("db.sqlite3-1")
    with sqlite.outage(), other.outage():
        one = Daemon(sqlite, clock)
        two = Daemon(other, clock, journal_name="db.sqlite3-1")
        assert [ask(one, "user:a", 3), ask(two, "user:a", 5)] == [3, 5]
        one.die()
        two.die()
    one, two = Daemon(sqlite, clock), Daemon(other, clock, journal_name="db.sqlite3-1")
    one.wait()
    two.wait()
    assert [found(sqlite, clock, "user:a"), found(other, clock, "user:a")] == [[3], [5]]
    one.close()
    two.close()


# --- Tries


def due_after(seconds: float, backoff: Backoff, clock: Clock) -> bool:
    """Whether the next try is due ``seconds`` later."""
    clock.now += seconds
    return backoff.due


def test_nothing_that_is_not_urgent_is_asked_of_a_database_that_is_away(database: Database, clock: Clock) -> None:
    """It would hold up the answers that memory gives."""
    daemon = Daemon(database, clock)
    daemon.ask()
    with mock.patch.object(daemon.store, "maintain", wraps=daemon.store.maintain) as maintain:
        with database.outage():
            assert ask(daemon, "user:a", 1) == 1
            daemon.wait()
        assert maintain.call_count == 0
        daemon.wait()
        daemon.wait()
        assert maintain.call_count > 0
    daemon.close()


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

        def hang(patience: float) -> None:
            assert answer.wait(60)
            real(patience)

        with mock.patch.object(daemon.store, "probe", hang):
            daemon.monotonic.now += 10
            assert ask(daemon, "user:a", 5) == 5
            daemon.engine.maintain()
            assert ask(daemon, "user:a", 2) == 2
    answer.set()
    daemon.wait()
    assert found(sqlite, clock, "user:a") == [8]
    daemon.close()


@pytest.mark.parametrize("by_signs", [False, True], ids=["by time", "by signs"])
def test_without_room_for_a_thread_memory_decides(sqlite: SqliteDatabase, clock: Clock, by_signs: bool) -> None:
    """Nobody can knock then, and nobody is without an answer for that, also where somebody seems to have mended it."""
    signs = [0]
    daemon = Daemon(sqlite, clock, signs=lambda: signs[0])
    daemon.ask()
    with sqlite.outage():
        assert ask(daemon, "user:a", 1) == 1
        with mock.patch("threading.Thread.start", side_effect=RuntimeError("can't start new thread")):
            if by_signs:
                signs[0] = 1
            else:
                daemon.monotonic.now += 10
            assert ask(daemon, "user:a", 5) == 5
    daemon.wait()
    assert found(sqlite, clock, "user:a") == [6]
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
