"""Which store the settings ask for, and how it is made."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from policyd_rate_limit.config.kinds import REDIS
from policyd_rate_limit.const import MYSQL_DB, PGSQL_DB, SQLITE_DB
from policyd_rate_limit.domain.identity import id_of_key
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.domain.limits import LARGEST
from policyd_rate_limit.errors import ConfigError, Problem, SystemRefusal
from policyd_rate_limit.storage.administration import PATIENCE
from policyd_rate_limit.storage.engine import spool_file as journal
from policyd_rate_limit.storage.engine.outage import Fallback
from policyd_rate_limit.storage.log.administration import LogAdministration
from policyd_rate_limit.storage.log.copying import LogCopying
from policyd_rate_limit.storage.log.server import SqlLog
from policyd_rate_limit.storage.log.sqlite.log import SqliteLog
from policyd_rate_limit.storage.log.store import LogStore
from policyd_rate_limit.storage.replica import Memory
from policyd_rate_limit.system.directories import ensure_directory
from policyd_rate_limit.system.throttle import Throttle
from policyd_rate_limit.tables.lookup import SqliteLookup
from policyd_rate_limit.tables.sql import SqlLimits, look_up

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.domain.identity import Rules
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.storage.administration import Administration
    from policyd_rate_limit.storage.copying import Copier
    from policyd_rate_limit.storage.engine.mailbox import Notices
    from policyd_rate_limit.storage.log.contract import Log
    from policyd_rate_limit.storage.record import Record
    from policyd_rate_limit.storage.redis.store import RedisStore
    from policyd_rate_limit.system.accounts import Account
    from policyd_rate_limit.tables.sql import Lookup

LOOKUP_WARNING_SECONDS = 60.0  # between two lines about the same trouble with sql_limits_by_id

_logger = logging.getLogger(__name__)

# Where a database is, and which one of it. No secret is among these.
_PLACE = ("host", "hostaddr", "port", "unix_socket", "db", "dbname", "database", "service_name", "sentinels", "nodes")
# What else may lead to another one: what its journal is named after. The user is not among these, who may be renamed.
_WHICH = (*_PLACE, "prefix", "options", "service", "servicefile", "read_default_file", "read_default_group")
_WITHOUT_PASSWORD = re.compile(r"""(?<=//)[^@/]*@|\bpassword\s*=\s*(?:'(?:\\.|[^'\\])*'|[^\s&]*)""")


def make_store(settings: Settings, rules: Rules, memory: Memory) -> LogStore | RedisStore:
    """The store of ``backend``; nothing is connected yet, but its driver is loaded.

    :raises ConfigError: the driver is not installed, or its options are wrong.
    """
    if settings.backend in _LOGS:
        return _log_store(settings, rules, memory)
    from policyd_rate_limit.storage.redis.store import RedisStore

    return RedisStore(settings.redis_config, memory, longest=longest_window(settings), timeout=settings.db_timeout)


def open_sql_log(settings: Settings) -> SqlLog:
    """A connection to the log of ``backend``, which is one of a server with SQL.

    :raises StoreError: no connection.
    :raises ConfigError: the driver is not installed, or its options are wrong.
    """
    log = _LOGS[settings.backend](settings)()
    assert isinstance(log, SqlLog)  # noqa: S101 - the caller knows
    return log


def open_administration(settings: Settings, rules: Rules) -> Administration:
    """What commands ask of the store, beside the daemons that use it. Nothing is connected before it is asked.

    :raises ConfigError: the driver is not installed, or its options are wrong.
    """
    if settings.backend not in _LOGS:
        from policyd_rate_limit.storage.redis.administration import RedisAdministration

        return RedisAdministration(settings.redis_config, longest=longest_window(settings), timeout=settings.db_timeout)
    memory = Memory(Ledger(settings.max_ids), time.time)
    store = _log_store(settings, rules, memory)
    return LogAdministration(
        partial(store.connect, PATIENCE),
        memory,
        # Which windows a query names is not known here.
        longest=LARGEST if settings.sql_limits_by_id else longest_window(settings),
        key_of_old_id=lambda old_id: rules.keys_of_old_id(old_id)[0],
    )


def make_copier(store: Administration) -> Copier:
    """The counts of ``store``, which :func:`open_administration` has opened, for a copy."""
    if isinstance(store, LogAdministration):
        return LogCopying(store)
    from policyd_rate_limit.storage.redis.administration import RedisAdministration
    from policyd_rate_limit.storage.redis.copying import RedisCopying

    assert isinstance(store, RedisAdministration)  # noqa: S101 - there are no others
    return RedisCopying(store)


def name(settings: Settings) -> str:
    """The name of ``backend``, for people."""
    return _NAMES[settings.backend]


def with_fallback(
    settings: Settings, store: LogStore | RedisStore, memory: Memory, notices: Notices | None = None
) -> Fallback:
    """``store``, and what takes its place while it is away."""
    return Fallback(
        store,
        memory,
        journal_directory=settings.journal_home,
        journal_name=_journal_name(settings),
        former_journal_name=_former_journal_name(settings),
        journal_size=settings.journal_size,
        enforce=settings.db_error_action is None,
        patience=settings.db_timeout,
        monotonic=time.monotonic,
        notices=notices,
        signs=partial(_signs, _database(settings)) if settings.backend == SQLITE_DB else None,
    )


def _signs(database: Path) -> tuple[int, ...] | None:
    """Which file it is, and who may do what with it: neither changes as it is written to."""
    try:
        facts = os.stat(database)  # noqa: PTH116 - for each batch while the database is away: a tenth of the time
    except OSError:
        return None
    return (facts.st_dev, facts.st_ino, facts.st_mode, facts.st_uid, facts.st_gid)


def make_lookup(settings: Settings) -> Lookup | None:
    """The query of ``sql_limits_by_id``, None when there is none; nothing is connected yet.

    :raises ConfigError: ``backend`` has no SQL, its driver is not installed, or its options are wrong.
    """
    query = settings.sql_limits_by_id
    if not query.strip():
        return None
    if settings.backend not in _LOOKUPS:
        place = settings.config_file or "configuration"
        wanted = f"nothing with backend {settings.backend}, which has no SQL; limits_by_id does that"
        raise ConfigError([Problem(place, 0, "sql_limits_by_id", wanted, "a query")])
    return _LOOKUPS[settings.backend](settings)


def make_sql_limits(settings: Settings, lookup: Lookup, store: LogStore | RedisStore, longest: int) -> SqlLimits:
    """What answers from ``lookup`` without holding up the event loop, for ``store`` to decide by.

    ``longest``: the :func:`longest_window` of the configuration.
    """
    assert isinstance(store, LogStore)  # noqa: S101 - the others have no SQL
    return SqlLimits(
        lookup,
        ttl=settings.sql_limits_ttl,
        timeout=settings.db_timeout,
        longest=max(longest, store.reach),
        need=store.need,
        may_log=Throttle(LOOKUP_WARNING_SECONDS, time.monotonic).hit,
    )


def limits_of_counter(lookup: Lookup, counter: str) -> Limits | None:
    """The limits that the query gives to whom ``counter`` counts; None: none, or none that can be understood.

    :raises StoreError: the database does not answer.
    """
    return limits_of_ids(lookup, (id_of_key(counter),))


def limits_of_ids(lookup: Lookup, ids: Sequence[str]) -> Limits | None:
    """The limits that the query gives to the first of ``ids`` that it knows; None as above.

    :raises StoreError: the database does not answer.
    """
    try:
        return look_up(lookup, ids)
    except ValueError as error:
        _logger.warning("sql_limits_by_id for %r: %s; it does not count", ids[0], error)
        return None


def waiting(settings: Settings) -> list[tuple[Path, list[Record]]]:
    """What waits in which journal until the database is back.

    :raises OSError: a journal cannot be read.
    """
    name, former_name = _journal_name(settings), _former_journal_name(settings)
    return list(journal.waiting(settings.journal_home, name, former_name=former_name))


def check_access(settings: Settings) -> None:
    """See that a database file that is there may be written to; SQLite's own words for that are a riddle.

    :raises SystemRefusal: it may not.
    """
    if settings.backend != SQLITE_DB:
        return
    database = _database(settings)
    for path in (database, database.parent):
        if os.path.lexists(path) and not os.access(path, os.R_OK | os.W_OK):
            raise SystemRefusal(
                f"{path} may not be written to by uid {os.geteuid()}: run this as root or as {settings.user}, "
                "to whom it should belong"
            )


def describe(settings: Settings) -> str:
    """Which database it is, without secrets: ``SQLite /var/lib/policyd-rate-limit/db.sqlite3``."""
    if settings.backend == SQLITE_DB:
        return f"{name(settings)} {_database(settings)}"
    place = _place(settings)
    of_url = dict(zip(("host", "port", "path"), place.pop("url"), strict=True))
    said = " ".join(f"{option}={value}" for option, value in {**of_url, **place}.items() if value)
    return f"{name(settings)} {said}"


def state_directories(settings: Settings) -> tuple[Path, ...]:
    """The directories that the store writes to."""
    if settings.backend == SQLITE_DB:
        return (_database(settings).parent, settings.journal_home)
    return (settings.journal_home,)


def make_state_directories(settings: Settings, account: Account | None) -> None:
    """Make the directories that the store writes to, for ``account``, as far as they are missing and can be made."""
    for directory in state_directories(settings):
        try:
            ensure_directory(directory, account)
        except SystemRefusal as refusal:
            # The daemon starts without a database, and tries again.
            _logger.warning("%s", refusal)


def _log_store(settings: Settings, rules: Rules, memory: Memory) -> LogStore:
    return LogStore(
        _LOGS[settings.backend](settings),
        memory,
        longest=longest_window(settings),
        counters_of_old_id=rules.keys_of_old_id,
        # Which windows a query will name is not known yet.
        carried=LARGEST if settings.sql_limits_by_id else None,
    )


def _sqlite(settings: Settings) -> Callable[[], Log]:
    return partial(SqliteLog, _database(settings), time.time, settings.db_timeout)


def _mysql(settings: Settings) -> Callable[[], Log]:
    from policyd_rate_limit.storage.log import mysql

    mysql.connection_options(settings.mysql_config)
    return partial(mysql.MysqlLog, settings.mysql_config, settings.db_timeout)


def _postgresql(settings: Settings) -> Callable[[], Log]:
    from policyd_rate_limit.storage.log import postgresql

    postgresql.connection_options(settings.pgsql_config)
    return partial(postgresql.PostgresqlLog, settings.pgsql_config, settings.db_timeout)


def _sqlite_lookup(settings: Settings) -> Lookup:
    return SqliteLookup(_database(settings), settings.sql_limits_by_id, settings.db_timeout)


def _mysql_lookup(settings: Settings) -> Lookup:
    from policyd_rate_limit.tables.mysql import MysqlLookup

    return MysqlLookup(settings.mysql_config, settings.sql_limits_by_id, settings.db_timeout)


def _postgresql_lookup(settings: Settings) -> Lookup:
    from policyd_rate_limit.tables.postgresql import PostgresqlLookup

    return PostgresqlLookup(settings.pgsql_config, settings.sql_limits_by_id, settings.db_timeout)


# The drivers of the others are extras, and are loaded only where they are asked for.
_LOGS: Mapping[int | str, Callable[[Settings], Callable[[], Log]]] = {
    SQLITE_DB: _sqlite,
    MYSQL_DB: _mysql,
    PGSQL_DB: _postgresql,
}
_LOOKUPS: Mapping[int | str, Callable[[Settings], Lookup]] = {
    SQLITE_DB: _sqlite_lookup,
    MYSQL_DB: _mysql_lookup,
    PGSQL_DB: _postgresql_lookup,
}
_NAMES: Mapping[int | str, str] = {SQLITE_DB: "SQLite", MYSQL_DB: "MySQL", PGSQL_DB: "PostgreSQL", REDIS: "Redis"}
_SERVERS: Mapping[int | str, str] = {MYSQL_DB: "mysql_config", PGSQL_DB: "pgsql_config", REDIS: "redis_config"}


def longest_window(settings: Settings) -> int:
    """Of the configuration, in seconds."""
    limits_in_use = (settings.limits, *settings.limits_by_id.values())
    return max((limit.seconds for limits in limits_in_use for limit in limits), default=1)


def _database(settings: Settings) -> Path:
    return Path(settings.sqlite_config["database"]).absolute()


def _journal_name(settings: Settings) -> str:
    """What tells the journals of one database from those of another in the same directory.

    It is what the configuration says about the place. Two databases may still share it, and one may have two of them:
    the identity that is kept in the database decides, as soon as it is known.
    """
    if settings.backend == SQLITE_DB:
        path = _database(settings)
        # Beside the file its name is enough, and whoever looks into the directory sees what belongs together.
        return path.name if settings.journal_directory is None else f"{path.name}-{_digest(str(path))}"
    options: dict[str, Any] = getattr(settings, _SERVERS[settings.backend])
    which = {option: options[option] for option in _WHICH if option in options}
    which["dsn"] = _WITHOUT_PASSWORD.sub("", str(options.get("dsn", "")))
    url = urlsplit(str(options.get("url", "")))
    which["url"] = (url.hostname, url.port, url.path, _WITHOUT_PASSWORD.sub("", url.query))
    return _named_after(settings, which)


def _former_journal_name(settings: Settings) -> str:
    """The same, in the version before."""
    return _journal_name(settings) if settings.backend == SQLITE_DB else _named_after(settings, _place(settings))


def _named_after(settings: Settings, place: Mapping[str, Any]) -> str:
    name = _SERVERS[settings.backend].removesuffix("_config")
    return f"{name}-{_digest(json.dumps(place, sort_keys=True, default=str))}"


def _place(settings: Settings) -> dict[str, Any]:
    """Where the database is, and which one of the server it is."""
    options: dict[str, Any] = getattr(settings, _SERVERS[settings.backend])
    place = {option: options[option] for option in _PLACE if option in options}
    url = urlsplit(str(options.get("url", "")))
    place["url"] = (url.hostname, url.port, url.path)
    return place


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()
