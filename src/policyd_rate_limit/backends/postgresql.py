"""PostgreSQL. Its driver is an extra, and is loaded only where it is asked for."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from policyd_rate_limit.backends.server import SqlServerBackend
from policyd_rate_limit.config.databases import DATABASES
from policyd_rate_limit.const import PGSQL_DB

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.storage.log.postgresql import PostgresqlLog
    from policyd_rate_limit.tables.postgresql import PostgresqlLookup


class PostgresqlBackend(SqlServerBackend):
    """A database on a server of PostgreSQL."""

    database = DATABASES[PGSQL_DB]
    grants = 'ALTER SCHEMA public OWNER TO "USER";   -- and of tables that are there: ALTER TABLE ... OWNER TO'

    def log(self) -> Callable[[], PostgresqlLog]:
        from policyd_rate_limit.storage.log import postgresql

        postgresql.connection_options(self.options)
        return partial(postgresql.PostgresqlLog, self.options, self.settings.db_timeout)

    def lookup(self, query: str) -> PostgresqlLookup:
        from policyd_rate_limit.tables.postgresql import PostgresqlLookup

        return PostgresqlLookup(self.options, query, self.settings.db_timeout)
