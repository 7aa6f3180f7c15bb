"""What can happen to the file of an SQLite database, and what the store makes of it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sqlite3
import threading
from collections.abc import Callable, Iterator

import pytest

from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.administration import Hits
from storage.daemon import LIMIT, Daemon, ask, found
from storage.stores import HOUR, PATIENCE, START, Clock, SqliteDatabase, admitted, demand, usage
from support import outages
from support.work import statements_of_sqlite

KEYS = [f"user:{number}" for number in range(200)]
SECOND = int(START) + 1  # that a charge made at START is dated


def companions(sqlite: SqliteDatabase) -> list[pathlib.Path]:
    """What SQLite keeps beside the file."""
    return [path for end in ("-wal", "-shm") if (path := sqlite.path.with_name(sqlite.path.name + end)).exists()]


@contextlib.contextmanager
def raw(sqlite: SqliteDatabase) -> Iterator[sqlite3.Connection]:
    """The file as another program sees it."""
    with contextlib.closing(sqlite3.connect(sqlite.path, timeout=PATIENCE)) as connection, connection:
        yield connection


def test_hits_that_cannot_be_brought_in_leave_the_connection_as_it_is(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else has the lock for longer than hits are worth waiting for: of a disk that is slow, it is no more."""
    monkeypatch.setattr("policyd_rate_limit.storage.log.store.MAINTENANCE_PATIENCE", 0.01)
    sqlite = SqliteDatabase(tmp_path)
    statements = statements_of_sqlite(monkeypatch)
    store = sqlite.store(Clock())
    admitted(store, demand("user:a", 10))
    with raw(sqlite) as other:
        other.execute("BEGIN IMMEDIATE")
        statements.clear()
        with pytest.raises(StoreUnavailable, match="locked"):
            store.add_hits([Hits("user:a", 60, 1, int(START))])
    store.add_hits([Hits("user:a", 60, 2, int(START))])
    admitted(store, demand("user:a", 10))
    assert not [text for text in statements if text.startswith("PRAGMA")]  # which a new connection begins with
    with raw(sqlite) as other:
        assert other.execute("SELECT hits FROM policyd_hit").fetchall() == [(2,)]
    store.close()


# --- The file is removed or replaced


def removed(sqlite: SqliteDatabase, _clock: Clock) -> None:
    """The file is removed, what is beside it stays."""
    sqlite.path.unlink()


def removed_with_all(sqlite: SqliteDatabase, _clock: Clock) -> None:
    """The file is removed, and what is beside it."""
    outages.delete(sqlite.path)


def removed_with_directory(sqlite: SqliteDatabase, _clock: Clock) -> None:
    """Not even the directory is left."""
    outages.delete_directory(sqlite.path)


def empty(sqlite: SqliteDatabase, _clock: Clock) -> None:
    """An empty file takes its place."""
    fresh = sqlite.path.with_name("fresh")
    fresh.touch()
    fresh.rename(sqlite.path)


def of_another_program(sqlite: SqliteDatabase, _clock: Clock) -> None:
    """The database of another program takes its place."""
    fresh = sqlite.path.with_name("fresh")
    with contextlib.closing(sqlite3.connect(fresh)) as other, other:
        other.execute("CREATE TABLE other (a)")
        other.executemany("INSERT INTO other VALUES (?)", [(number,) for number in range(10_000)])
    fresh.rename(sqlite.path)


def damaged(sqlite: SqliteDatabase, _clock: Clock) -> None:
    """Garbage is written all over the file."""
    outages.corrupt(sqlite.path)


def damaged_header(sqlite: SqliteDatabase, _clock: Clock) -> None:
    """The first page is garbage."""
    with sqlite.path.open("r+b") as file:
        file.write(os.urandom(4096))


def cut(sqlite: SqliteDatabase, _clock: Clock) -> None:
    """The file ends in its first page."""
    outages.truncate(sqlite.path)


def emptied(sqlite: SqliteDatabase, _clock: Clock) -> None:
    """The file is cut to nothing."""
    os.truncate(sqlite.path, 0)


Harm = Callable[[SqliteDatabase, Clock], None]
HARM: tuple[Harm, ...] = (
    removed,
    removed_with_all,
    removed_with_directory,
    empty,
    of_another_program,
    damaged,
    damaged_header,
    cut,
    emptied,
)


@pytest.mark.parametrize("waiting", [False, True], ids=["nothing waits", "records wait"])
@pytest.mark.parametrize("checkpointed", [False, True], ids=["all in the write-ahead log", "all in the file"])
@pytest.mark.parametrize("harm", HARM)
def test_a_running_daemon_rebuilds_the_file(
    sqlite: SqliteDatabase, clock: Clock, harm: Harm, checkpointed: bool, waiting: bool
) -> None:
    """Its memory has every count, those of other daemons too, and the next daemon finds them."""
    other = sqlite.store(clock)
    assert all(admitted(other, *(demand(key, LIMIT) for key in KEYS)))
    daemon = Daemon(sqlite, clock)
    assert ask(daemon, "user:0", 3) == 3
    other.close()
    if checkpointed:
        with raw(sqlite) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if waiting:
        with sqlite.outage():
            assert ask(daemon, "user:1", 2) == 2
    harm(sqlite, clock)
    assert ask(daemon, "user:0", 2) == 2
    daemon.wait()
    daemon.wait()
    assert ask(daemon, "user:0", LIMIT) == LIMIT - 6
    assert ask(daemon, "user:2", LIMIT) == LIMIT - 1
    assert found(sqlite, clock, "user:0", "user:1", "user:2", "user:3") == [10, 3 if waiting else 1, 10, 1]
    daemon.close()
    assert found(sqlite, clock, "user:0", "user:1", "user:2", "user:3") == [10, 3 if waiting else 1, 10, 1]


@pytest.mark.parametrize(
    "harm", [removed, removed_with_all, removed_with_directory, empty, of_another_program, emptied]
)
def test_two_daemons_agree_on_the_file_that_is_rebuilt(sqlite: SqliteDatabase, clock: Clock, harm: Harm) -> None:
    """Whoever notices first makes it, and what the other has admitted before is in it."""
    one, two = Daemon(sqlite, clock), Daemon(sqlite, clock)
    assert [ask(one, "user:a", 2), ask(two, "user:a", 3), ask(one, "user:b", 1), ask(two, "user:b", 1)] == [2, 3, 1, 1]
    harm(sqlite, clock)
    admitted_after = 0
    for _ in range(LIMIT):
        admitted_after += ask(one, "user:a", 1) + ask(two, "user:a", 1)
        one.wait()
        two.wait()
    assert admitted_after == LIMIT - 5
    assert found(sqlite, clock, "user:a", "user:b") == [LIMIT, 2]
    one.close()
    two.close()
    assert found(sqlite, clock, "user:a", "user:b") == [LIMIT, 2]
    if harm is of_another_program:
        with raw(sqlite) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("SELECT count(*), sum(a) FROM other").fetchall() == [(10_000, 49_995_000)]


class Interrupted(Clock):
    """A clock that lets something happen when it is looked at next: a store does so under the lock."""

    def __init__(self) -> None:
        super().__init__()
        self.then: Callable[[], object] | None = None

    def __call__(self) -> float:
        then, self.then = self.then, None
        if then is not None:
            then()
        return self.now


@pytest.mark.parametrize("harm", [removed, removed_with_all, empty, of_another_program])
def test_what_is_committed_to_a_file_that_was_just_removed_counts(
    sqlite: SqliteDatabase, clock: Clock, harm: Harm
) -> None:
    """One daemon holds the lock of the file, the other notices that it is gone: the first one's mail is not lost."""
    interrupted = Interrupted()
    one, two = Daemon(sqlite, clock, patience=PATIENCE), Daemon(sqlite, interrupted, patience=PATIENCE)
    assert ask(one, "user:a", 1) == ask(two, "user:a", 1) == 1
    other_thread = threading.Thread(target=ask, args=(one, "user:b", 1))

    def in_between() -> None:
        harm(sqlite, clock)
        other_thread.start()

    interrupted.then = in_between
    assert ask(two, "user:a", 1) == 1
    other_thread.join()
    assert [ask(one, "user:a", 1), ask(two, "user:a", 1)] == [1, 1]
    assert found(sqlite, clock, "user:a", "user:b") == [5, 1]
    one.close()
    two.close()


# --- The file is damaged when the daemon starts


@pytest.mark.parametrize("harm", [damaged, damaged_header, cut])
def test_a_daemon_starts_on_a_damaged_file(
    sqlite: SqliteDatabase, clock: Clock, harm: Harm, caplog: pytest.LogCaptureFixture
) -> None:
    """It renames it, says so once, and goes on with a new one."""
    with contextlib.closing(sqlite.store(clock)) as other:
        admitted(other, *(demand(key, LIMIT) for key in KEYS))
    harm(sqlite, clock)
    before = sqlite.path.read_bytes()
    daemon = Daemon(sqlite, clock)
    assert ask(daemon, "user:0", 4) == 4
    daemon.wait()
    assert ask(daemon, "user:0", LIMIT) == LIMIT - 4
    daemon.close()
    assert found(sqlite, clock, "user:0") == [LIMIT]
    aside = [path for path in sqlite.home.iterdir() if "damaged" in path.name]
    assert [path.read_bytes() for path in aside] == [before]
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert str(aside[0]) in caplog.text


def damaged_middle(sqlite: SqliteDatabase, page: int) -> None:
    """One page of the table is garbage."""
    with sqlite.path.open("r+b") as file:
        file.seek(4096 * page)
        file.write(os.urandom(4096))


def test_what_can_be_read_of_a_damaged_file_goes_on_counting(sqlite: SqliteDatabase, clock: Clock) -> None:
    """One page in the middle is lost: the counts before and behind it are not."""
    with contextlib.closing(sqlite.store(clock)) as other:
        admitted(other)
    empty = sqlite.path.stat().st_size // 4096
    with contextlib.closing(sqlite.store(clock)) as other:
        for key in KEYS:
            admitted(other, demand(key + "-" + "x" * 500, LIMIT))
    pages = sqlite.path.stat().st_size // 4096
    assert pages > empty + 10
    damaged_middle(sqlite, (empty + pages) // 2)
    daemon = Daemon(sqlite, clock)
    daemon.ask()
    daemon.wait()
    store = sqlite.store(clock)
    counts = usage(store, [key + "-" + "x" * 500 for key in KEYS], most=2)
    store.close()
    daemon.close()
    assert list(counts.values())[:50] == list(counts.values())[-50:] == [1] * 50
    assert sum(counts.values()) >= len(KEYS) - 20


# --- Rows that nobody understands

NOT_UNDERSTOOD: dict[str, object] = {
    "no JSON": "[[",
    "not a list": "7",
    "too few": '[["user:a"]]',
    "an object": '[{"a": 1}]',
    "no text": '[["user:a", "many", 0, "", ""]]',
    "no key": '[[["user:a"], 1, 0, "", ""]]',
    "a fraction": '[["user:a", 1.5, 0, "", ""]]',
    "a fraction of a second": '[["user:a", 1, 1.5, "", ""]]',
    "more than a number holds": f'[["user:a", {10**30}, 0, "", ""]]',
    "longer ago than a number holds": f'[["user:a", 1, {-(10**30)}, "", ""]]',
    "nothing": "",
    "bytes": b"\x00\xff",
    "endless": "[" * 100_000,
    "infinite": '[["user:a", Infinity, 0, "", ""]]',
}


@pytest.mark.parametrize("entries", NOT_UNDERSTOOD.values(), ids=NOT_UNDERSTOOD)
@pytest.mark.parametrize("loaded", [True, False], ids=["while it runs", "when it starts"])
def test_a_row_that_is_not_understood_does_not_count(
    sqlite: SqliteDatabase, clock: Clock, entries: object, loaded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It is named in the log, once, and everything else goes on."""
    daemon = Daemon(sqlite, clock)
    assert ask(daemon, "user:a", 2) == 2
    if not loaded:
        daemon.close()
    with raw(sqlite) as connection:
        connection.execute(
            "INSERT INTO policyd_batch (date, writer, number, size, entries) VALUES (?, 5, 1, 1, ?)", (SECOND, entries)
        )
    if not loaded:
        daemon = Daemon(sqlite, clock)
    assert ask(daemon, "user:a", 1) == 1
    assert ask(daemon, "user:a", LIMIT) == LIMIT - 3
    daemon.wait()
    daemon.close()
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "row 3 of policyd_batch cannot be understood and does not count"
    ]
    store = sqlite.store(clock, longest=1)
    clock.now += 5 * HOUR  # by then nobody says any more that a window of an hour is in use
    assert store.clean(PATIENCE) == LIMIT + 1
    store.close()


def test_a_row_with_a_damaged_key_counts_for_the_others(sqlite: SqliteDatabase, clock: Clock) -> None:
    """A byte that is not UTF-8 makes a key that nobody has, nothing worse."""
    with contextlib.closing(sqlite.store(clock)) as store:
        admitted(store, demand("user:a", LIMIT), demand("user:b", LIMIT))
    with raw(sqlite) as connection:
        connection.execute(
            "UPDATE policyd_batch SET entries = CAST(replace(CAST(entries AS BLOB), 'user:a', x'757365723aff') AS TEXT)"
        )
        assert b"user:\xff" in connection.execute("SELECT CAST(entries AS BLOB) FROM policyd_batch").fetchone()[0]
    assert found(sqlite, clock, "user:a", "user:b") == [0, 1]


@pytest.mark.parametrize("column", ["date", "writer", "number", "size"])
def test_a_row_with_text_for_a_number_holds_nobody_up(sqlite: SqliteDatabase, clock: Clock, column: str) -> None:
    """SQLite would keep it, and damage may make it."""
    with contextlib.closing(sqlite.store(clock)) as store:
        assert admitted(store, *(demand("user:a", LIMIT),) * 3) == [True] * 3
        admitted(store, demand("user:a", LIMIT))
    with raw(sqlite) as connection:
        connection.execute(f"UPDATE policyd_batch SET {column} = 'x' WHERE seq = 1")
    assert found(sqlite, clock, "user:a")[0] >= 1
    with contextlib.closing(sqlite.store(clock)) as store:
        clock.now += 3 * HOUR
        assert store.clean(PATIENCE) == (1 if column == "size" else 4)


def test_a_damaged_file_with_a_row_that_is_not_understood(sqlite: SqliteDatabase, clock: Clock) -> None:
    """What can be read is taken over without it."""
    with contextlib.closing(sqlite.store(clock)) as other:
        for key in KEYS:
            admitted(other, demand(key + "-" + "x" * 500, LIMIT))
    with raw(sqlite) as connection:
        connection.execute("UPDATE policyd_batch SET entries = '[[' WHERE seq IN (1, 200)")
    damaged_middle(sqlite, sqlite.path.stat().st_size // 8192)
    daemon = Daemon(sqlite, clock)
    daemon.ask()
    daemon.wait()
    assert usage(daemon.store, [KEYS[1] + "-" + "x" * 500]) == {KEYS[1] + "-" + "x" * 500: 1}
    daemon.close()


# --- What an administrator may do


def test_the_view_shows_what_counts(sqlite: SqliteDatabase, clock: Clock) -> None:
    """`policyd_entry` agrees with the daemon, give-backs and replayed records included."""
    daemon = Daemon(sqlite, clock)
    daemon.ask(demand("user:a"), demand("user:b", cost=3))
    daemon.ask(*(demand("user:c", mail="m", part=part) for part in "xyz"))
    clock.now += 7
    daemon.ask(demand("user:c", mail="m", settles=True, cost=2))
    with sqlite.outage():
        clock.now += 60
        daemon.ask(demand("user:a"))
        clock.now += 60
    daemon.wait()
    assert sqlite.usage(clock.now) == {"user:a": 2, "user:b": 3, "user:c": 2}
    clock.now = START + HOUR + 1
    assert sqlite.usage(clock.now) == {"user:a": 1}
    assert usage(daemon.store, ["user:a", "user:b", "user:c"]) == {"user:a": 1, "user:b": 0, "user:c": 0}
    daemon.close()


@pytest.mark.parametrize("away", [False, True], ids=["while they run", "while they are away"])
def test_rows_that_are_deleted_no_longer_count(sqlite: SqliteDatabase, clock: Clock, away: bool) -> None:
    """For none of the daemons, and from then on the limit is exact again over all of them."""
    one, two = Daemon(sqlite, clock), Daemon(sqlite, clock)
    for daemon in (one, two, one, two):
        assert ask(daemon, "user:a", 2) == 2
    with sqlite.outage() if away else contextlib.nullcontext():
        assert ask(one, "user:b", 1) == ask(two, "user:c", 1) == 1
    with raw(sqlite) as connection:
        connection.execute("DELETE FROM policyd_batch")
    one.wait()
    two.wait()
    assert sum(ask(daemon, "user:a", 1) for daemon in (one, two) * LIMIT) == LIMIT
    assert found(sqlite, clock, "user:a", "user:b", "user:c") == [LIMIT, *[1 if away else 0] * 2]
    one.close()
    two.close()


def test_a_backup_that_is_copied_over_the_file(sqlite: SqliteDatabase, clock: Clock) -> None:
    """As it should not be done while daemons run: whatever that makes of it, they agree on it in the end."""
    one, two = Daemon(sqlite, clock), Daemon(sqlite, clock)
    assert ask(one, "user:a", 2) == ask(two, "user:b", 2) == 2
    backup = sqlite.home / "backup"
    with contextlib.closing(sqlite3.connect(backup)) as copy, raw(sqlite) as connection:
        connection.backup(copy)
    for daemon in (one, two) * 3:
        assert ask(daemon, "user:b", 1) == 1
    sqlite.path.write_bytes(backup.read_bytes())
    for daemon in (one, two) * 2:
        daemon.wait()
    assert ask(one, "user:c", 1) == ask(two, "user:c", 1) == 1
    assert sum(ask(daemon, "user:a", 1) for daemon in (one, two) * LIMIT) == LIMIT - 2
    counts = found(sqlite, clock, "user:a", "user:b", "user:c")
    assert counts in ([LIMIT, 2, 2], [LIMIT, 8, 2])
    one.close()
    two.close()
    assert found(sqlite, clock, "user:a", "user:b", "user:c") == counts


def test_the_table_is_made_again_after_drop_table(sqlite: SqliteDatabase, clock: Clock) -> None:
    """The view is still there then."""
    daemon = Daemon(sqlite, clock)
    assert ask(daemon, "user:a", 3) == 3
    with raw(sqlite) as connection:
        connection.execute("DROP TABLE policyd_batch")
    assert ask(daemon, "user:a", 3) == 3
    daemon.wait()
    assert ask(daemon, "user:a", LIMIT) == LIMIT - 6
    daemon.close()
    assert found(sqlite, clock, "user:a") == [LIMIT]
    assert sqlite.usage(clock.now) == {"user:a": LIMIT}


@pytest.mark.needs_root
def test_a_directory_that_may_not_be_searched(sqlite: SqliteDatabase, clock: Clock) -> None:
    """Permission denied is one more way of being away."""
    daemon = Daemon(sqlite, clock, journal_directory=sqlite.home.parent)
    assert ask(daemon, "user:a", 3) == 3
    sqlite.home.chmod(0o700)
    os.seteuid(65534)
    try:
        assert ask(daemon, "user:a", 3) == 3
        daemon.wait()
        assert ask(daemon, "user:a", LIMIT) == LIMIT - 6
        daemon.wait()
    finally:
        os.seteuid(0)
    daemon.wait()
    assert found(sqlite, clock, "user:a") == [LIMIT]
    daemon.close()
