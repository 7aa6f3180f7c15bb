"""The query of ``sql_limits_by_id`` in PostgreSQL."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import psycopg

from policyd_rate_limit.storage.log.postgresql.options import connection_options
from policyd_rate_limit.storage.watchdog import Watchdog
from policyd_rate_limit.tables.lookup import ServerLookup

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Connection = psycopg.Connection[tuple[object, ...]]


class PostgresqlLookup(ServerLookup["Connection"]):
    """Asks the query in PostgreSQL.

    ``config``: the keyword arguments of psycopg2.connect.

    :raises ConfigError: an option of ``config`` is none.
    """

    errors = psycopg.Error
    cancelled = (psycopg.errors.QueryCanceled,)

    def __init__(self, config: Mapping[str, Any], query: str, timeout: float) -> None:
        super().__init__(query, timeout)
        self._options = connection_options(config)

    def _open(self, end: float) -> tuple[Connection, Watchdog]:
        # libpq knows no fractions, and no second below two.
        seconds = max(2, math.ceil(end - time.monotonic()))
        given = float(self._options.get("connect_timeout", 0))
        options: dict[str, Any] = {
            **self._options,
            "connect_timeout": math.ceil(min(seconds, given)) if given > 0 else seconds,
            "client_encoding": "utf8",
        }
        connection = psycopg.connect(**options, autocommit=True, prepare_threshold=None)
        return connection, Watchdog(connection.fileno())

    def _first_row(self, connection: Connection, identifier: str, end: float) -> Sequence[Any] | None:
        milliseconds = max(1, math.ceil((end - time.monotonic()) * 1000))
        # LOCAL, since behind a pool of connections the session may be another one's next.
        connection.execute(f"BEGIN; SET LOCAL statement_timeout = {milliseconds}".encode())
        try:
            return connection.execute(self._query.encode(), (identifier,)).fetchone()
        except psycopg.errors.UntranslatableCharacter:
            return None  # the database's encoding has no such id
        finally:
            if not connection.broken:
                connection.execute("COMMIT")

    def _is_open(self, connection: Connection) -> bool:
        return not connection.broken

    def _about(self, error: Exception) -> str:
        return f"PostgreSQL: {' '.join(str(error).split())}"
