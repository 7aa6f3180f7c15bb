"""The SQLite file: its schema, its rows, how it is opened, taken over, cleaned and set aside.

``policyd_batch`` is a log: one row per batch, appended, never searched by id. ``date`` never falls from one row
to the next, so that the rows of the last S seconds are found by halving.
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
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.charge import Entry
from policyd_rate_limit.storage.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

ENTRIES_PER_ROW = 1_000  # of a row that is not written for a batch of requests
ROWS_PER_CLEAN = 500
PAGES_PER_VACUUM = 100
PAUSE_OF_CLEAN = 0.002  # seconds between two transactions of --clean, for the daemons that wait for the lock
BACKSTOP_CHECKPOINT_PAGES = 16_384  # 64 MiB of log, should the checkpoints in the background not come
WAL_BYTES_KEPT = 16 << 20
_LOCK_RETRY = (0.0002, 0.001)  # seconds, at random between: SQLite's own back-off goes up to 100 ms

_SCHEMA = (
    """CREATE TABLE policyd_batch (
    seq INTEGER PRIMARY KEY,  -- the order of the batches
    date INTEGER NOT NULL,    -- Unix second
    writer INTEGER NOT NULL,  -- the run of a daemon that decided the batch
    number INTEGER NOT NULL,  -- grows with each batch of a writer
    size INTEGER NOT NULL,    -- how many entries
    entries TEXT NOT NULL     -- JSON: [[counter, amount, date (0: that of the row), mail, part], ...]
)""",
    """CREATE VIEW policyd_entry AS
SELECT json_extract(value, '$[0]') AS counter,
       json_extract(value, '$[1]') AS amount,
       coalesce(nullif(json_extract(value, '$[2]'), 0), batch.date) AS date
  FROM policyd_batch AS batch, json_each(batch.entries)""",
)

Row = tuple[int, Record]  # seq, record


class SqliteFile:
    """An open database file.

    :raises sqlite3.Error: from every method, as SQLite says it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
        with creation_lock(path):
            if not path.exists():
                # Left over from a file that somebody removed: SQLite would play them into the new one.
                for leftover in companions(path):
                    with contextlib.suppress(OSError):
                        leftover.unlink()
            self._connection = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
            try:
                for pragma in (
                    "auto_vacuum=INCREMENTAL",  # takes effect in an empty file only
                    "journal_mode=WAL",
                    "synchronous=FULL",
                    f"wal_autocheckpoint={BACKSTOP_CHECKPOINT_PAGES}",
                    f"journal_size_limit={WAL_BYTES_KEPT}",
                ):
                    self._connection.execute(f"PRAGMA {pragma}").fetchall()
                self.identity = identity(path)
            except BaseException:
                self._connection.close()
                raise
        self._connection.execute("PRAGMA busy_timeout=0")

    def begin(self, patience: float) -> None:
        """Take the write lock, waiting for at most ``patience`` seconds."""
        end = time.monotonic() + patience
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= end:
                    raise
                time.sleep(random.uniform(*_LOCK_RETRY))  # noqa: S311 - spreads the tries of several daemons
            else:
                return

    def commit(self) -> None:
        """End the transaction; what it wrote is on disk when this returns."""
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file; a transaction that is open is rolled back."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def prepare(self, carry_over: Callable[[Iterator[tuple[str, int, int]]], Iterable[Record]]) -> bool:
        """Inside a transaction: make the schema if it is missing; whether it was.

        ``carry_over`` is then given all (id, date, recipients) of the tables of 0.4 or 1.2.0, if there are any, and
        returns the records to begin with.
        """
        if self._tables("policyd_batch"):
            return False
        for statement in _SCHEMA:
            self._connection.execute(statement)
        for record in carry_over(self._old_counts()):
            self.append(record)
        return True

    def append(self, record: Record) -> int:
        """Add ``record``; its seq."""
        cursor = self._connection.execute(
            "INSERT INTO policyd_batch (date, writer, number, size, entries) VALUES (?, ?, ?, ?, ?)",
            (record.date, record.writer, record.number, record.size, record.entries),
        )
        return cursor.lastrowid or 0

    def rows_after(self, seq: int) -> Iterator[Row]:
        """The rows behind ``seq``, oldest first."""
        return self._rows("WHERE seq > ? ORDER BY seq", seq)

    def readable_rows_after(self, seq: int) -> list[Row]:
        """Those of the rows behind ``seq`` that can be read from a damaged file, from both its ends."""
        found: dict[int, Record] = {}
        for order in ("DESC", "ASC"):
            with contextlib.suppress(sqlite3.Error):
                found.update(self._rows(f"WHERE seq > ? ORDER BY seq {order}", seq))
        return sorted(found.items())

    def last_before(self, date: int) -> int:
        """The seq of the last row older than ``date``, 0 when there is none."""
        low, high = self._connection.execute(
            "SELECT coalesce(min(seq), 1) - 1, coalesce(max(seq), 0) FROM policyd_batch"
        ).fetchone()
        while low < high:
            middle = (low + high + 1) // 2
            seq, found = self._connection.execute(
                "SELECT seq, date FROM policyd_batch WHERE seq >= ? ORDER BY seq LIMIT 1", (middle,)
            ).fetchone()
            if found < date:
                low = seq
            else:
                high = middle - 1
        return int(low)

    def redate(self, date: int) -> None:
        """The clock has stepped back to ``date``: what lies in the future happens now."""
        self._connection.execute("UPDATE policyd_batch SET date = ? WHERE date > ?", (date, date))

    def checkpoint(self) -> bool:
        """Copy the write-ahead log into the file as far as nobody is disturbed; whether all of it was."""
        _, frames, copied = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return bool(frames == copied)

    def clean(self, before: int, patience: float) -> int:
        """Delete what is older than ``before`` (Unix second) in small steps; the number of entries deleted.

        The newest row stays, whatever its age, since its seq is where the daemons go on reading.
        """
        deleted = 0
        last = min(self.last_before(before), self._newest() - 1)
        while True:
            self.begin(patience)
            seqs = self._connection.execute(
                "SELECT seq, size FROM policyd_batch WHERE seq <= ? ORDER BY seq LIMIT ?",
                (last, ROWS_PER_CLEAN),
            ).fetchall()
            if seqs:
                self._connection.execute("DELETE FROM policyd_batch WHERE seq <= ?", (seqs[-1][0],))
            self.commit()
            if not seqs:
                break
            deleted += sum(size for _, size in seqs)
            time.sleep(PAUSE_OF_CLEAN)
        return deleted + self._clean_old_table(before, patience)

    def compact(self, patience: float) -> None:
        """Give free pages back to the file system, in small steps where the file allows it."""
        (incremental,) = self._connection.execute("PRAGMA auto_vacuum").fetchone()
        if not incremental:
            # A file of an older version: this one long step makes the small ones possible.
            self._connection.execute(f"PRAGMA busy_timeout={int(patience * 1000)}")
            self._connection.execute("PRAGMA auto_vacuum=INCREMENTAL").fetchall()
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA busy_timeout=0")
        while self._connection.execute("PRAGMA freelist_count").fetchone()[0]:
            self.begin(patience)
            self._connection.execute(f"PRAGMA incremental_vacuum({PAGES_PER_VACUUM})").fetchall()
            self.commit()
            time.sleep(PAUSE_OF_CLEAN)

    def _tables(self, name: str) -> bool:
        found = self._connection.execute(
            "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (name,)
        ).fetchone()
        return found is not None

    def _newest(self) -> int:
        return int(self._connection.execute("SELECT coalesce(max(seq), 0) FROM policyd_batch").fetchone()[0])

    def _rows(self, clause: str, seq: int) -> Iterator[Row]:
        for number, *record in self._connection.execute(
            f"SELECT seq, writer, number, date, size, entries FROM policyd_batch {clause}",  # noqa: S608 - ours
            (seq,),
        ):
            yield number, Record(*record)

    def _old_counts(self) -> Iterator[tuple[str, int, int]]:
        if not self._tables("mail_count"):
            return
        columns = {row[1] for row in self._connection.execute("PRAGMA table_info(mail_count)")}
        recipients = "coalesce(recipient_count, 1)" if "recipient_count" in columns else "1"
        yield from self._connection.execute(
            f"SELECT id, date, sum({recipients}) FROM mail_count GROUP BY id, date ORDER BY date"  # noqa: S608 - ours
        )

    def _clean_old_table(self, before: int, patience: float) -> int:
        """Delete from the table of 0.4 and 1.2.0, which is left in place for whoever goes back to them."""
        if not self._tables("mail_count"):
            return 0
        self.begin(patience)
        deleted = self._connection.execute("DELETE FROM mail_count WHERE date < ?", (before,)).rowcount
        self.commit()
        return deleted


def identity(path: Path) -> tuple[int, int] | None:
    """What tells this file from another one of the same name, None while there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def companions(path: Path) -> tuple[Path, Path]:
    """The files that SQLite keeps beside ``path``."""
    return Path(f"{path}-wal"), Path(f"{path}-shm")


def set_aside(path: Path, damaged: tuple[int, int] | None, stamp: int) -> Path | None:
    """Rename the damaged file and its companions; the new name, None when another daemon has done so before."""
    with creation_lock(path):
        if damaged is None or identity(path) != damaged:
            return None
        aside = Path(f"{path}.damaged-{stamp}")
        for companion in companions(path):
            with contextlib.suppress(OSError):
                companion.rename(f"{aside}{str(companion)[len(str(path)) :]}")
        path.rename(aside)
        return aside


@contextlib.contextmanager
def creation_lock(path: Path) -> Iterator[None]:
    """Only one daemon at a time makes, removes or renames the file. (Best effort where no lock can be had.)"""
    descriptor = None
    with contextlib.suppress(OSError):
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    if descriptor is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def in_rows(entries: Iterable[Entry], pack: Callable[[Sequence[Entry]], Record]) -> Iterator[Record]:
    """``entries`` in records of :data:`ENTRIES_PER_ROW`."""
    iterator = iter(entries)
    while chunk := list(itertools.islice(iterator, ENTRIES_PER_ROW)):
        yield pack(chunk)
