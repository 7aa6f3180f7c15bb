"""Deletes what is old from an SQLite file, and makes it smaller, in steps so small that no daemon waits for long."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from policyd_rate_limit.storage.log.contract import Log

ROWS_PER_CLEAN = 500
PAGES_PER_VACUUM = 100
STEP_OF_CLEAN = 0.002  # seconds of deleting after which a transaction of --clean ends
PAUSE_OF_CLEAN = 0.002  # seconds between two transactions of --clean, for the daemons that wait for the lock
STEPS_PER_CHECKPOINT = 8  # of --clean, some megabytes of log
CHECKPOINT_PATIENCE = 50  # milliseconds that a checkpoint of --clean waits for the daemons


class Cleaning:
    """Cleans the file of ``log``, by statements that ``execute`` has executed over its connection.

    ``patience``: seconds that each step may wait for the lock.

    :raises sqlite3.Error: from every method, beside what those of ``log`` raise.
    """

    def __init__(self, log: Log, execute: Callable[..., sqlite3.Cursor], patience: float) -> None:
        self._log = log
        self._execute = execute
        self._patience = patience

    def clean(self, before: int, newest: int) -> int:
        """Delete what is older than ``before``, of the row ``newest`` only its entries; how many these were."""
        last = min(self._log.last_before(before), newest - 1)
        deleted = self._in_steps(lambda: self._delete_until(last))
        deleted += self._empty(newest, before)
        if self._log.has_table("mail_count"):
            # Left in place for whoever goes back to the old versions.
            deleted += self._in_steps(lambda: self._delete_old(before))
        return deleted

    def compact(self) -> None:
        """Give the room of deleted rows back to the file system."""
        (incremental,) = self._execute("PRAGMA auto_vacuum").fetchone()
        if not incremental:
            # A file of an older version: this one long step makes the small ones possible.
            self._execute(f"PRAGMA busy_timeout={int(self._patience * 1000)}")
            self._execute("PRAGMA auto_vacuum=INCREMENTAL").fetchall()
            self._execute("VACUUM")
            self._execute("PRAGMA busy_timeout=0")
        self._in_steps(self._give_back)

    def _empty(self, seq: int, before: int) -> int:
        """Delete the entries of the newest row, but leave the row; how many there were."""
        self._log.begin(self._patience)
        row = self._execute(
            "SELECT CAST(size AS INTEGER) FROM policyd_batch WHERE seq = ? AND date < ?", (seq, before)
        ).fetchone()
        if row:
            self._execute("UPDATE policyd_batch SET size = 0, entries = '[]' WHERE seq = ?", (seq,))
        self._log.commit()
        return row[0] if row else 0

    def _in_steps(self, delete: Callable[[], int | None]) -> int:
        """Call ``delete`` until it finds nothing, without holding up the daemons; the sum of what it returned."""
        deleted = 0
        # So that the daemons wait for no disk of ours; what a power failure brings back is deleted the next time.
        self._execute("PRAGMA synchronous=NORMAL")
        for step in itertools.count(1):
            self._log.begin(self._patience)
            end = time.monotonic() + STEP_OF_CLEAN
            while (entries := delete()) is not None:
                deleted += entries
                if time.monotonic() >= end:
                    break
            self._log.commit()
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
