"""The process, its database, and the connection with Postfix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from policyd_rate_limit.config.kind import seconds, unset_or, whole
from policyd_rate_limit.config.kinds import (
    ACTION,
    BACKEND,
    DRIVER_OPTIONS,
    FLAG,
    LINE,
    LISTEN_ADDRESS,
    LOG_FORMAT,
    LOG_LEVEL,
    LOG_TO,
    LONGEST_DELAY,
    PATH,
    PERMISSION,
    REDIS_OPTIONS,
    SQLITE_OPTIONS,
)
from policyd_rate_limit.config.setting import Declared, setting
from policyd_rate_limit.const import SQLITE_DB

STATE_DIRECTORY = "/var/lib/policyd-rate-limit"
"""Where the daemon keeps what must survive a restart."""


@dataclass(frozen=True, init=False)
class ProcessSettings(Declared):
    """The process, its database, and the connection with Postfix."""

    debug: bool = setting(
        FLAG,
        True,
        """
        Log each request and each decision. Off: who runs into a limit, once a minute for each id, and what is
        wrong.
        """,
        reload=True,
        heading="The process",
    )
    log_to: str = setting(
        LOG_TO,
        "stderr",
        """
        Where the log of the daemon goes: stderr, syslog (facility mail), or journald, where each field of a line
        is a field of systemd's journal.
        """,
        reload=True,
    )
    log_format: str = setting(
        LOG_FORMAT,
        "text",
        "The form of its lines: text, with decisions as key=value, or json.",
        reload=True,
    )
    log_level: str | None = setting(
        unset_or(LOG_LEVEL),
        None,
        """
        The least severe of what is logged: debug (each decision), info (refusals), warning or error. Unset:
        debug where debug above is on, else info.
        """,
        reload=True,
    )
    metrics_address: str | tuple[str, int] | None = setting(
        unset_or(LISTEN_ADDRESS),
        None,
        """
        Where metrics for Prometheus are served, at /metrics, and the state of health, at /healthz: [ip, port], such
        as [127.0.0.1, 9645], or the path of a UNIX socket, which the group above may use. Whoever may connect may
        read. Unset: nowhere.
        """,
    )
    user: str = setting(
        LINE,
        "policyd-rate-limit",
        "The user to become when started as root.",
    )
    group: str = setting(
        LINE,
        "policyd-rate-limit",
        "The group to become when started as root.",
    )
    pidfile: str = setting(
        PATH,
        "/var/run/policyd-rate-limit/policyd-rate-limit.pid",
        """
        Where the daemon writes its process id. The directory is made, for the user above, when it is missing.
        """,
    )

    backend: int | str = setting(
        BACKEND,
        SQLITE_DB,
        """
        The database that keeps the counts: 0 or sqlite, 1 or mysql, 2 or postgresql, or redis. The options of
        the one in use are read, the others are left alone.
        """,
        heading="The database",
    )
    sqlite_config: dict[str, Any] = setting(
        SQLITE_OPTIONS,
        {"database": f"{STATE_DIRECTORY}/db.sqlite3"},
        "The SQLite database: the path of its file.",
        secret=True,
        may_be_empty=True,
    )
    mysql_config: dict[str, Any] = setting(
        DRIVER_OPTIONS,
        {"user": "username", "passwd": "*****", "db": "database", "host": "localhost", "charset": "utf8"},
        "How to connect to MySQL or MariaDB: the keyword arguments of MySQLdb.connect.",
        secret=True,
        may_be_empty=True,
    )
    pgsql_config: dict[str, Any] = setting(
        DRIVER_OPTIONS,
        {"database": "database", "user": "username", "password": "*****", "host": "localhost"},
        "How to connect to PostgreSQL: the keyword arguments of psycopg2.connect.",
        secret=True,
        may_be_empty=True,
    )
    redis_config: dict[str, Any] = setting(
        REDIS_OPTIONS,
        {"url": "redis://localhost:6379/0"},
        "How to connect to Redis or Valkey: its url, and cluster: true where it is a Cluster.",
        secret=True,
        may_be_empty=True,
    )
    db_timeout: float = setting(
        seconds(0, 60),
        2.0,
        "How long the database may take before it counts as being away.",
        unit="seconds",
    )
    db_error_action: str | None = setting(
        unset_or(ACTION),
        None,
        """
        The answer while the database is away: an action of access(5). Unset, the limits stay enforced from
        memory, and what is admitted meanwhile is kept in a spool until the database is back.
        """,
        reload=True,
    )
    journal_directory: str | None = setting(
        unset_or(PATH),
        None,
        f"""
        The directory of the spool, which keeps what is admitted while the database is away. Unset: the directory of
        the SQLite database, and {STATE_DIRECTORY} for the other databases.
        """,
    )
    journal_size: int = setting(
        whole(1 << 20, 1 << 40),
        32 << 20,
        "The most that the spool may hold.",
        unit="bytes",
    )
    max_ids: int = setting(
        whole(1, 1_000_000_000),
        2_000_000,
        """
        The most ids that have a counter of their own in memory. Ids beyond it share some counters, so that
        they may be limited too early, never too late.
        """,
    )

    SOCKET: str | tuple[str, int] = setting(
        LISTEN_ADDRESS,
        "/var/spool/postfix/ratelimit/policy",
        """
        Where Postfix connects: the path of a UNIX socket, whose directory is made, for the user above, when
        it is missing; or [ip, port], IPv4 or IPv6. Sockets that systemd has made for the daemon are served in
        its place.
        """,
        heading="The connection with Postfix",
    )
    socket_permission: int = setting(
        PERMISSION,
        0o666,
        "The permissions of the UNIX socket, unless systemd has made it.",
        may_be_empty=True,
    )
    delay_to_close: float = setting(
        seconds(0, LONGEST_DELAY),
        300,
        "How long a connection may be idle before it is closed.",
        unit="seconds",
        reload=True,
        may_be_empty=True,
    )
