"""Which store the settings ask for, and how it is made."""

from __future__ import annotations

import hashlib
import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from policyd_rate_limit.const import MYSQL_DB, PGSQL_DB, SQLITE_DB
from policyd_rate_limit.storage.fallback import Fallback
from policyd_rate_limit.storage.log_store import LogStore
from policyd_rate_limit.storage.sqlite import SqliteLog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.domain.identity import Rules
    from policyd_rate_limit.storage.log import Log
    from policyd_rate_limit.storage.memory import Memory
    from policyd_rate_limit.storage.redis import RedisStore

# Where a database is, and which one of it: what its journal is named after. No secret is among these.
_PLACE = ("host", "hostaddr", "port", "unix_socket", "db", "dbname", "database", "service_name", "sentinels", "nodes")


def make_store(settings: Settings, rules: Rules, memory: Memory) -> LogStore | RedisStore:
    """The store of ``backend``; nothing is connected yet, but its driver is loaded.

    :raises ConfigError: the driver is not installed, or its options are wrong.
    """
    limits_in_use = (settings.limits, *settings.limits_by_id.values())
    longest = max((limit.seconds for limits in limits_in_use for limit in limits), default=1)
    if settings.backend in _LOGS:
        open_log = _LOGS[settings.backend](settings)
        return LogStore(open_log, memory, longest=longest, counters_of_old_id=rules.keys_of_old_id)
    from policyd_rate_limit.storage.redis import RedisStore

    return RedisStore(settings.redis_config, memory, longest=longest, timeout=settings.db_timeout)


def with_fallback(settings: Settings, store: LogStore | RedisStore, memory: Memory) -> Fallback:
    """``store``, and what takes its place while it is away."""
    return Fallback(
        store,
        memory,
        journal_directory=settings.journal_home,
        journal_name=_journal_name(settings),
        journal_size=settings.journal_size,
        enforce=settings.db_error_action is None,
        patience=settings.db_timeout,
        monotonic=time.monotonic,
    )


def state_directories(settings: Settings) -> tuple[Path, ...]:
    """The directories that the store writes to."""
    if settings.backend == SQLITE_DB:
        return (_database(settings).parent, settings.journal_home)
    return (settings.journal_home,)


def _sqlite(settings: Settings) -> Callable[[], Log]:
    return partial(SqliteLog, _database(settings), time.time)


def _mysql(settings: Settings) -> Callable[[], Log]:
    from policyd_rate_limit.storage import mysql

    mysql.connection_options(settings.mysql_config)
    return partial(mysql.MysqlLog, settings.mysql_config, settings.db_timeout)


def _postgresql(settings: Settings) -> Callable[[], Log]:
    from policyd_rate_limit.storage import postgresql

    postgresql.connection_options(settings.pgsql_config)
    return partial(postgresql.PostgresqlLog, settings.pgsql_config, settings.db_timeout)


# The drivers of the others are extras, and are loaded only where they are asked for.
_LOGS: Mapping[int | str, Callable[[Settings], Callable[[], Log]]] = {
    SQLITE_DB: _sqlite,
    MYSQL_DB: _mysql,
    PGSQL_DB: _postgresql,
}
_SERVERS: Mapping[int | str, str] = {MYSQL_DB: "mysql_config", PGSQL_DB: "pgsql_config"}


def _database(settings: Settings) -> Path:
    return Path(settings.sqlite_config["database"]).absolute()


def _journal_name(settings: Settings) -> str:
    """What tells the journals of one database from those of another in the same directory."""
    if settings.backend == SQLITE_DB:
        return _database(settings).name
    name = _SERVERS.get(settings.backend, "redis_config")
    options: dict[str, Any] = getattr(settings, name)
    place = {option: options[option] for option in _PLACE if option in options}
    url = urlsplit(str(options.get("url", "")))
    place["url"] = (url.hostname, url.port, url.path)
    text = json.dumps(place, sort_keys=True, default=str)
    return f"{name.removesuffix('_config')}-{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}"
