"""PostgreSQL. Its driver is an extra, and is loaded only where it is asked for."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from policyd_rate_limit.backends.server import SqlServerBackend
from policyd_rate_limit.config.databases import DATABASES
from policyd_rate_limit.const import PGSQL_DB
from policyd_rate_limit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from policyd_rate_limit.storage.log.postgresql.log import PostgresqlLog
    from policyd_rate_limit.tables.postgresql import PostgresqlLookup


class PostgresqlBackend(SqlServerBackend):
    """A database on a server of PostgreSQL."""

    database = DATABASES[PGSQL_DB]
    grants = 'ALTER SCHEMA public OWNER TO "USER";   -- and of tables that are there: ALTER TABLE ... OWNER TO'

    def log(self) -> Callable[[], PostgresqlLog]:
        from policyd_rate_limit.storage.log.postgresql.log import PostgresqlLog
        from policyd_rate_limit.storage.log.postgresql.options import connection_options

        connection_options(self.options)
        return partial(PostgresqlLog, self.options, self.settings.db_timeout)

    def place_of_dsn(self) -> Mapping[str, str]:
        try:
            from policyd_rate_limit.storage.log.postgresql.options import place_of_dsn

            return place_of_dsn(self.options)
        except ConfigError:  # of which whoever connects will tell
            return {}

    def lookup(self, query: str) -> PostgresqlLookup:
        from policyd_rate_limit.tables.postgresql import PostgresqlLookup

        return PostgresqlLookup(self.options, query, self.settings.db_timeout)
