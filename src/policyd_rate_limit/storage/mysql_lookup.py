"""The query of ``sql_limits_by_id`` in MySQL or MariaDB."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from policyd_rate_limit.storage import mysql
from policyd_rate_limit.storage.sql_limits import QueryFailed, Unreachable
from policyd_rate_limit.storage.sql_lookup import SqlLookup

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pymysql

    from policyd_rate_limit.storage.watchdog import Watchdog


class MysqlLookup(SqlLookup):
    """See :class:`SqlLookup`. Placeholder: ``%s``; any other ``%`` is doubled.

    ``config``: the keyword arguments of MySQLdb.connect.
    """

    def __init__(self, config: Mapping[str, Any], query: str, timeout: float) -> None:
        super().__init__(query, timeout)
        self._config = config
        self._connection: pymysql.Connection[pymysql.cursors.Cursor] | None = None
        self._watchdog: Watchdog | None = None

    def _connect(self, end: float) -> None:
        try:
            options = mysql.connection_options(self._config)
            if options.connect_timeout:
                end = min(end, time.monotonic() + options.connect_timeout)
            self._connection, self._watchdog = mysql.connect(options, end)
        except Exception as error:
            # A peer that is no MySQL server makes PyMySQL fail in any way.
            raise Unreachable(_about(error)) from error

    def _ask(self, identifier: str, end: float) -> object:
        connection, watchdog = self._connection, self._watchdog
        assert connection is not None  # noqa: S101 - connected before
        assert watchdog is not None  # noqa: S101 - likewise
        try:
            with watchdog.until(end), connection.cursor() as cursor:
                cursor.execute(self._query, (identifier,))
                row = cursor.fetchone()
        except Exception as error:
            if watchdog.has_bitten:
                raise Unreachable("MySQL: no answer in time") from error
            kind = QueryFailed if connection.open else Unreachable
            raise kind(_about(error)) from error
        return row[0] if row else None

    def _disconnect(self) -> None:
        watchdog, self._watchdog = self._watchdog, None
        connection, self._connection = self._connection, None
        if watchdog is not None:
            watchdog.close()
        if connection is not None:
            connection.close()


def _about(error: Exception) -> str:
    code, message = error.args[:2] if len(error.args) > 1 else ("", str(error) or type(error).__name__)
    return f"MySQL: {' '.join(str(message).split())}{f' ({code})' if code else ''}"
