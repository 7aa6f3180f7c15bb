"""The query of ``sql_limits_by_id`` in MySQL or MariaDB."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pymysql

from policyd_rate_limit.storage.log.mysql.connecting import connect
from policyd_rate_limit.storage.log.mysql.options import connection_options
from policyd_rate_limit.tables.lookup import ServerLookup

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from policyd_rate_limit.storage.watchdog import Watchdog

    Connection = pymysql.Connection[pymysql.cursors.Cursor]


class MysqlLookup(ServerLookup["Connection"]):
    """Asks the query in MySQL or MariaDB.

    ``config``: the keyword arguments of MySQLdb.connect.
    """

    errors = Exception  # a peer that is no MySQL server makes PyMySQL fail in any way

    def __init__(self, config: Mapping[str, Any], query: str, timeout: float) -> None:
        super().__init__(query, timeout)
        self._config = config

    def _open(self, end: float) -> tuple[Connection, Watchdog]:
        options = connection_options(self._config)
        if options.connect_timeout:
            end = min(end, time.monotonic() + options.connect_timeout)
        return connect(options, end)

    def _first_row(
        self,
        connection: Connection,
        identifier: str,
        end: float,  # noqa: ARG002 - MySQL and MariaDB have no bound in common; the watchdog holds it
    ) -> Sequence[Any] | None:
        with connection.cursor() as cursor:
            cursor.execute(self._query, (identifier,))
            return cursor.fetchone()

    def _is_open(self, connection: Connection) -> bool:
        return connection.open

    def _about(self, error: Exception) -> str:
        code, message = error.args[:2] if len(error.args) > 1 else ("", str(error) or type(error).__name__)
        return f"MySQL: {' '.join(str(message).split())}{f' ({code})' if code else ''}"
