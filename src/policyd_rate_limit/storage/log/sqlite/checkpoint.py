"""Checkpoints of SQLite's write-ahead log, for which no answer waits."""

from __future__ import annotations

import logging
import sqlite3
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from policyd_rate_limit.storage.log.sqlite.examiner import Examiner

CHECKPOINT_BYTES = 4 << 20  # of the write-ahead log, as SQLite's own default of 1000 pages
PAGE_BYTES = 4096

_logger = logging.getLogger(__name__)


class Checkpointer:
    """Copies the write-ahead log into the file in a thread of its own; ``examiner`` is to know whose doing that is."""

    def __init__(self, path: Path, examiner: Examiner) -> None:
        self._path = path
        self._examiner = examiner
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
                # Without making a file where somebody has just removed it.
                connection = sqlite3.connect(f"{self._path.as_uri()}?mode=rw", uri=True, check_same_thread=False)
                try:
                    self._examiner.suspect()
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                    self._examiner.explain()
                finally:
                    connection.close()
            except sqlite3.Error as error:
                # The store meets the same error, and says it.
                _logger.debug("checkpoint of %s: %s", self._path, error)
            self._copied.set()
