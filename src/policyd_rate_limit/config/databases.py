"""The databases that may keep the counts, as far as the configuration has to know them; one line for each.

What is done with them is in :mod:`policyd_rate_limit.backends`.
"""

from __future__ import annotations

from typing import NamedTuple

from policyd_rate_limit.const import MYSQL_DB, PGSQL_DB, SQLITE_DB

REDIS = "redis"
"""The ``backend`` that has no number."""


class Database(NamedTuple):
    """A database: ``backend`` is the value of that setting, ``spellings`` are its other ones.

    ``setting`` names the setting of its options. ``placeholder`` stands for the id in ``sql_limits_by_id``, as its
    driver has it; None: it has no SQL.
    """

    backend: int | str
    name: str
    spellings: tuple[str, ...]
    setting: str
    placeholder: str | None


DATABASES = {
    database.backend: database
    for database in (
        Database(SQLITE_DB, "SQLite", ("sqlite", "sqlite3"), "sqlite_config", "?"),
        Database(MYSQL_DB, "MySQL", ("mysql", "mariadb"), "mysql_config", "%s"),
        Database(PGSQL_DB, "PostgreSQL", ("postgresql", "postgres", "pgsql"), "pgsql_config", "%s"),
        Database(REDIS, "Redis", ("redis",), "redis_config", None),
    )
}
"""All of them, by ``backend``."""
