"""The query of ``sql_limits_by_id`` in SQLite."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from typing import TYPE_CHECKING

from policyd_rate_limit.storage.log.sqlite.files import identity
from policyd_rate_limit.tables.cache import QueryFailed, Unreachable
from policyd_rate_limit.tables.lookup import SqlLookup

if TYPE_CHECKING:
    from pathlib import Path

_STEPS_PER_LOOK = 10_000  # of SQLite's virtual machine, between two looks at the time


class SqliteLookup(SqlLookup):
    """The query of an SQLite file, which cannot be written to over this connection. Placeholder: ``?``."""

    def __init__(self, path: Path, query: str, timeout: float) -> None:
        super().__init__(query, timeout)
        self._path = path
        self._identity: tuple[int, int] | None = None
        self._connection: sqlite3.Connection | None = None

    def first_column(self, identifier: str) -> object:
        if self._connection is not None and identity(self._path) != self._identity:
            self.close()  # another file has taken its place
        return super().first_column(identifier)

    def _connect(self, end: float) -> None:
        self._identity = identity(self._path)
        try:
            self._connection = sqlite3.connect(
                f"{self._path.as_uri()}?mode=ro",
                uri=True,
                timeout=max(0.0, end - time.monotonic()),
                isolation_level=None,
                check_same_thread=False,
            )
        except sqlite3.Error as error:
            raise self._translated(error) from error
        self._connection.text_factory = bytes

    def _ask(self, identifier: str, end: float) -> object:
        connection = self._connection
        assert connection is not None  # noqa: S101 - connected before
        try:
            connection.execute(f"PRAGMA busy_timeout={max(0, int((end - time.monotonic()) * 1000))}")
            connection.set_progress_handler(lambda: time.monotonic() > end, _STEPS_PER_LOOK)
            with contextlib.closing(connection.execute(self._query, (identifier,))) as cursor:
                row = cursor.fetchone()
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise self._translated(error) from error
        return row[0] if row else None

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _translated(self, error: Exception) -> Exception:
        # Without a code: Python's own, such as a wrong number of placeholders.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        kind = QueryFailed if code in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_READONLY) else Unreachable
        return kind(f"SQLite database {self._path}: {error}")
