"""The query of ``sql_limits_by_id`` in PostgreSQL."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import psycopg

from policyd_rate_limit.storage.postgresql import connection_options
from policyd_rate_limit.storage.sql_limits import QueryFailed, Unreachable
from policyd_rate_limit.storage.sql_lookup import SqlLookup
from policyd_rate_limit.storage.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Mapping


class PostgresqlLookup(SqlLookup):
    """See :class:`SqlLookup`. Placeholder: ``%s``; any other ``%`` is doubled.

    ``config``: the keyword arguments of psycopg2.connect.

    :raises ConfigError: an option of ``config`` is none.
    """

    def __init__(self, config: Mapping[str, Any], query: str, timeout: float) -> None:
        super().__init__(query, timeout)
        self._options = connection_options(config)
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None
        self._watchdog: Watchdog | None = None

    def _connect(self, end: float) -> None:
        # libpq knows no fractions, and no second below two.
        seconds = max(2, math.ceil(end - time.monotonic()))
        given = float(self._options.get("connect_timeout", 0))
        options: dict[str, Any] = {
            **self._options,
            "connect_timeout": math.ceil(min(seconds, given)) if given > 0 else seconds,
            "client_encoding": "utf8",
        }
        try:
            self._connection = psycopg.connect(**options, autocommit=True, prepare_threshold=None)
        except psycopg.Error as error:
            raise Unreachable(_about(error)) from error
        self._watchdog = Watchdog(self._connection.fileno())

    def _ask(self, identifier: str, end: float) -> object:
        connection, watchdog = self._connection, self._watchdog
        assert connection is not None  # noqa: S101 - connected before
        assert watchdog is not None  # noqa: S101 - likewise
        milliseconds = max(1, math.ceil((end - time.monotonic()) * 1000))
        try:
            with watchdog.until(end):
                # LOCAL, since behind a pool of connections the session may be another one's next.
                connection.execute(f"BEGIN; SET LOCAL statement_timeout = {milliseconds}".encode())
                try:
                    row = connection.execute(self._query.encode(), (identifier,)).fetchone()
                finally:
                    if not connection.broken:
                        connection.execute("COMMIT")
        except psycopg.errors.UntranslatableCharacter:
            return None  # the database's encoding has no such id
        except psycopg.Error as error:
            if watchdog.has_bitten or isinstance(error, psycopg.errors.QueryCanceled):
                raise Unreachable("no answer in time") from error
            kind = Unreachable if connection.broken else QueryFailed
            raise kind(_about(error)) from error
        return row[0] if row else None

    def _disconnect(self) -> None:
        watchdog, self._watchdog = self._watchdog, None
        connection, self._connection = self._connection, None
        if watchdog is not None:
            watchdog.close()
        if connection is not None:
            connection.close()


def _about(error: psycopg.Error) -> str:
    return f"PostgreSQL: {' '.join(str(error).split())}"
