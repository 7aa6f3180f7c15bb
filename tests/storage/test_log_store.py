"""What the store makes of a table that is lost, or is another one, or fails in a way that nobody foresaw."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator
from unittest import mock

import pytest

from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.log.contract import LogError, LogReplaced
from policyd_rate_limit.storage.log.sqlite.log import SqliteLog
from policyd_rate_limit.storage.log.store import LogStore
from policyd_rate_limit.storage.record import Record
from storage.daemon import open_descriptors
from storage.logs import record as logged
from storage.stores import (
    HOUR,
    PATIENCE,
    START,
    Clock,
    SqliteDatabase,
    WaitingSqliteDatabase,
    admitted,
    demand,
    new_memory,
    usage,
)

USERS = [f"user:{number}" for number in range(20)]


@pytest.fixture(params=[SqliteDatabase, WaitingSqliteDatabase], ids=["preparing", "waiting"])
def database(request: pytest.FixtureRequest, sqlite: SqliteDatabase) -> SqliteDatabase:
    """Both ways in which a batch is decided."""
    made: SqliteDatabase = request.param(sqlite.home)
    return made


@pytest.fixture(params=[True, False], ids=["known record by record", "no longer known so"])
def recent(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the last records are kept, or none."""
    kept: bool = request.param
    if not kept:
        monkeypatch.setattr("policyd_rate_limit.storage.log.recent.RECENT_BYTES", 0)
    return kept


def copy_of(database: SqliteDatabase) -> bytes:
    """The whole file, as it is now."""
    with contextlib.closing(sqlite3.connect(database.path)) as connection:
        return connection.serialize()


def put_in_place(database: SqliteDatabase, content: bytes) -> None:
    """Another file with ``content`` takes the place of the database."""
    fresh = database.home / "fresh"
    fresh.write_bytes(content)
    fresh.rename(database.path)


def again(store: object, *keys: str) -> list[bool]:
    """Which of ``keys`` get another mail: at most ten each; the first try finds out what has happened."""
    assert isinstance(store, LogStore)
    try:
        return admitted(store, *(demand(key) for key in keys))
    except StoreUnavailable:
        return admitted(store, *(demand(key) for key in keys))


def used(database: SqliteDatabase, clock: Clock, *keys: str) -> list[int]:
    """What a daemon that starts now finds."""
    with contextlib.closing(database.store(clock)) as store:
        return list(usage(store, keys).values())


@pytest.mark.usefixtures("recent")
def test_an_older_copy_gets_what_it_lacks(database: SqliteDatabase, clock: Clock) -> None:
    """By whichever of two daemons notices first; both agree, and nothing counts twice."""
    one, two = database.store(clock), database.store(clock)
    for store in (one, two):
        assert all(admitted(store, *(demand(key) for key in USERS)))
    older = copy_of(database)
    for store in (one, two, one):
        assert all(again(store, *USERS))
    two.admit((), (), PATIENCE)  # so that it knows of all
    put_in_place(database, older)
    assert all(again(one, *USERS))
    assert all(again(two, *USERS))
    assert used(database, clock, *USERS) == [7] * 20
    assert set(usage(one, USERS).values()) == set(usage(two, USERS).values()) == {7}
    one.close()
    two.close()


@pytest.mark.usefixtures("recent")
def test_a_file_that_somebody_else_has_begun_gets_what_it_lacks(database: SqliteDatabase, clock: Clock) -> None:
    """A daemon that starts when the file has just been removed knows nothing; what it admits counts as well."""
    one = database.store(clock)
    for _ in range(5):
        assert all(admitted(one, *(demand(key) for key in USERS)))
    database.path.unlink()
    fresh = database.store(clock)
    assert all(admitted(fresh, *(demand(key) for key in USERS)))
    assert all(again(one, *USERS))
    assert used(database, clock, *USERS) == [7] * 20
    assert all(again(fresh, *USERS))
    assert set(usage(one, USERS).values()) == set(usage(fresh, USERS).values()) == {8}
    one.close()
    fresh.close()


def test_what_another_daemon_rebuilt_gets_what_that_did_not_know(database: SqliteDatabase, clock: Clock) -> None:
    """Two daemons, one of which has committed last, and the file is lost in place: nobody can read it any more."""
    one, two = database.store(clock), database.store(clock)
    assert all(admitted(one, *(demand(key) for key in USERS)))
    assert all(admitted(two, *(demand(key) for key in USERS)))  # which the first does not know
    with mock.patch.object(SqliteLog, "_readable_rows_after", return_value=[]):
        put_in_place(database, b"")
        assert all(again(one, *USERS))
        assert all(again(two, *USERS))
    assert used(database, clock, *USERS) == [4] * 20
    assert set(usage(one, USERS).values()) == {4}
    one.close()
    two.close()


def test_what_cannot_be_told_apart_does_not_count_twice(
    database: SqliteDatabase, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As before, but too much has been admitted meanwhile: a little may be forgotten then, which is said."""
    one, two = database.store(clock), database.store(clock)
    assert all(admitted(one, *(demand(key) for key in USERS)))
    monkeypatch.setattr("policyd_rate_limit.storage.log.recent.RECENT_BYTES", 0)
    assert all(admitted(two, *(demand(key) for key in USERS)))
    with mock.patch.object(SqliteLog, "_readable_rows_after", return_value=[]):
        put_in_place(database, b"")
        assert all(again(one, *USERS))
        assert all(again(two, *USERS))
    assert used(database, clock, *USERS) == [3] * 20
    assert "may have known less" in caplog.text
    one.close()
    two.close()


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, None], ids=["empty", "damaged", "a damaged copy"])
def test_memory_stays_until_something_has_been_read(
    database: SqliteDatabase, clock: Clock, content: bytes | None
) -> None:
    """What takes the place of the file is of no use: whoever is at the limit stays there."""
    store = database.store(clock)
    assert admitted(store, *[demand()] * 11) == [True] * 10 + [False]
    if content is None:
        for number in range(400):
            admitted(store, demand(f"user:{number}-{'x' * 300}"))
        whole = bytearray(copy_of(database))
        whole[len(whole) // 2 : len(whole) // 2 + 16_384] = bytes(16_384)
        content = bytes(whole)
    put_in_place(database, content)
    for _ in range(3):
        assert again(store, "user:a") == [False]
    assert used(database, clock, "user:a") == [10]
    store.close()


def test_a_reading_that_fails_is_no_reading(database: SqliteDatabase, clock: Clock) -> None:
    """A longer window is asked for, and the file is damaged: the shorter one holds, and what was known is written."""
    store = database.store(clock)
    assert admitted(store, *[demand()] * 11) == [True] * 10 + [False]
    store.need(2 * HOUR)
    with mock.patch.object(SqliteLog, "rows_after", side_effect=LogError("damaged")), pytest.raises(StoreUnavailable):
        admitted(store, demand())
    (known,) = store._memory.ledger.windows.usage("user:a", demand().charges[0].limits)
    assert known == 10
    assert again(store, "user:a") == [False]
    store.close()


def test_what_is_carried_over_from_an_old_version(sqlite: SqliteDatabase, clock: Clock) -> None:
    """What may still lie in a window, and is a mail: dates are seconds, and the old versions wrote the one before."""
    now = int(START) + 1
    mails = [("a", now - 2 * HOUR, 1), ("a", now - 2 * HOUR + 1, 2), ("a", now, 4), ("b", now, 0), ("c", now, -3)]
    with contextlib.closing(sqlite3.connect(sqlite.path)) as other, other:
        other.execute("CREATE TABLE mail_count (id varchar(40), date bigint, recipient_count int)")
        other.executemany("INSERT INTO mail_count VALUES (?, ?, ?)", mails)
    with contextlib.closing(sqlite.store(clock)) as store:
        assert usage(store, ["user:a", "user:b", "user:c"]) == {"user:a": 4, "user:b": 0, "user:c": 0}
    with contextlib.closing(sqlite3.connect(sqlite.path)) as reader:
        found = reader.execute("SELECT counter, amount, date FROM policyd_entry ORDER BY date").fetchall()
    assert found == [("user:a", 2, now - 2 * HOUR + 2), ("user:a", 4, now)]


def test_after_a_reload_memory_is_what_the_table_says(database: SqliteDatabase, clock: Clock) -> None:
    """What was decided without the database and is not kept does not count; what another daemon counts does."""
    memory = new_memory(clock)
    store, other = database.store(clock, memory=memory), database.store(clock)
    assert admitted(store, demand(cost=3)) == [True]
    assert admitted(other, demand(cost=2)) == [True]
    memory.decide([demand(cost=4), demand("user:b")])
    store.reload()
    assert usage(store, ["user:a", "user:b"]) == {"user:a": 5, "user:b": 0}
    store.close()
    other.close()


def test_who_is_judged_by_a_longer_window_is_so_by_what_memory_had_forgotten(
    database: SqliteDatabase, clock: Clock
) -> None:
    """Though others had such windows before, so that nothing older is to be read than was."""
    store = database.store(clock, longest=HOUR)
    for seconds in (0, 1, 100):
        clock.now += seconds
        assert admitted(store, demand(maximum=2, seconds=60)) == [True]
    store.look_back(HOUR)
    assert admitted(store, demand(maximum=3, seconds=HOUR)) == [False]
    assert usage(store, ["user:a"]) == {"user:a": 3}
    store.close()


def test_the_little_that_waited_is_stored_together(database: SqliteDatabase, clock: Clock) -> None:
    """A commit for each would take minutes after a night without the database."""
    store = database.store(clock)
    assert admitted(store) == []
    commits = []
    for waited in ((1,), (2, 3, 4)):
        with mock.patch.object(SqliteLog, "commit", autospec=True, side_effect=SqliteLog.commit) as commit:
            store.admit((), [logged(number) for number in waited], 1.0)
        commits.append(commit.call_count)
    assert commits[0] == commits[1]
    store.close()


def test_another_connection_waits_its_turn_and_brings_the_time(database: SqliteDatabase, clock: Clock) -> None:
    """What administrators delete is judged by the time of the database, and no daemon is in the middle of a batch."""
    with contextlib.closing(database.store(clock)) as store:
        assert admitted(store, demand()) == [True]
    memory = new_memory(clock)
    store = database.store(clock, memory=memory)
    with database.outage(), pytest.raises(LogError, match="locked"):
        store.connect(0.05)
    clock.now += 100
    store.connect(PATIENCE).close()
    assert memory.now == int(clock.now)
    store.close()


def test_cleaning_that_finds_no_turn_leaves_no_connection(database: SqliteDatabase, clock: Clock) -> None:
    """To a server they are few."""
    with contextlib.closing(database.store(clock)) as store:
        assert admitted(store, demand()) == [True]
    store = database.store(clock)
    before = open_descriptors()
    with database.outage(), pytest.raises(StoreUnavailable) as failure:
        store.clean(0.0)
    assert open_descriptors() == before
    assert failure.value.__cause__ is not None  # it holds what was open, unless that was closed
    store.close()


# --- What a probe finds


def test_what_a_probe_rescues_counts(database: SqliteDatabase, clock: Clock) -> None:
    """The thread that looks for the database meets the damage, and memory belongs to the other one."""
    store = database.store(clock)
    assert admitted(store, demand(), demand()) == [True, True]
    rescued = [(3, logged(1, int(START) + 1, ["user:a"] * 3, writer=99))]
    with (
        mock.patch.object(store, "_open_log", side_effect=LogError("damaged", rescued)),
        pytest.raises(LogError, match="damaged"),
    ):
        store.probe(PATIENCE)
    database.path.unlink()
    assert again(store, "user:a") == [True]
    assert used(database, clock, "user:a") == [6]
    store.close()


# --- A record in two spool files


@pytest.mark.parametrize("batches", [1, 2], ids=["known already", "new"])
def test_a_record_that_waits_twice_is_stored_once(database: SqliteDatabase, clock: Clock, batches: int) -> None:
    """Two spool files may hold it: it is one row."""
    waiting = [logged(number, int(START), ["user:a"], writer=99) for number in (1, 2)]
    store = database.store(clock)
    for _ in range(batches):
        store.admit((), [*waiting, *waiting], PATIENCE)
    with contextlib.closing(sqlite3.connect(database.path)) as reader:
        rows = reader.execute("SELECT number FROM policyd_batch WHERE writer = 99").fetchall()
    assert rows == [(1,), (2,)]
    assert usage(store, ["user:a"]) == {"user:a": 2}
    store.close()


# --- Errors that nobody foresaw


class Unforeseen(Exception):
    """An error of ours."""


def in_replay(store: LogStore) -> contextlib.AbstractContextManager[object]:
    """While what waits is stored."""
    return mock.patch.object(store._memory, "apply", side_effect=Unforeseen)


def in_reading(_store: LogStore) -> contextlib.AbstractContextManager[object]:
    """While the lock is taken."""
    return mock.patch.object(SqliteLog, "begin", side_effect=Unforeseen)


def in_following(_store: LogStore) -> contextlib.AbstractContextManager[object]:
    """After the lock was taken."""
    return mock.patch.object(SqliteLog, "rows_after", side_effect=Unforeseen)


def in_deciding(store: LogStore) -> contextlib.AbstractContextManager[object]:
    """After some of the batch has been counted in memory."""
    decide = store._memory.ledger.decide
    calls = iter([decide])

    def decides_once(*arguments: object) -> object:
        try:
            return next(calls)(*arguments)  # type: ignore[arg-type]
        except StopIteration:
            raise Unforeseen from None

    return mock.patch.object(store._memory.ledger, "decide", decides_once)


@pytest.mark.parametrize(
    ("fails", "waits"),
    [
        (in_replay, True),
        (in_reading, True),
        (in_reading, False),
        (in_following, True),
        (in_following, False),
        (in_deciding, True),
        (in_deciding, False),
    ],
)
def test_after_an_unforeseen_error_the_table_is_believed(
    sqlite: SqliteDatabase,
    clock: Clock,
    fails: Callable[[LogStore], contextlib.AbstractContextManager[object]],
    waits: bool,
) -> None:
    """The connection, and with it the lock, is given up; what memory counted and nobody was answered does not count."""
    waiting = [logged(1, int(START), ["user:b"], writer=99)] if waits else []
    memory = new_memory(clock)
    store = LogStore(
        lambda: SqliteLog(sqlite.path, clock), memory, longest=HOUR, counters_of_old_id=lambda old_id: (old_id,)
    )
    assert admitted(store, demand()) == [True]
    with fails(store), pytest.raises(Unforeseen):
        store.admit([demand()] * 3, waiting, PATIENCE)
    with contextlib.closing(sqlite.store(clock)) as other:
        assert admitted(other, demand()) == [True]  # nobody holds the lock
    store.admit((), waiting, PATIENCE)
    assert usage(store, ["user:a", "user:b"]) == {"user:a": 2, "user:b": int(waits)}
    assert used(sqlite, clock, "user:a", "user:b") == [2, int(waits)]
    store.close()


def test_a_fault_while_preparing_is_no_outage_of_what_was_decided(sqlite: SqliteDatabase, clock: Clock) -> None:
    """Without waiting, too: memory is not to be believed after it."""
    memory = new_memory(clock)
    store = LogStore(
        lambda: SqliteLog(sqlite.path, clock), memory, longest=HOUR, counters_of_old_id=lambda old_id: (old_id,)
    )
    assert admitted(store, demand()) == [True]
    with in_deciding(store), pytest.raises(Unforeseen):
        store.prepare([demand()] * 3, PATIENCE)
    assert store.prepare([demand()], PATIENCE) is None
    assert usage(store, ["user:a"]) == {"user:a": 1}
    store.close()


@contextlib.contextmanager
def lost_while_prepared(database: SqliteDatabase, store: LogStore, error: LogError) -> Iterator[None]:
    """The next batch meets ``error`` when it is prepared."""
    assert database.path.exists()
    log = store._log
    assert log is not None
    with mock.patch.object(log, "try_begin", side_effect=error):
        yield


def test_a_table_that_was_replaced_is_noticed_while_preparing(
    sqlite: SqliteDatabase, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, and the batch is decided by what is there now; another error is an outage."""
    store = sqlite.store(clock)
    assert admitted(store, demand()) == [True]
    with lost_while_prepared(sqlite, store, LogReplaced("replaced")):
        batch = store.prepare([demand()], PATIENCE)
    assert batch is not None
    assert [verdict.admitted for verdict in batch.finish()] == [True]
    assert [entry.levelno for entry in caplog.records] == [logging.WARNING]
    with lost_while_prepared(sqlite, store, LogError("gone")):
        batch = store.prepare([demand()], PATIENCE)
    assert batch is not None
    with pytest.raises(StoreUnavailable, match="gone"):
        batch.finish()
    assert again(store, "user:a") == [True]
    assert used(sqlite, clock, "user:a") == [3]
    store.close()


def test_rows_before_the_first_reading_are_rescued(sqlite: SqliteDatabase, clock: Clock) -> None:
    """A daemon that starts on a damaged file has no memory yet: the new file begins with what could be read."""
    rescued: list[tuple[int, Record]] = [(1, logged(1, int(START), ["user:a"] * 4, writer=99))]
    store = sqlite.store(clock)
    with (
        mock.patch.object(store, "_open_log", side_effect=LogError("damaged", rescued)),
        pytest.raises(StoreUnavailable, match="damaged"),
    ):
        admitted(store, demand())
    assert again(store, "user:a") == [True]
    assert used(sqlite, clock, "user:a") == [5]
    store.close()


def test_what_was_rescued_counts_once_whatever_is_lost_later(sqlite: SqliteDatabase, clock: Clock) -> None:
    """The next file begins with what is in memory, and all of that is in there."""
    rescued: list[tuple[int, Record]] = [(1, logged(1, int(START), ["user:a"] * 4, writer=99))]
    store = sqlite.store(clock)
    with (
        mock.patch.object(store, "_open_log", side_effect=LogError("damaged", rescued)),
        pytest.raises(StoreUnavailable, match="damaged"),
    ):
        admitted(store, demand())
    for lost in range(3):
        assert again(store, "user:a") == [True]
        assert used(sqlite, clock, "user:a") == [5 + lost]
        sqlite.path.unlink()
    store.close()
