"""The batch table in an SQLite file, shared by all daemons of one machine.

``BEGIN IMMEDIATE``, the file's write lock, is the lock that they share. ``synchronous=FULL`` puts every commit on disk
before it returns. Checkpoints run in a thread of their own, over a connection of their own: on the way of a batch, one
would hold up all the answers of that batch.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
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
from policyd_rate_limit.storage.log.sqlite.cleaning import Cleaning
from policyd_rate_limit.storage.log.sqlite.examiner import Examiner
from policyd_rate_limit.storage.log.sqlite.files import (
    OPEN_PATIENCE,
    companions,
    creation_lock,
    facts,
    identity,
    inode,
    set_aside,
)
from policyd_rate_limit.storage.log.sqlite.schema import SCHEMA
from policyd_rate_limit.storage.log.sqlite.turn import Turn, pause
from policyd_rate_limit.storage.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from policyd_rate_limit.storage.log.contract import OldCounts, Parameter, Statement

UNSEEN = 1_000_000  # rows, that no daemon may be ahead of another one
BACKSTOP_CHECKPOINT_PAGES = 16_384  # 64 MiB of log, should the checkpoints in the background not come
WAL_BYTES_KEPT = 16 << 20
# Another connection is at work; PROTOCOL: it was stopped in the middle of the few bytes that all look at.
_OCCUPIED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL})
# What no waiting mends.
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
# What is about what was to be written: constraints, triggers, the size of a row.
_REFUSALS = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH})
LONGEST_ROW = 1 << 28  # characters: a quarter of what SQLite takes

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
        self._inode = inode(path)  # of the file, empty or not
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
            for statement in SCHEMA:
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
            return Cleaning(self, self._execute, patience).clean(before, self._newest())

    def compact(self, patience: float) -> None:
        with self._errors:
            Cleaning(self, self._execute, patience).compact()

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
        try:
            with self._errors:
                for text, parameters in statements:
                    self._execute(_sqlite(text), parameters)
        except LogError:
            if self._connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.rollback()  # or whoever goes on reading would read what is not there
            raise
        self.commit()

    def execute(self, statement: Statement) -> None:
        with self._errors:
            self._execute(_sqlite(statement.text), statement.parameters)

    def add_tables(self) -> None:
        """Each start makes what is missing: there are no rights to be granted for that."""

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
        if self._connection is not None and inode(companions(self._path)[1]) != self._companions[1]:
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
        found = facts(self._path)
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
        log = facts(companions(self._path)[0])
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
        turn = Turn(companions(self._path)[0], patience)
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
            self._companions = tuple(inode(path) for path in companions(self._path))
            self._inode = inode(self._path)

    def _execute_by(self, end: float, statement: str) -> sqlite3.Cursor:
        """Execute ``statement`` as soon as no other connection is in its way, until ``end`` (monotonic)."""
        # Not by SQLite's own time-out, which some steps to a write-ahead log do without.
        while (done := self._try_to(statement, raises=time.monotonic() >= end)) is None:
            pause()
        return done

    def _remove_companions(self) -> None:
        """Remove what belongs to our file from beside another one: SQLite would play it into that."""
        with creation_lock(self._path):
            if inode(self._path) == self.identity:
                return
            for companion, ours in zip(companions(self._path), self._companions, strict=True):
                if inode(companion) == ours:
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
