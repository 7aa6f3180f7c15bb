"""Finds damage that somebody does to an SQLite file while daemons use it, as long as they know what was in it.

SQLite itself notices a damaged page when it reads it, which may be after the next start: then nobody knows any more. So
the file is examined in a thread of its own: soon after it was written to by somebody else, or has a hole, after our own
checkpoints, beside which somebody else may have written to it unseen, and else now and then, as long as anything is
written.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.quantity import quantity

if TYPE_CHECKING:
    from pathlib import Path

SOON: Final = 1.0  # seconds after an examination that the next one may begin, where there is a reason
LATER: Final = 10.0  # likewise, where there is none
SHARE_SOON: Final = 10  # of the time, one in so many at the most, is spent on it
SHARE_UNSURE: Final = 50  # likewise, where somebody may have written to it unseen, as it was written to by us
SHARE_LATER: Final = 100
LOG_HEADER_BYTES: Final = 32
_BLOCK_BYTES: Final = 512  # of st_blocks, whatever the file system's are: POSIX leaves that open, Linux does not
# SQLite's file format, section 4.1: the write-ahead log, with checksums of either byte order.
_LOG_MAGIC: Final = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_PROGRESS_STEPS: Final = 10_000  # of SQLite's virtual machine, between two looks whether to stop


class Examiner:
    """Examines the file at ``path``; ``explain`` and ``suspect`` may be called by any thread.

    ``damage``: what was found, empty as long as nothing was. ``has_lost_rows``: the file is sound, but is without rows
    that were there.
    """

    def __init__(self, path: Path) -> None:
        self.damage = ""
        self.has_lost_rows = False
        self._path = path
        self._log = path.with_name(f"{path.name}-wal")
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._seen: tuple[int, ...] = ()  # of the file, after the last write that is our own
        self._logged: tuple[int, ...] = ()  # of the write-ahead log, at the last examination
        self._blocks = 0  # that the file takes up
        self._unstored = 0  # bytes of it for which there are no blocks
        self._hole: int | None = None  # where one begins in the write-ahead log
        self._has_reason = False
        self._is_unsure = False
        self._took = 0.0  # seconds, the last one
        self._ended = time.monotonic()
        self._odd: int | None = None  # rows that are no JSON; they were there before

    def explain(self) -> None:
        """What was written to the file just now was our own doing; that of somebody else meanwhile looks the same."""
        before, self._seen = self._seen, signature(self._path)
        if before and before != self._seen:
            self._is_unsure = True

    def suspect(self) -> None:
        """See whether somebody else has written to the file: it is examined soon then."""
        if signature(self._path) != self._seen:
            self._seen = signature(self._path)
            self._has_reason = True

    def look(self, known: int) -> None:
        """Have the file examined if it is time for that; called about once a second.

        ``known``: the seq of a row that is in it.
        """
        if self._thread is not None:
            if self._thread.is_alive():
                return
            self._thread = None
        self.suspect()
        self._suspect_cuts()
        if not (_may_be_log(self._log) or _may_be_log(self._log)):
            # What is committed from here on would not be found by the next start.
            self.damage = "its write-ahead log was overwritten or cut"
            return
        logged = signature(self._log)
        if self._has_reason:
            share, least = SHARE_SOON, SOON
        elif self._is_unsure:
            share, least = SHARE_UNSURE, SOON
        elif logged != self._logged:
            share, least = SHARE_LATER, LATER
        else:
            return
        if time.monotonic() >= self._ended + max(least, share * self._took):
            self._has_reason = self._is_unsure = False
            self._logged = logged
            self._thread = threading.Thread(target=self.examine, args=(known,), name="examiner", daemon=True)
            with contextlib.suppress(RuntimeError):  # the system has no room for another thread
                self._thread.start()
                return
            self._thread = None

    def _suspect_cuts(self) -> None:
        """What was cut off, and written to behind that, has less on disk than before, or a hole."""
        with contextlib.suppress(OSError):
            found = self._path.stat()
            # A checkpoint in which it was cut makes it longer again. File systems that compress have such bytes, too.
            unstored = max(found.st_size - found.st_blocks * _BLOCK_BYTES, 0)
            if found.st_blocks < self._blocks * 9 // 10 or unstored > self._unstored * 11 // 10:
                self._has_reason = True
            self._blocks = found.st_blocks
            self._unstored = unstored
        hole = _hole(self._log)
        if hole != self._hole:
            self._hole = hole
            self._has_reason = True

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def glance(self, known: int) -> None:
        """See that the newest rows are there, which takes no time, and have all of it examined soon."""
        self._has_reason = True
        self._inspect(known, thoroughly=False)

    def examine(self, known: int) -> None:
        """Look for damage now, in all of it."""
        begin = time.monotonic()
        self._inspect(known, thoroughly=True)
        self._ended = time.monotonic()
        self._took = self._ended - begin

    def _inspect(self, known: int, *, thoroughly: bool) -> None:
        try:
            # Without making a file where somebody has just removed it.
            connection = sqlite3.connect(f"{self._path.as_uri()}?mode=rw", uri=True, check_same_thread=False)
            try:
                connection.text_factory = bytes
                connection.set_progress_handler(lambda: self._stopped, _PROGRESS_STEPS)
                if not thoroughly or self._is_sound(connection):
                    ((newest,),) = connection.execute("SELECT coalesce(max(seq), 0) FROM policyd_batch")
                    self.has_lost_rows = newest < known
            finally:
                connection.close()
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0)
            if (
                code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
                or code == sqlite3.SQLITE_IOERR_SHORT_READ
            ):
                self.damage = str(error)
            # Of everything else the store hears as well.

    def _is_sound(self, connection: sqlite3.Connection) -> bool:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != b"ok":
            self.damage = found.decode("utf-8", "replace").splitlines()[-1]
            return False
        ((odd,),) = connection.execute("SELECT count(*) FROM policyd_batch WHERE NOT json_valid(entries)")
        if self._odd is not None and odd > self._odd:
            more = odd - self._odd
            self.damage = f"{quantity(more, 'row')} of policyd_batch {'was' if more == 1 else 'were'} overwritten"
        self._odd = odd
        return not self.damage


def signature(path: Path) -> tuple[int, ...]:
    """What changes when a file is written to."""
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_mtime_ns, found.st_size
    return ()


def _hole(path: Path) -> int | None:
    """Where the first part of the file begins that was never written; None if there is none.

    Not for a file that SQLite has locks on: closing it takes them away.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            found = os.lseek(descriptor, 0, os.SEEK_HOLE) if size else size
            return found if found < size else None
        finally:
            os.close(descriptor)
    return None


def _may_be_log(path: Path) -> bool:
    """Whether the write-ahead log begins as one does; an empty one has no beginning."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        beginning = file.read(LOG_HEADER_BYTES)
        return not beginning or (len(beginning) == LOG_HEADER_BYTES and beginning[:4] in _LOG_MAGIC)
    return True
