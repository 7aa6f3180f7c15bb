"""MySQL and MariaDB. Their driver is an extra, and is loaded only where it is asked for."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from policyd_rate_limit.backends.server import SqlServerBackend
from policyd_rate_limit.config.databases import DATABASES
from policyd_rate_limit.const import MYSQL_DB

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.storage.log.mysql.log import MysqlLog
    from policyd_rate_limit.tables.mysql import MysqlLookup


class MysqlBackend(SqlServerBackend):
    """A database on a server of MySQL or MariaDB."""

    database = DATABASES[MYSQL_DB]
    grants = "GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON DATABASE.* TO 'USER'@'HOST';"

    def log(self) -> Callable[[], MysqlLog]:
        from policyd_rate_limit.storage.log.mysql.log import MysqlLog
        from policyd_rate_limit.storage.log.mysql.options import connection_options

        connection_options(self.options)
        return partial(MysqlLog, self.options, self.settings.db_timeout)

    def lookup(self, query: str) -> MysqlLookup:
        from policyd_rate_limit.tables.mysql import MysqlLookup

        return MysqlLookup(self.options, query, self.settings.db_timeout)
