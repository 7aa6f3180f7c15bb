"""The batch table in an SQLite file, shared by all daemons of one machine.

``BEGIN IMMEDIATE``, the file's write lock, is the lock that they share. ``synchronous=FULL`` puts every commit on disk
before it returns. Checkpoints run in a thread of their own, over a connection of their own: on the way of a batch, one
would hold up all the answers of that batch.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import random
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policyd_rate_limit.storage.log.contract import (
    ROWS_AT_ONCE,
    LogError,
    LogOccupied,
    LogReplaced,
    RecordRefused,
    named,
    on_conflict,
)
from policyd_rate_limit.storage.log.sqlite.checkpoint import Checkpointer
from policyd_rate_limit.storage.log.sqlite.examiner import Examiner, signature
from policyd_rate_limit.storage.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from policyd_rate_limit.storage.log.contract import OldCounts, Parameter, Statement

ROWS_PER_CLEAN = 500
UNSEEN = 1_000_000  # rows, that no daemon may be ahead of another one
PAGES_PER_VACUUM = 100
STEP_OF_CLEAN = 0.002  # seconds of deleting after which a transaction of --clean ends
PAUSE_OF_CLEAN = 0.002  # seconds between two transactions of --clean, for the daemons that wait for the lock
STEPS_PER_CHECKPOINT = 8  # of --clean, some megabytes of log
CHECKPOINT_PATIENCE = 50  # milliseconds that a checkpoint of --clean waits for the daemons
OPEN_PATIENCE = 1.0  # seconds to wait for others, at the least, while the file is made, opened or renamed
BACKSTOP_CHECKPOINT_PAGES = 16_384  # 64 MiB of log, should the checkpoints in the background not come
WAL_BYTES_KEPT = 16 << 20
_LOCK_RETRY = (0.0002, 0.001)  # seconds, at random between: SQLite's own back-off goes up to 100 ms
_MOST_HASTE = 0.9  # by so much less sleeps who has waited for long, to be there before those who have just come
# While others make progress the file is not away: so many times the patience may be waited for a turn, and no longer.
TURNS = 10
LONGEST_QUEUE = 20.0  # seconds beyond the patience
# Seconds: what takes longer between two looks at the lock is this process, which did not run, and not the file.
LONGEST_LOOK = 0.1
# Another connection is at work; PROTOCOL: it was stopped in the middle of the few bytes that all look at.
_OCCUPIED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL})
# What no waiting mends.
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
# What is about what was to be written: constraints, triggers, the size of a row.
_REFUSALS = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH})
LONGEST_ROW = 1 << 28  # characters: a quarter of what SQLite takes

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS policyd_batch (
    seq INTEGER PRIMARY KEY,  -- the order of the batches
    date INTEGER NOT NULL,    -- Unix second
    writer INTEGER NOT NULL,  -- the run of a daemon that decided the batch
    number INTEGER NOT NULL,  -- grows with each batch of a writer
    size INTEGER NOT NULL,    -- how many entries
    entries TEXT NOT NULL     -- JSON: [[counter, amount, date (0: that of the row), mail, part], ...]
)""",
    """CREATE VIEW IF NOT EXISTS policyd_entry AS
SELECT json_extract(value, '$[0]') AS counter,
       json_extract(value, '$[1]') AS amount,
       coalesce(nullif(json_extract(value, '$[2]'), 0), batch.date) AS date
  FROM policyd_batch AS batch, json_each(batch.entries)""",
    """CREATE TABLE IF NOT EXISTS policyd_override (
    id TEXT PRIMARY KEY,      -- a digest of the counter
    counter TEXT NOT NULL,    -- JSON
    limits TEXT NOT NULL,     -- JSON: [[mails, seconds], ...]
    expires INTEGER NOT NULL, -- Unix second
    note TEXT NOT NULL,       -- JSON
    stamp INTEGER NOT NULL    -- random, new with each change
)""",
    """CREATE TABLE IF NOT EXISTS policyd_hit (
    id TEXT,                  -- a digest of the counter
    seconds INTEGER,          -- the window
    counter TEXT NOT NULL,    -- JSON
    hits INTEGER NOT NULL,
    last INTEGER NOT NULL,    -- Unix second
    PRIMARY KEY (id, seconds)
)""",
    """CREATE TABLE IF NOT EXISTS policyd_window (
    id TEXT PRIMARY KEY,      -- a run of a daemon, at random
    seconds INTEGER NOT NULL, -- the longest window that it judges by
    expires INTEGER NOT NULL  -- Unix second
)""",
    """CREATE TABLE IF NOT EXISTS policyd_installation (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    identity TEXT NOT NULL    -- random, made once; stays when the file is copied or made anew
)""",
)

# A damaged row may hold values of any type, or none.
_SELECT = (
    "SELECT seq, coalesce(CAST(writer AS INTEGER), 0), coalesce(CAST(number AS INTEGER), 0),"
    " coalesce(CAST(date AS INTEGER), 0), coalesce(CAST(size AS INTEGER), 0), coalesce(CAST(entries AS TEXT), '')"
    " FROM policyd_batch"
)

# The columns of SQLite hold values of any type, whatever they were declared as.
_OLD_COUNTS = (
    "SELECT CAST(id AS TEXT), CAST(date AS INTEGER), sum(CAST({recipients} AS INTEGER)) FROM mail_count"
    " WHERE id IS NOT NULL AND date IS NOT NULL GROUP BY id, date ORDER BY date"
)

Row = tuple[int, Record]  # seq, record


class SqliteLog:
    """The batch table in an open file: a :class:`policyd_rate_limit.storage.log.contract.Log`, whose methods are
    described there. ``clock``: Unix seconds.

    ``patience``: seconds that opening may wait for another daemon, which makes the file, recovers or closes it;
    :data:`OPEN_PATIENCE` at the least.

    :raises LogError: the file cannot be opened. A damaged one is renamed, here and wherever else damage shows.
    """

    def __init__(self, path: Path, clock: Callable[[], float], patience: float = 0.0) -> None:
        self._path = path
        self._clock = clock
        self._open_patience = max(patience, OPEN_PATIENCE)
        self._known = 0  # the seq behind which the store has asked for rows: those before it need no rescue
        self._appended = 0  # bytes, in the transaction
        self._newest_now: int | None = None  # seq of the last row, where the transaction has looked for it
        self._errors = _Errors(self)
        self._examiner = Examiner(path)
        self._checkpointer = Checkpointer(path, self._examiner)
        self._log_bytes = 0  # of the write-ahead log, when it was last looked at
        self._connection: sqlite3.Connection | None = None
        self._inode = _inode(path)  # of the file, empty or not
        self.identity = identity(path)
        try:
            with self._errors:
                self._open()
                self.identity = identity(path)
                self._examiner.explain()
        except BaseException:
            self.close()
            raise

    @property
    def longest_row(self) -> int:
        return LONGEST_ROW

    def begin(self, patience: float) -> float:
        try:
            return self._begin(patience)
        except LogOccupied as error:
            # A new connection is free of whatever this one may still read, which would be in its way for ever.
            raise LogError(str(error)) from error

    def wait(self, patience: float) -> None:
        with self._errors:
            self._lock(patience)
            self._execute("ROLLBACK")

    def try_begin(self, seq: int) -> float | None:
        with self._errors:
            if not self._try_lock():
                return None
            self._newest_now = self._newest()
            if self._newest_now > seq + ROWS_AT_ONCE:
                self._execute("ROLLBACK")
                return None
        return self._begun()

    def prepare(self, carry_over: Callable[[OldCounts], Iterable[Record]]) -> bool:
        with self._errors:
            made = not self.has_table("policyd_batch")
            for statement in _SCHEMA:
                self._execute(statement)
            if not made:
                return False
            for record in carry_over(self._old_counts()):
                self.append(record)
            return True

    def installation(self, proposed: str) -> str:
        with self._errors:
            found = self._execute("SELECT CAST(identity AS TEXT) FROM policyd_installation").fetchone()
            if found is None:
                self._execute("INSERT INTO policyd_installation VALUES (1, ?)", (proposed,))
            return str(found[0]) if found else proposed

    def rows_after(self, seq: int) -> Generator[Row, None, None]:
        self._known = seq
        with self._errors:
            newest, self._newest_now = self._newest_now, None
            if newest is None:
                newest = self._newest()
            if newest < seq:
                raise LogReplaced(f"SQLite database {self._path} has lost rows")
            if newest > seq:
                rows = self._rows("WHERE seq >= ? ORDER BY seq", seq)
                if seq and next(rows)[0] != seq:  # nobody deletes the newest row
                    raise LogReplaced(f"SQLite database {self._path} has lost rows")
                yield from rows

    def append(self, record: Record) -> int:
        with self._errors:
            cursor = self._execute(
                "INSERT INTO policyd_batch (date, writer, number, size, entries) VALUES (?, ?, ?, ?, ?)",
                (record.date, record.writer, record.number, record.size, record.entries),
            )
        self._appended += len(record.entries)
        return cursor.lastrowid or 0

    def empty(self) -> None:
        with self._errors:
            newest = max(self._newest(), self._known)
            self._execute("DELETE FROM policyd_batch")
            # A row for the next one to come behind, further than any daemon has read or written.
            self._execute("INSERT INTO policyd_batch VALUES (?, 0, 0, 0, 0, '[]')", (newest + UNSEEN,))

    def redate(self, date: int) -> None:
        with self._errors:
            self._execute("UPDATE policyd_batch SET date = ? WHERE date > ?", (date, date))

    def last_before(self, date: int) -> int:
        with self._errors:
            low, high = before_all, _ = self._execute(
                "SELECT coalesce(min(seq), 1) - 1, coalesce(max(seq), 0) FROM policyd_batch"
            ).fetchone()
            while low < high:
                middle = (low + high + 1) // 2
                seq, found = self._execute(
                    "SELECT seq, CAST(date AS INTEGER) FROM policyd_batch WHERE seq >= ? ORDER BY seq LIMIT 1",
                    (middle,),
                ).fetchone()
                if found < date:
                    low = seq
                else:
                    high = middle - 1
            return int(low) if low > before_all else 0

    def commit(self) -> None:
        with self._errors:
            self._execute("COMMIT")
        if self._appended:
            self._checkpointer.written(self._appended)
            self._appended = 0

    def clean(self, before: int, patience: float) -> int:
        with self._errors:
            newest = self._newest()
            last = min(self.last_before(before), newest - 1)
            deleted = self._in_steps(lambda: self._delete_until(last), patience)
            deleted += self._empty(newest, before, patience)
            if self.has_table("mail_count"):
                # Left in place for whoever goes back to the old versions.
                deleted += self._in_steps(lambda: self._delete_old(before), patience)
            return deleted

    def compact(self, patience: float) -> None:
        with self._errors:
            (incremental,) = self._execute("PRAGMA auto_vacuum").fetchone()
            if not incremental:
                # A file of an older version: this one long step makes the small ones possible.
                self._execute(f"PRAGMA busy_timeout={int(patience * 1000)}")
                self._execute("PRAGMA auto_vacuum=INCREMENTAL").fetchall()
                self._execute("VACUUM")
                self._execute("PRAGMA busy_timeout=0")
            self._in_steps(self._give_back, patience)

    def time(self) -> float:
        if self._connection is None or identity(self._path) != self.identity:
            raise LogReplaced(f"SQLite database {self._path} was removed or replaced")
        return self._clock()

    def has_table(self, name: str) -> bool:
        with self._errors:
            found = self._execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (name,))
            return found.fetchone() is not None

    def read(self, text: str, *parameters: Parameter) -> Sequence[Sequence[Any]]:
        with self._errors:
            return self._execute(_sqlite(text), parameters).fetchall()

    def write(self, statements: Sequence[Statement], patience: float) -> None:
        self._begin(patience)
        with self._errors:
            for text, parameters in statements:
                self._execute(_sqlite(text), parameters)
        self.commit()

    def on_conflict(self, key: str, assignments: Mapping[str, str]) -> str:
        return on_conflict(key, assignments)

    def maintain(self) -> None:
        if self._checkpointer.has_ended():
            # What was appended meanwhile is little; with it in the file as well, the write-ahead log starts over.
            with self._errors:
                self._examiner.suspect()
                self._execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                self._examiner.explain()
        self._examiner.look(self._known)
        if self._connection is not None and _inode(companions(self._path)[1]) != self._companions[1]:
            raise self._without_companions()

    def close(self) -> None:
        self._checkpointer.stop()
        self._examiner.stop()
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                # A cursor that somebody still refers to would keep the connection open, and with it the lock.
                self._connection.rollback()
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def lost(self, error: sqlite3.Error) -> LogError:
        """What ``error`` means to the store; a damaged file is renamed, after reading what can be read."""
        if _primary_code(error) in _DAMAGE:
            return self._damaged(str(error))
        message = f"SQLite database {self._path}: {error}"
        return RecordRefused(message) if _primary_code(error) in _REFUSALS else LogError(message)

    def _damaged(self, what: str) -> LogError:
        """Rename the file, after reading what can be read; the error that says so."""
        message = f"SQLite database {self._path}: {what}"
        rescued = self._rescue()
        self.close()
        try:
            aside = set_aside(self._path, self._inode, int(self._clock()))
        except OSError as failure:
            return LogError(f"{message}; it cannot be renamed: {failure}", rescued)
        return LogError(f"{message}; renamed to {aside}, a new file takes its place" if aside else message, rescued)

    def _rescue(self) -> list[Row]:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.rollback()  # rows that were never committed are nothing to rescue
        return self._readable_rows_after(self._known)

    def _begin(self, patience: float) -> float:
        self._newest_now = None
        try:
            with self._errors:
                self._lock(patience)
        except LogError as error:
            if identity(self._path) == self.identity:
                raise
            raise LogReplaced(str(error), error.rescued or self._readable_rows_after(self._known)) from error
        return self._begun()

    def _begun(self) -> float:
        # Under the lock, so that nobody adds anything more to a file that is being left.
        found = _stat(self._path)
        if found is None or (found.st_dev, found.st_ino) != self._inode:
            rescued = self._readable_rows_after(self._known)
            self._remove_companions()
            raise LogReplaced(f"SQLite database {self._path} was removed or replaced", rescued)
        if not found.st_size:
            raise self._damaged("it was truncated")
        self._check_log()
        if self._examiner.damage:
            raise self._damaged(self._examiner.damage)
        if self._examiner.has_lost_rows:
            raise LogReplaced(f"SQLite database {self._path} has lost rows")
        return self._clock()

    def _check_log(self) -> None:
        """See that what was committed last is where the next start looks for it."""
        log = _stat(companions(self._path)[0])
        if (None if log is None else (log.st_dev, log.st_ino)) != self._companions[0]:
            raise self._without_companions()
        size = 0 if log is None else log.st_size
        if size < min(self._log_bytes, WAL_BYTES_KEPT):
            # All of it is in the file, or somebody has cut it.
            self._examiner.glance(self._known)
        self._log_bytes = size

    def _without_companions(self) -> LogReplaced:
        """Others would no longer find what is in the write-ahead log, or not know its state."""
        rescued = self._rescue()
        with contextlib.suppress(sqlite3.Error):
            # We have it open still: into the file with all that is in it.
            self._execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return LogReplaced(f"what lies beside SQLite database {self._path} was removed or replaced", rescued)

    def _lock(self, patience: float) -> None:
        """Begin a transaction; ``patience`` is for a file of which nobody gets anything.

        :raises LogOccupied: it is over.
        """
        turn = _Turn(companions(self._path)[0], patience)
        is_last = turn.is_over()
        while not self._try_lock():
            if is_last:
                raise LogOccupied(f"SQLite database {self._path}: database is locked")
            turn.rest()
            is_last = turn.is_over()

    def _try_lock(self) -> bool:
        """Begin a transaction, unless another one has the lock."""
        return self._try_to("BEGIN IMMEDIATE", raises=False) is not None

    def _try_to(self, statement: str, *, raises: bool) -> sqlite3.Cursor | None:
        """Execute ``statement``, unless another connection is in its way; that ``raises`` its error, or not."""
        try:
            return self._execute(statement)
        except sqlite3.OperationalError as error:
            if raises or _primary_code(error) not in _OCCUPIED:
                raise
            return None

    def _open(self) -> None:
        end = time.monotonic() + self._open_patience
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        with creation_lock(self._path, self._open_patience):
            try:
                self._path.stat()
            except FileNotFoundError:
                # Left over from a file that somebody removed: SQLite would play them into the new one.
                for leftover in companions(self._path):
                    with contextlib.suppress(OSError):
                        leftover.unlink()
            except OSError:
                pass  # SQLite is about to say it
            self._connection = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
            self._connection.text_factory = _text
            # Whoever had the creation lock may have needed all of the time.
            end = max(end, time.monotonic() + OPEN_PATIENCE)
            if not self._execute_by(end, "PRAGMA page_count").fetchone()[0]:
                # In any other file it would take the write lock to no effect.
                self._execute_by(end, "PRAGMA auto_vacuum=INCREMENTAL").fetchall()
            for pragma in (
                "journal_mode=WAL",
                "synchronous=FULL",
                f"wal_autocheckpoint={BACKSTOP_CHECKPOINT_PAGES}",
                f"journal_size_limit={WAL_BYTES_KEPT}",
            ):
                self._execute_by(end, f"PRAGMA {pragma}").fetchall()
            self._execute_by(end, "SELECT count(*) FROM sqlite_schema").fetchall()  # makes what lies beside the file
            self._companions = tuple(_inode(path) for path in companions(self._path))
            self._inode = _inode(self._path)

    def _execute_by(self, end: float, statement: str) -> sqlite3.Cursor:
        """Execute ``statement`` as soon as no other connection is in its way, until ``end`` (monotonic)."""
        # Not by SQLite's own time-out, which some steps to a write-ahead log do without.
        while (done := self._try_to(statement, raises=time.monotonic() >= end)) is None:
            time.sleep(random.uniform(*_LOCK_RETRY))  # noqa: S311 - spreads the tries of several daemons
        return done

    def _remove_companions(self) -> None:
        """Remove what belongs to our file from beside another one: SQLite would play it into that."""
        with creation_lock(self._path):
            if _inode(self._path) == self.identity:
                return
            for companion, ours in zip(companions(self._path), self._companions, strict=True):
                if _inode(companion) == ours:
                    with contextlib.suppress(OSError):
                        companion.unlink()

    def _execute(self, statement: str, parameters: tuple[object, ...] = ()) -> sqlite3.Cursor:
        if self._connection is None:
            raise sqlite3.ProgrammingError("the connection is closed")
        return self._connection.execute(statement, parameters)

    def _rows(self, clause: str, seq: int) -> Iterator[Row]:
        for number, *record in self._execute(f"{_SELECT} {clause}", (seq,)):
            yield number, Record(*record)

    def _newest(self) -> int:
        return int(self._execute("SELECT coalesce(max(seq), 0) FROM policyd_batch").fetchone()[0])

    def _readable_rows_after(self, seq: int) -> list[Row]:
        """Those of the rows behind ``seq`` that can be read, from both ends of a file that may be damaged."""
        found: dict[int, Record] = {}
        for order in ("DESC", "ASC"):
            with contextlib.suppress(sqlite3.Error):
                found.update(self._rows(f"WHERE seq > ? ORDER BY seq {order}", seq))
        return sorted(found.items())

    def _old_counts(self) -> OldCounts:
        if not self.has_table("mail_count"):
            return
        columns = {row[1] for row in self._execute("PRAGMA table_info(mail_count)")}
        recipients = "coalesce(recipient_count, 1)" if "recipient_count" in columns else "1"
        yield from self._execute(named(_OLD_COUNTS, recipients=recipients))

    def _empty(self, seq: int, before: int, patience: float) -> int:
        """Delete the entries of the newest row, but leave the row; how many there were."""
        self.begin(patience)
        row = self._execute(
            "SELECT CAST(size AS INTEGER) FROM policyd_batch WHERE seq = ? AND date < ?", (seq, before)
        ).fetchone()
        if row:
            self._execute("UPDATE policyd_batch SET size = 0, entries = '[]' WHERE seq = ?", (seq,))
        self.commit()
        return row[0] if row else 0

    def _in_steps(self, delete: Callable[[], int | None], patience: float) -> int:
        """Call ``delete`` until it finds nothing, without holding up the daemons; the sum of what it returned."""
        deleted = 0
        # So that the daemons wait for no disk of ours; what a power failure brings back is deleted the next time.
        self._execute("PRAGMA synchronous=NORMAL")
        for step in itertools.count(1):
            self.begin(patience)
            end = time.monotonic() + STEP_OF_CLEAN
            while (entries := delete()) is not None:
                deleted += entries
                if time.monotonic() >= end:
                    break
            self.commit()
            if entries is None:
                break
            if step % STEPS_PER_CHECKPOINT == 0:
                self._checkpoint()
            time.sleep(PAUSE_OF_CLEAN)
        self._execute("PRAGMA synchronous=FULL")
        return deleted

    def _checkpoint(self) -> None:
        """Copy what --clean has written into the file, or the write-ahead log would grow until a daemon has to do that.

        It starts over only when all of it is copied and nobody has appended to it meanwhile: most is copied beside
        the daemons, and the little that they have added then under the lock.
        """
        self._execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self._execute(f"PRAGMA busy_timeout={CHECKPOINT_PATIENCE}")
        self._execute("PRAGMA wal_checkpoint(FULL)").fetchall()
        self._execute("PRAGMA busy_timeout=0")

    def _delete_until(self, last: int) -> int | None:
        """Delete the oldest of the rows up to ``last``; how many entries they had, None when there are none."""
        rows = self._execute(
            "SELECT seq, CAST(size AS INTEGER) FROM policyd_batch WHERE seq <= ? ORDER BY seq LIMIT ?",
            (last, ROWS_PER_CLEAN),
        ).fetchall()
        if not rows:
            return None
        self._execute("DELETE FROM policyd_batch WHERE seq <= ?", (rows[-1][0],))
        return sum(int(size) for _, size in rows)

    def _give_back(self) -> int | None:
        """Give some of the free pages back to the file system; how many, None when there are none."""
        free: int = min(self._execute("PRAGMA freelist_count").fetchone()[0], PAGES_PER_VACUUM)
        for _ in range(free):
            # A page is a step of this statement, and of a statement without columns sqlite3 takes one step.
            self._execute("PRAGMA incremental_vacuum(1)").fetchall()
        return free or None

    def _delete_old(self, before: int) -> int | None:
        """Delete some of the rows of 0.4, 1.0.1.1 and 1.2.0; how many, None when there are none."""
        deleted: int = self._execute(
            "DELETE FROM mail_count WHERE rowid IN (SELECT rowid FROM mail_count WHERE date < ? LIMIT ?)",
            (before, ROWS_PER_CLEAN),
        ).rowcount
        return deleted or None


class _Turn:
    """How long to wait for the lock: ``patience`` seconds since anybody has written to the log at ``path``.

    A disk that is slow, and no worse, makes many daemons wait for each other: one that took that for an outage would
    decide without the others, who make progress.
    """

    def __init__(self, path: Path, patience: float) -> None:
        self._path = path
        self._patience = patience
        self._before = time.monotonic()
        self._waited = 0.0  # in all, seconds
        self._end = 0.0  # when so much has been waited
        self._most = min(TURNS * patience, patience + LONGEST_QUEUE)
        self._written: tuple[int, ...] | None = None  # what shows when it is written to; None: nobody has waited yet

    def is_over(self) -> bool:
        """Whether the next try is the last one."""
        if self._written is None:
            return self._patience <= 0
        now = time.monotonic()
        self._waited += min(now - self._before, LONGEST_LOOK)
        self._before = now
        if self._waited < self._end:
            return False
        before, self._written = self._written, signature(self._path)
        self._end = min(self._waited + self._patience, self._most)
        return self._written == before or self._waited >= self._most

    def rest(self) -> None:
        """Let some time pass."""
        if self._written is None:
            self._written = signature(self._path)
            self._end = self._patience
        haste = _MOST_HASTE * min(1.0, self._waited / self._patience)
        time.sleep(random.uniform(*_LOCK_RETRY) * (1.0 - haste))  # noqa: S311 - spreads the tries of several daemons


class _Errors:
    """Translates SQLite's errors, in a ``with`` block."""

    def __init__(self, log: SqliteLog) -> None:
        self._log = log

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, sqlite3.Error):
            raise self._log.lost(error) from error


def _primary_code(error: sqlite3.Error) -> int:
    """The result code of SQLite: extended ones keep the primary one in their lowest byte. 0 for Python's own."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def _sqlite(text: str) -> str:
    """The text of a statement, as SQLite marks parameters."""
    return text.replace("%s", "?")


def _text(value: bytes) -> str:
    """Text of the file, whatever damage has done to it."""
    return value.decode("utf-8", "replace")


def identity(path: Path) -> tuple[int, int] | None:
    """What tells this database from another one of the same name, None while there is none: an empty file is none."""
    return _inode(path, at_least=1)


def _inode(path: Path, at_least: int = 0) -> tuple[int, int] | None:
    found = _stat(path)
    return (found.st_dev, found.st_ino) if found is not None and found.st_size >= at_least else None


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def companions(path: Path) -> tuple[Path, Path]:
    """The files that SQLite keeps beside ``path``."""
    return Path(f"{path}-wal"), Path(f"{path}-shm")


def set_aside(path: Path, damaged: tuple[int, int] | None, stamp: int) -> Path | None:
    """Rename the damaged file and its companions; the new name, None when another daemon has done so before."""
    with creation_lock(path):
        if damaged is None or _inode(path) != damaged:
            return None
        aside = Path(f"{path}.damaged-{stamp}")
        for companion in companions(path):
            with contextlib.suppress(OSError):
                companion.rename(f"{aside}{str(companion)[len(str(path)) :]}")
        path.rename(aside)
        return aside


@contextlib.contextmanager
def creation_lock(path: Path, patience: float = 0.0) -> Iterator[None]:
    """Only one daemon at a time makes, removes or renames the file.

    Best effort: without it where no lock can be had, also not within ``patience`` seconds (:data:`OPEN_PATIENCE` at
    the least), as from a daemon that was stopped while it had it.
    """
    descriptor = None
    with contextlib.suppress(OSError):
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    if descriptor is not None:
        end = time.monotonic() + max(patience, OPEN_PATIENCE)
        with contextlib.suppress(OSError):
            while not _is_locked(descriptor) and time.monotonic() < end:
                time.sleep(_LOCK_RETRY[1])
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    """Whether the lock was to be had."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
