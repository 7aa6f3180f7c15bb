"""SQLite connections that fail, or kill the process, at a chosen point."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from typing import Any
from unittest import mock

_connect = sqlite3.connect

ERRORS: dict[str, tuple[type[sqlite3.Error], int]] = {
    "BUSY": (sqlite3.OperationalError, sqlite3.SQLITE_BUSY),
    "FULL": (sqlite3.OperationalError, sqlite3.SQLITE_FULL),
    "IOERR": (sqlite3.OperationalError, sqlite3.SQLITE_IOERR_FSYNC),
    "READONLY": (sqlite3.OperationalError, sqlite3.SQLITE_READONLY),
    "CANTOPEN": (sqlite3.OperationalError, sqlite3.SQLITE_CANTOPEN),
    "CORRUPT": (sqlite3.DatabaseError, sqlite3.SQLITE_CORRUPT),
    "NOTADB": (sqlite3.DatabaseError, sqlite3.SQLITE_NOTADB),
}
DEAD = 77  # the exit status of a process that died at a point
DAMAGE = ("CORRUPT", "NOTADB")


class Fault:
    """What goes wrong: from point ``first`` on, ``length`` points fail with ``kind``, a key of :data:`ERRORS`.

    A point is a statement or a row that is fetched. ``too_late``: it fails after it has had its effect.
    ``death``: the point at which the process dies, without a word.
    """

    def __init__(
        self, kind: str = "", first: int = 0, length: int = 0, *, too_late: bool = False, death: int = 0
    ) -> None:
        self.kind = kind
        self.points = range(first, first + length)
        self.too_late = too_late
        self.death = death
        self.passed = 0
        self.met = False

    def before(self) -> None:
        """A point has come."""
        self.passed += 1
        if not self.too_late:
            self._strike()

    def after(self) -> None:
        """What was to be done at the point has been done."""
        if self.too_late:
            self._strike()

    def _strike(self) -> None:
        if self.passed == self.death:
            os._exit(DEAD)
        if self.passed in self.points:
            self.met = True
            raise _error(self.kind)


def _error(kind: str) -> sqlite3.Error:
    """The error as SQLite raises it."""
    make, code = ERRORS[kind]
    error = make(f"{kind} for a test")
    error.sqlite_errorcode = code
    error.sqlite_errorname = kind
    return error


@contextlib.contextmanager
def connections_with(fault: Fault) -> Iterator[None]:
    """Every SQLite connection that is opened inside the ``with`` block goes wrong as ``fault`` says."""

    class Cursor:
        """A cursor whose rows are points."""

        def __init__(self, cursor: sqlite3.Cursor) -> None:
            self._cursor = cursor

        @property
        def lastrowid(self) -> int | None:
            return self._cursor.lastrowid

        @property
        def rowcount(self) -> int:
            return self._cursor.rowcount

        def fetchone(self) -> Any:
            return self._cursor.fetchone()

        def fetchall(self) -> list[Any]:
            return self._cursor.fetchall()

        def __iter__(self) -> Iterator[Any]:
            for row in self._cursor:
                fault.before()
                yield row
                fault.after()

    class Connection(sqlite3.Connection):
        """A connection whose statements are points."""

        def execute(self, *arguments: Any) -> Any:
            fault.before()
            cursor = Cursor(super().execute(*arguments))
            fault.after()
            return cursor

    def connect(*arguments: Any, **named: Any) -> sqlite3.Connection:
        return _connect(*arguments, factory=Connection, **named)

    with mock.patch("sqlite3.connect", connect):
        yield
