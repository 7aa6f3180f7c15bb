"""The store in an SQLite file, shared by all daemons of one machine.

Each daemon holds the ledger in memory. For a batch it takes the file's write lock (``BEGIN IMMEDIATE``), reads the
rows that others have appended since its last batch, decides in memory, appends one row of its own and commits. So
a batch costs the same with ten rows in the file and with ten million, and the lock is what makes one limit exact
over all daemons.

``synchronous=FULL`` puts every commit on disk before it returns. Checkpoints run in a thread of their own, over a
connection of their own: on the way of a batch, one would hold up all the answers of that batch.

A file that is removed while daemons run is made anew by the first that notices, from its memory; so is one that is
damaged, after it has been renamed. The others then read the new file.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.charge import Entry
from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.base import CommitFailed
from policyd_rate_limit.storage.sqlite_file import SqliteFile, identity, in_rows, set_aside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from policyd_rate_limit.domain.charge import Demand, Verdict
    from policyd_rate_limit.storage.memory import Memory
    from policyd_rate_limit.storage.record import Record

CHECKPOINT_BYTES = 4 << 20  # of the write-ahead log, as SQLite's own default of 1000 pages
PAGE_BYTES = 4096
# Errors that no waiting mends.
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

_logger = logging.getLogger(__name__)


class SqliteStore:
    """See :class:`policyd_rate_limit.storage.base.Store`.

    ``memory`` is shared with whoever decides while the file is away. ``longest`` is the longest window in use
    (seconds): so far back the log is read. ``counters_of_old_id`` names the counters that an id in a database of
    0.4 or 1.2.0 stands for.
    """

    def __init__(
        self,
        path: Path,
        memory: Memory,
        *,
        longest: int,
        counters_of_old_id: Callable[[str], Sequence[str]],
    ) -> None:
        self.path = path
        self.memory = memory
        self.longest = longest
        self._counters_of_old_id = counters_of_old_id
        self._file: SqliteFile | None = None
        self._last_identity: tuple[int, int] | None = None
        self._loaded = False
        self._seq = 0  # of the last row that is in memory
        self._date = 0  # of the last row
        self._stored: dict[int, int] = {}  # writer -> number of its newest record that is known to be in the file
        self._salvaged: tuple[Record, ...] = ()
        self._checkpointer = _Checkpointer(path)

    def admit(self, demands: Sequence[Demand], pending: Sequence[Record], patience: float) -> list[Verdict]:
        """See :meth:`policyd_rate_limit.storage.base.Store.admit`."""
        try:
            file = self._begin(patience)
            appended = self._replay(file, pending)
        except sqlite3.Error as error:
            raise StoreUnavailable(self._give_up(error)) from error
        try:
            verdicts, record = self.memory.decide(demands)
        except BaseException:
            self._disconnect()
            raise
        try:
            if record is not None:
                appended.append((file.append(record), record))
            file.commit()
        except sqlite3.Error as error:
            raise CommitFailed(self._give_up(error), verdicts, record) from error
        for seq, stored in appended:
            self._note(seq, stored)
            self._checkpointer.written(len(stored.entries))
        return verdicts

    def reload(self) -> None:
        """See :meth:`policyd_rate_limit.storage.base.Store.reload`."""
        self._loaded = False

    def maintain(self) -> None:
        """See :meth:`policyd_rate_limit.storage.base.Store.maintain`."""
        self.memory.ledger.windows.sweep(self.longest)
        if self._file is not None and self._checkpointer.has_ended():
            # What was appended meanwhile is little; with it in the file as well, the log starts anew.
            try:
                self._file.checkpoint()
            except sqlite3.Error as error:
                _logger.warning("%s", self._give_up(error))

    def clean(self, patience: float) -> int:
        """Delete what is older than twice the longest window and compact the file, while daemons use it.

        :returns: how many entries were deleted.
        :raises StoreUnavailable: the file cannot be cleaned now.
        """
        try:
            file = self._file = SqliteFile(self.path)
            file.begin(patience)
            self.memory.advance()
            file.prepare(self._first_records)
            file.commit()
            deleted = file.clean(self.memory.date - 2 * self.longest, patience)
            file.compact(patience)
        except sqlite3.Error as error:
            self._disconnect()
            raise StoreUnavailable(f"SQLite database {self.path}: {error}") from error
        return deleted

    def close(self) -> None:
        """See :meth:`policyd_rate_limit.storage.base.Store.close`."""
        self._checkpointer.stop()
        self._disconnect()

    def _begin(self, patience: float) -> SqliteFile:
        """Take the write lock and bring the memory up to date."""
        if self._file is not None and identity(self.path) != self._file.identity:
            self._leave_replaced(self._file)
        file = self._file
        if file is None:
            file = self._file = SqliteFile(self.path)
            file.begin(patience)
            self.memory.advance()
            made = file.prepare(self._first_records)
            if made or file.identity != self._last_identity:
                self._loaded = False
                self._last_identity = file.identity
        else:
            file.begin(patience)
            self.memory.advance()
        if not self._loaded:
            self.memory.forget()
            self._stored.clear()
            self._seq = file.last_before(self.memory.date - self.longest)
        self._read(file.rows_after(self._seq))
        self._loaded = True
        self._salvaged = ()
        if self.memory.date < self._date:
            file.redate(self.memory.date)
        self._date = self.memory.date
        return file

    def _read(self, rows: Iterable[tuple[int, Record]]) -> None:
        for seq, record in rows:
            try:
                self.memory.apply(record)
            except (ValueError, TypeError) as error:
                _logger.error("%s: row %d cannot be understood and does not count: %s", self.path, seq, error)
            self._note(seq, record)

    def _note(self, seq: int, record: Record) -> None:
        self._seq = seq
        self._date = max(self._date, record.date)
        if record.number > self._stored.get(record.writer, 0):
            self._stored[record.writer] = record.number

    def _replay(self, file: SqliteFile, pending: Iterable[Record]) -> list[tuple[int, Record]]:
        """Store those of ``pending`` that are not in the file, and count those that are not in memory."""
        appended = []
        newest: dict[int, int] = {}
        for record in pending:
            if record.number > newest.get(record.writer, self._stored.get(record.writer, 0)):
                newest[record.writer] = record.number
                self.memory.apply(record)
                dated = record.dated(self.memory.date)
                appended.append((file.append(dated), dated))
        return appended

    def _first_records(self, old_counts: Iterator[tuple[str, int, int]]) -> Iterator[Record]:
        """What a new table begins with."""
        if self._loaded:
            yield from in_rows(self.memory.ledger.snapshot(), self.memory.record)
        for record in self._salvaged:
            yield record.dated(self.memory.date)
        yield from in_rows(self._carried_over(old_counts), self.memory.record)

    def _carried_over(self, old_counts: Iterator[tuple[str, int, int]]) -> Iterator[Entry]:
        now = self.memory.date
        entries = 0
        for old_id, date, recipients in old_counts:
            if recipients > 0 and date > now - 2 * self.longest:
                # The old versions dated a mail at the full second before it.
                for counter in self._counters_of_old_id(str(old_id)):
                    entries += 1
                    yield Entry(counter, recipients, min(date + 1, now), "", "")
        if entries:
            _logger.info("%s: %d counts of an older version carried over", self.path, entries)

    def _leave_replaced(self, file: SqliteFile) -> None:
        """The path names another file, or none: read what is left to read, and let go."""
        _logger.warning("SQLite database %s was removed or replaced; going on with what is there now", self.path)
        self._read(file.readable_rows_after(self._seq))
        self._disconnect()

    def _give_up(self, error: sqlite3.Error) -> str:
        """Let go of the file after ``error``; what is to be said of it."""
        message = f"SQLite database {self.path}: {error}"
        # Extended codes keep the primary one in their lowest byte.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE:
            message += self._set_aside()
        self._disconnect()
        return message

    def _set_aside(self) -> str:
        """Rename the damaged file, after taking over what can be read of it."""
        damaged = identity(self.path)
        if self._file is not None:
            damaged = self._file.identity
            rows = self._file.readable_rows_after(self._seq if self._loaded else 0)
            if self._loaded:
                self._read(rows)
            else:
                self._salvaged = tuple(record for _, record in rows)
        self._disconnect()
        try:
            aside = set_aside(self.path, damaged, self.memory.date)
        except OSError as error:
            return f"; it cannot be renamed: {error}"
        return f"; renamed to {aside}, a new file takes its place" if aside else ""

    def _disconnect(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _Checkpointer:
    """Copies the write-ahead log into the file in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bytes = 0
        self._due = threading.Event()
        self._copied = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def written(self, size: int) -> None:
        """A row of ``size`` bytes was committed: at least one page of the log, and the page that it begins in."""
        self._bytes += (size // PAGE_BYTES + 2) * PAGE_BYTES
        if self._bytes >= CHECKPOINT_BYTES:
            self._bytes = 0
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
                self._thread.start()
            self._due.set()

    def has_ended(self) -> bool:
        """Whether a checkpoint has ended since the last call."""
        done = self._copied.is_set()
        self._copied.clear()
        return done

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True
        self._due.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            if self._stopped:
                return
            try:
                if identity(self._path) is None:
                    continue
                file = SqliteFile(self._path)
                try:
                    file.checkpoint()
                finally:
                    file.close()
            except sqlite3.Error as error:
                # The store meets the same error, and says it.
                _logger.debug("checkpoint of %s: %s", self._path, error)
            self._copied.set()
