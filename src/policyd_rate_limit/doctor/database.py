"""Whether the database is there, and lets the daemon do what it does. Nothing is written.

What the daemon may do is tried, each time on no row at all: databases look at rights before they look at rows.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from policyd_rate_limit import stores
from policyd_rate_limit.config.kinds import REDIS
from policyd_rate_limit.config.remarks import wrong_query
from policyd_rate_limit.const import MYSQL_DB, PGSQL_DB, SQLITE_DB
from policyd_rate_limit.doctor.child import run_as
from policyd_rate_limit.doctor.finding import Finding, Severity, error, ok, warning
from policyd_rate_limit.errors import ConfigError, StoreError, UnknownAccount
from policyd_rate_limit.system import accounts
from policyd_rate_limit.tables.sql import look_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.system.accounts import Account

PATIENCE = 10.0
"""Seconds that the database may take for all that is asked of it, beside ``db_timeout``."""

LEAST_FREE = 64 << 20
"""Bytes that should be free beside what the journal may take: a write-ahead log at its longest."""

LARGEST_DIFFERENCE = 10.0
"""Seconds between the clocks of this host and of the database, beyond which one of them is wrong."""

_AWAY = "Limits are enforced from memory meanwhile, by each daemon for itself."


def examine(settings: Settings) -> Iterator[Finding]:
    """What the daemon, as its own account, finds."""
    account = None
    try:
        owner = accounts.resolve(settings.user, settings.group)
    except UnknownAccount as unknown:
        place = settings.config_file or "configuration"
        mend = f"adduser --system --group --no-create-home {settings.user}"
        yield error("account", place, str(unknown), "The daemon does not start as root.", mend)
        return
    if os.geteuid() == 0:
        account = owner
    if os.geteuid() in (0, owner.uid):
        yield from _journal(settings, account)
    if settings.backend != SQLITE_DB:
        found = _server(settings, account)
    elif os.geteuid() in (0, owner.uid):
        found = _sqlite(settings, account)
    else:
        return
    findings = list(found)
    yield from findings
    if settings.sql_limits_by_id and all(finding.severity is Severity.OK for finding in findings):
        yield from _query(settings, account)


def _query(settings: Settings, account: Account | None) -> Iterator[Finding]:
    """Whether ``sql_limits_by_id`` can be asked."""
    if wrong_query(settings) is not None:  # which doctor.settings has found
        return
    place = settings.config_file or "configuration"
    try:
        run_as(account, partial(_ask_for_limits, settings), settings.db_timeout + PATIENCE)
    except (OSError, ValueError) as failure:
        why = "The limits that it should give do not hold: those of limits_by_id and limits do."
        yield error(
            "sql-limits", place, f"sql_limits_by_id fails: {failure}", why, "docs/sql-limits.md says what it needs"
        )
    else:
        yield ok("sql-limits", place, "sql_limits_by_id can be asked")


def _ask_for_limits(settings: Settings) -> None:
    """Ask for the limits of nobody. Raises ValueError when that fails."""
    try:
        lookup = stores.make_lookup(settings)
        if lookup is not None:
            with contextlib.closing(lookup):
                look_up(lookup, ("nobody@doctor.invalid",))
    except (StoreError, ConfigError) as failure:
        raise ValueError(str(failure)) from failure


def _journal(settings: Settings, account: Account | None) -> Iterator[Finding]:
    directory = settings.journal_home
    if not directory.is_dir():
        return  # the daemon makes it
    free = shutil.disk_usage(directory).free
    needed = settings.journal_size + LEAST_FREE
    if free < needed:
        yield warning(
            "disk-space",
            str(directory),
            f"{free >> 20} MiB are free",
            f"The database and the journal need {needed >> 20} MiB; on a full disk nothing more can be counted.",
            f"df -h {directory}",
        )
    yield from _may_write(directory, os.W_OK | os.X_OK, account)


def _sqlite(settings: Settings, account: Account | None) -> Iterator[Finding]:
    path = Path(settings.sqlite_config["database"]).absolute()
    if not path.parent.is_dir():
        yield ok("database", str(path), "not there yet: the daemon makes it")
        return
    if path.parent != settings.journal_home:
        yield from _may_write(path.parent, os.W_OK | os.X_OK, account)
    wrong = [
        finding
        for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm"))
        if file.exists()
        for finding in _may_write(file, os.R_OK | os.W_OK, account)
    ]
    yield from wrong
    if wrong or not path.exists():
        return
    try:
        tables = run_as(account, partial(_sqlite_tables, path), PATIENCE)
    except (OSError, ValueError) as failure:
        yield error("database", str(path), str(failure), _AWAY, f"sqlite3 {path} 'PRAGMA integrity_check'")
    else:
        yield ok("database", str(path), "can be read" if tables else "can be read; the daemon has not used it yet")


def _sqlite_tables(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=PATIENCE / 2)) as database:
        (count,) = database.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'policyd_batch'").fetchone()
        if count:
            database.execute("SELECT max(seq) FROM policyd_batch").fetchone()
        return int(count)


def _may_write(path: Path, mode: int, account: Account | None) -> Iterator[Finding]:
    """What is wrong with the rights to a file or a directory."""
    if run_as(account, partial(os.access, path, mode), PATIENCE):
        return
    facts = path.stat()
    who = account.user if account else "this user"
    yield error(
        "database-rights",
        str(path),
        f"{who} may not write to it: it belongs to uid {facts.st_uid}, with mode {facts.st_mode & 0o7777:04o}",
        "The daemon cannot count there. " + _AWAY,
        f"chown {account.uid}:{account.gid} {path}" if account else f"chmod u+w {path}",
    )


def _server(settings: Settings, account: Account | None) -> Iterator[Finding]:
    place = _SETTINGS[settings.backend]
    probe = _redis if place == "redis_config" else _sql
    try:
        told = run_as(account, partial(probe, settings), 4 * settings.db_timeout + PATIENCE)
    except (OSError, ValueError) as failure:
        yield error(
            "database",
            place,
            str(failure),
            _AWAY,
            f"policyd-rate-limit --get-config {place}   # and see the server's log",
        )
        return
    refused, difference, risks, unlisted = told
    if refused:
        yield error("database-rights", place, refused, f"The daemon cannot count there. {_AWAY}", _GRANTS[place])
    else:
        yield ok("database", place, "reachable, and the rights suffice")
    if unlisted:
        yield warning(
            "database-rights",
            place,
            unlisted,
            "The daemon counts all the same; `top` and `status` cannot say who sends.",
            "ACL SETUSER USER +scan",
        )
    for risk in risks:
        yield warning("database-durability", place, risk, "What was counted may be forgotten.", _DURABLE)
    if abs(difference) > LARGEST_DIFFERENCE:
        yield warning(
            "database-clock",
            place,
            f"the database's clock is {abs(difference):.0f} s {'ahead of' if difference > 0 else 'behind'} this host's",
            "Windows are measured by the database's clock, and by this host's while the database is away.",
            "apt install chrony   # on the host whose clock is wrong",
        )


_SETTINGS = {MYSQL_DB: "mysql_config", PGSQL_DB: "pgsql_config", REDIS: "redis_config"}
_GRANTS = {
    "mysql_config": "GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON DATABASE.* TO 'USER'@'HOST';",
    "pgsql_config": 'ALTER SCHEMA public OWNER TO "USER";   -- and of tables that are there: ALTER TABLE ... OWNER TO',
    "redis_config": "ACL SETUSER USER ~policyd:* +select +time +script|exists +script|load +evalsha +scan"
    " +hget +hmget +hgetall +hkeys +hexists +hset +hsetnx +hdel +get +set +del +exists +type +expire",
}
_DURABLE = (
    "CONFIG SET appendonly yes\nCONFIG SET appendfsync always\nCONFIG SET maxmemory-policy noeviction\nCONFIG REWRITE"
)

Told = tuple[str, float, list[str], str]
"""What is refused, or empty; the :func:`least_difference` of its clock; what puts counts at risk; why commands may not
list ids, or empty."""


def least_difference(told: float, before: float, after: float) -> float:
    """Seconds that a clock is ahead of this host's at the least; negative: behind.

    It was ``told`` when here it was some time from ``before`` to ``after`` (Unix seconds, all three): an answer that
    takes long is no difference.
    """
    return max(0.0, told - after) + min(0.0, told - before)


def _sql(settings: Settings) -> Told:
    """Ask PostgreSQL or MySQL. Raises ValueError when it is away."""
    try:
        with contextlib.closing(stores.open_sql_log(settings)) as log:
            before = time.time()
            difference = least_difference(log.time(), before, time.time())
            try:
                log.try_rights(settings.db_timeout)
            except StoreError as refusal:
                return str(refusal), difference, [], ""
            return "", difference, [], ""
    except (StoreError, ConfigError) as failure:
        raise ValueError(str(failure)) from failure


def _redis(settings: Settings) -> Told:
    """Ask Redis. Raises ValueError when it is away."""
    from policyd_rate_limit.storage.redis.keys import keys_of
    from policyd_rate_limit.storage.redis.node import Command, script
    from policyd_rate_limit.storage.redis.topology import Servers

    key = f"{keys_of(settings.redis_config).prefix}:doctor".encode()
    clock = Command(None, "TIME")
    # There is no such key: nothing is deleted, and nothing is to expire. And the script is asked to decide nothing.
    tries = [
        Command(key, "HGETALL", key),
        Command(key, "HDEL", key, "x"),
        Command(key, "DEL", key),
        Command(key, "EXISTS", key),
        Command(key, "TYPE", key),
        Command(key, "EXPIRE", key, 1),
        script([key], (b"\0" * 8, 0, 0, "")),
    ]
    try:
        with contextlib.closing(Servers(settings.redis_config, settings.db_timeout).connect()) as session:
            before = time.time()
            refusal = session.exchange([clock, *tries], time.monotonic() + settings.db_timeout)
            after = time.time()
            risks = list(session.warnings)
            listing = Command(None, "SCAN", 0, "COUNT", 1)
            unlisted = session.exchange([listing], time.monotonic() + settings.db_timeout)
    except (StoreError, ConfigError) as failure:
        raise ValueError(str(failure)) from failure
    difference = 0.0
    if clock.reply:
        seconds, microseconds = map(int, clock.reply)
        difference = least_difference(seconds + microseconds / 1e6, before, after)
    return str(refusal or ""), difference, risks, "" if refusal else str(unlisted or "")
