"""What is particular to the log in an SQLite file: its write-ahead log, its size, its rows' dates, its old tables."""

from __future__ import annotations

import contextlib
import pathlib
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.storage.log.sqlite import checkpoint as sqlite_checkpoint
from policyd_rate_limit.storage.log.sqlite import files
from policyd_rate_limit.storage.log.sqlite import log as sqlite_module
from policyd_rate_limit.storage.log.sqlite.log import SqliteLog
from policyd_rate_limit.storage.log.store import LogStore
from policyd_rate_limit.storage.record import pack
from storage.daemon import Daemon
from storage.faults import Fault, connections_with
from storage.logs import append, record
from storage.stores import HOUR, PATIENCE, START, Clock, SqliteDatabase, admitted, demand, in_memory, usage
from support.old_databases import MAKERS, make_1_2_0

SECOND = int(START) + 1  # that a charge made at START is dated


def rows(sqlite: SqliteDatabase, columns: str = "seq, date") -> list[tuple[int, ...]]:
    """The rows of the table, in order."""
    with contextlib.closing(sqlite3.connect(sqlite.path)) as reader:
        return reader.execute(f"SELECT {columns} FROM policyd_batch ORDER BY seq").fetchall()


def wal(sqlite: SqliteDatabase) -> int:
    """The size of the write-ahead log (bytes)."""
    return sqlite.path.with_name(sqlite.path.name + "-wal").stat().st_size


# --- Checkpoints


def load(store: LogStore, batches: int) -> None:
    """``batches`` batches of 20 mails each, and now and then what else a daemon does."""
    for number in range(batches):
        assert all(admitted(store, *(demand(f"user:{mail}-{'x' * 40}", 10**9) for mail in range(20))))
        if number % 10 == 0:
            store.maintain()


def test_the_write_ahead_log_stays_bounded(
    memory_directory: pathlib.Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of batches by one daemon, and it is never much longer than what makes a checkpoint due."""
    monkeypatch.setattr(sqlite_checkpoint, "CHECKPOINT_BYTES", 1 << 18)
    sqlite = SqliteDatabase(memory_directory)
    store = sqlite.store(clock)
    longest = 0
    for _ in range(40):
        load(store, 100)
        longest = max(longest, wal(sqlite))
    assert longest < 4 << 20
    written = sum(size for (size,) in rows(sqlite, "length(entries)"))
    assert written > 4 << 20
    store.close()
    assert len(rows(sqlite)) == 4000


def test_the_write_ahead_log_stays_bounded_with_two_daemons(
    memory_directory: pathlib.Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That write all the time, so that no checkpoint ever finds the log at rest."""
    monkeypatch.setattr(sqlite_checkpoint, "CHECKPOINT_BYTES", 1 << 18)
    sqlite = SqliteDatabase(memory_directory)
    stores = [sqlite.store(clock), sqlite.store(clock)]
    for store in stores:
        store.admit((), (), PATIENCE)
    threads = [threading.Thread(target=load, args=(store, 1500)) for store in stores]
    for thread in threads:
        thread.start()
    longest = 0
    while any(thread.is_alive() for thread in threads):
        longest = max(longest, wal(sqlite))
        time.sleep(0.01)
    assert longest < 4 << 20
    for store in stores:
        store.close()
    assert len(rows(sqlite)) == 3000


def test_the_write_ahead_log_stays_bounded_beside_clean(
    memory_directory: pathlib.Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What --clean writes, --clean copies into the file, so that no daemon has to on the way of a batch."""
    monkeypatch.setattr("policyd_rate_limit.storage.log.sqlite.cleaning.STEP_OF_CLEAN", 0.0)  # as on a slow machine
    database = SqliteDatabase(memory_directory)
    daemon, cleaning = database.store(clock), database.store(clock)
    with contextlib.closing(sqlite3.connect(database.path)) as connection, connection:
        daemon.admit((), (), PATIENCE)
        connection.execute(
            "WITH RECURSIVE row(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM row WHERE n < 200000)"
            " INSERT INTO policyd_batch (seq, date, writer, number, size, entries)"
            """ SELECT n, 1, 1, n, 1, '[["user:a",1,0,"",""]]' FROM row"""
        )
    with contextlib.closing(sqlite3.connect(database.path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    deleted: list[int] = []
    thread = threading.Thread(target=lambda: deleted.append(cleaning.clean(10 * PATIENCE)))  # the daemon is in its way
    thread.start()
    longest = 0
    while thread.is_alive():
        assert admitted(daemon, demand("user:b", 10**9)) == [True]
        longest = max(longest, wal(database))
        time.sleep(0.001)
    assert deleted == [200_000]
    assert longest < 4 << 20
    for store in (daemon, cleaning):
        store.close()


WRITER = """
import sys
from policyd_rate_limit.storage.log.sqlite import checkpoint as sqlite_checkpoint
sqlite_checkpoint.CHECKPOINT_BYTES = 1 << 15
from storage.stores import *
store = SqliteDatabase(pathlib.Path(sys.argv[1])).store(Clock())
for number in range(10**6):
    assert all(admitted(store, *(demand("user:a", 10**9) for _ in range(20))))
    print(number + 1, flush=True)
    if number % 5 == 0:
        store.maintain()
"""


def test_death_during_a_checkpoint_loses_nothing(tmp_path: pathlib.Path, clock: Clock) -> None:
    """A daemon that does little else than checkpoints is killed again and again."""
    sqlite = SqliteDatabase(tmp_path)
    tests = pathlib.Path(__file__).parent.parent
    answered = 0
    for life in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, text=True, cwd=tests
        ) as process:
            assert process.stdout is not None
            for _ in range(40 + 7 * life):
                assert process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read().splitlines()
        answered += 40 + 7 * life + sum(line.isdigit() for line in rest)
        store = sqlite.store(clock)
        store.admit((), (), PATIENCE)
        store.close()
        batches = len(rows(sqlite))
        assert 0 <= batches - answered <= 1
        answered = batches  # one may have been committed and not answered
    with contextlib.closing(sqlite3.connect(sqlite.path)) as reader:
        assert reader.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert sqlite.usage(clock.now) == {"user:a": 20 * answered}


def test_a_checkpoint_makes_no_file(sqlite: SqliteDatabase, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody has just removed it."""
    monkeypatch.setattr(sqlite_checkpoint, "CHECKPOINT_BYTES", 1)
    store = sqlite.store(clock)
    admitted(store, demand())
    sqlite.path.unlink()
    log = store._log
    assert isinstance(log, SqliteLog)
    log._checkpointer.written(1)
    log._checkpointer.stop()
    assert not sqlite.path.exists()
    store.close()


# --- Its size


def test_what_was_never_committed_is_not_rescued(sqlite: SqliteDatabase) -> None:
    """Whoever asked for it is answered without the file."""
    log = SqliteLog(sqlite.path, time.time)
    append(log, record(1))
    log.begin(1.0)
    log.append(record(2))
    damage = sqlite3.DatabaseError("database disk image is malformed")
    damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    assert log.lost(damage).rescued == [(1, record(1))]


@pytest.mark.parametrize("incremental", [True, False], ids=["our own file", "file of an old version"])
def test_clean_gives_room_back(sqlite: SqliteDatabase, clock: Clock, incremental: bool) -> None:
    """Beside a daemon that serves on, and without a step back in what it counts."""
    if not incremental:
        make_1_2_0(sqlite.path, [(f"user{number}", int(START) - 10 * HOUR, 1) for number in range(20_000)])
    daemon = sqlite.store(clock)
    for number in range(300):
        admitted(daemon, *(demand(f"user:{number}-{mail}-{'x' * 60}") for mail in range(20)))
    clock.now += 3 * HOUR
    assert admitted(daemon, demand(cost=4)) == [True]
    assert sqlite.usage(START) != {}
    cleaner = sqlite.store(clock)
    assert cleaner.clean(PATIENCE) == 300 * 20 + (0 if incremental else 20_000)
    cleaner.close()
    assert admitted(daemon, demand(cost=5), demand(cost=2), demand()) == [True, False, True]
    with contextlib.closing(sqlite3.connect(sqlite.path)) as other:
        assert other.execute("PRAGMA auto_vacuum").fetchone() == (2,)
        assert other.execute("PRAGMA freelist_count").fetchone() == (0,)
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert sqlite.path.stat().st_size < 128 << 10
    daemon.close()
    late = sqlite.store(clock)
    assert usage(late, ["user:a"]) == {"user:a": 10}
    late.close()


def test_making_a_file_of_an_old_version_smaller_waits_for_the_daemons(sqlite: SqliteDatabase, clock: Clock) -> None:
    """One of them may have the lock just then."""
    make_1_2_0(sqlite.path, [("user", int(START), 1)])
    with (
        contextlib.closing(sqlite.store(clock)) as cleaner,
        contextlib.closing(sqlite3.connect(sqlite.path, isolation_level=None, check_same_thread=False)) as other,
        contextlib.closing(cleaner.connect(PATIENCE)) as log,
    ):
        other.execute("BEGIN IMMEDIATE")
        end = threading.Timer(0.1, other.rollback)
        end.start()
        log.compact(PATIENCE)
        end.join()
        assert log.read("PRAGMA auto_vacuum") == [(2,)]


# --- The dates of rows


@given(
    dates=st.lists(st.integers(1, 40), max_size=40).map(sorted),
    removed=st.sets(st.integers(1, 40)),
    date=st.integers(0, 42),
)
def test_the_last_row_before_a_date(dates: list[int], removed: set[int], date: int) -> None:
    """By halving, whatever rows are missing in between."""
    with tempfile.TemporaryDirectory(dir=in_memory()) as name:
        sqlite = SqliteDatabase(pathlib.Path(name))
        with contextlib.closing(SqliteLog(sqlite.path, Clock())) as log:
            log.begin(PATIENCE)
            log.prepare(lambda _: ())
            for number, row in enumerate(dates, 1):
                log.append(pack(1, number, row, ()))
            log.commit()
            with contextlib.closing(sqlite3.connect(sqlite.path, isolation_level=None)) as other:
                other.executemany("DELETE FROM policyd_batch WHERE number = ?", [(number,) for number in removed])
            log.begin(PATIENCE)
            last = log.last_before(date)
            log.commit()
        left = rows(sqlite)
    assert [found for _, found in left] == [row for number, row in enumerate(dates, 1) if number not in removed]
    assert [seq for seq, _ in left if seq > last] == [seq for seq, found in left if found >= date]


def test_dates_never_fall_from_row_to_row(sqlite: SqliteDatabase, clock: Clock) -> None:
    """Whatever the clock does, and whatever fails when it has stepped back."""
    daemon = Daemon(sqlite, clock)
    for step in (0, HOUR, 5 * HOUR, -7 * HOUR, 60, -30, 2 * HOUR):
        clock.now += step
        daemon.ask(demand("user:a", 1000))
        dates = [date for _, date in rows(sqlite)]
        assert dates == sorted(dates)
        assert dates[-1] <= clock.now + 1
    for point in range(1, 12):
        clock.now += 10 * HOUR
        daemon.ask(demand("user:a", 1000))
        clock.now -= 20 * HOUR
        daemon.store.close()
        with connections_with(Fault("IOERR", point)):
            daemon.ask(demand("user:a", 1000))
            daemon.wait()
        clock.now += 30
        daemon.ask(demand("user:a", 1000))
        daemon.wait()
        dates = [date for _, date in rows(sqlite)]
        assert dates == sorted(dates), point
        assert dates[-1] <= clock.now + 1
    daemon.close()


def test_rows_of_the_far_future_count_from_now(sqlite: SqliteDatabase, clock: Clock) -> None:
    """Left by a daemon whose clock was wrong: for one window from when they are first read, then no more."""
    wrong = Clock(START + 1000 * 24 * HOUR)
    store = sqlite.store(wrong)
    assert admitted(store, demand(cost=4)) == admitted(store, demand(cost=3)) == [True]
    store.close()
    for now, expected in ((0, 7), (HOUR - 1, 7), (HOUR, 7), (HOUR + 1, 0)):
        clock.now = START + now
        store = sqlite.store(clock)
        assert usage(store, ["user:a"]) == {"user:a": expected}
        store.close()
        assert {date for _, date in rows(sqlite)} == {SECOND}


# --- Locks


def test_recovery_by_another_daemon_is_waited_for(
    sqlite: SqliteDatabase, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill: it is a lock like any other, not an outage. So is one that was stopped in the middle."""
    store = sqlite.store(clock)
    admitted(store, demand())
    log = store._log
    assert isinstance(log, SqliteLog)
    real = log._execute
    refusals = iter([sqlite3.SQLITE_BUSY_RECOVERY, sqlite3.SQLITE_BUSY_SNAPSHOT, sqlite3.SQLITE_PROTOCOL])

    def execute(statement: str, parameters: tuple[object, ...] = ()) -> sqlite3.Cursor:
        if statement.startswith("BEGIN") and (code := next(refusals, None)):
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = code
            raise error
        return real(statement, parameters)

    monkeypatch.setattr(log, "_execute", execute)
    assert admitted(store, demand()) == [True]
    assert next(refusals, None) is None
    store.close()


def test_opening_waits_for_nobody(sqlite: SqliteDatabase, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose write lock is held is opened at once: only the transaction has to wait."""
    with contextlib.closing(sqlite.store(clock)) as store:
        store.clean(PATIENCE)
    for module in (files, sqlite_module):
        monkeypatch.setattr(module, "OPEN_PATIENCE", 6 * PATIENCE)
    with sqlite.outage():
        began = time.monotonic()
        SqliteLog(sqlite.path, clock).close()
        assert time.monotonic() - began < 6 * PATIENCE


# --- Tables of old versions


@pytest.mark.parametrize("version", MAKERS)
def test_old_counts_are_carried_over_once(sqlite: SqliteDatabase, clock: Clock, version: str) -> None:
    """Into the windows that they are in, by whichever of two daemons comes first, and never again."""
    now = int(START)
    mails = [("a", now - HOUR + 1, 1), ("a", now - HOUR, 1), ("a", now - HOUR - 1, 1), ("a", now - 1, 2)]
    mails += [("b", now + 1000 * HOUR, 3), ("c", now - 3 * HOUR, 1)]
    MAKERS[version](sqlite.path, mails)
    one, two = sqlite.store(clock), sqlite.store(clock)
    for store in (one, two):
        assert usage(store, ["user:a", "user:b", "user:c"]) == {"user:a": 4, "user:b": 3, "user:c": 0}
    clock.now += 0.75  # now
    assert usage(one, ["user:a"]) == {"user:a": 3}
    one.close()
    late = sqlite.store(clock)
    assert usage(late, ["user:a", "user:b"]) == usage(two, ["user:a", "user:b"]) == {"user:a": 3, "user:b": 3}
    clock.now = START + HOUR + 1
    assert usage(late, ["user:a", "user:b"]) == {"user:a": 0, "user:b": 0}
    late.close()
    two.close()


def test_odd_rows_of_old_versions(sqlite: SqliteDatabase, clock: Clock) -> None:
    """SQLite keeps anything in any column; what makes sense counts, the rest holds nobody up."""
    make_1_2_0(sqlite.path, [("a", int(START) - 1, 1)])
    with contextlib.closing(sqlite3.connect(sqlite.path)) as old, old:
        old.execute("DROP TABLE mail_count")
        old.execute("CREATE TABLE mail_count (id, date, recipient_count, instance, protocol_state)")
        date = int(START) - 10
        old.executemany(
            "INSERT INTO mail_count VALUES (?, ?, ?, '', '')",
            [
                *((12345, date, 2), ("12345", date, 1), ("a", date, None), ("a", str(date), 1), ("a", date + 0.5, 1)),
                *((None, date, 1), ("b", None, 1), ("b", "yesterday", 1), ("b", date, "many"), ("b", date, 0)),
                *((b"a\xff", date, 1), ("b", date, -5), ("d", date, 10**6), ("e", 2**62, 1)),
            ],
        )
    store = sqlite.store(clock)
    found = usage(store, ["user:12345", "user:a", "user:b", "user:d", "user:e"])
    assert found == {"user:12345": 3, "user:a": 3, "user:b": 0, "user:d": 30, "user:e": 1}
    clock.now += 3 * HOUR
    store.close()
    cleaner = sqlite.store(clock)
    assert cleaner.clean(PATIENCE) > 0
    cleaner.close()
