"""Every setting, declared once.

The sample files, the documentation's table of settings and the messages about wrong values are made from this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from policyd_rate_limit.config.kinds import (
    ACTION,
    ARGUMENTS,
    BACKEND,
    COUNT_MODE,
    CREDENTIALS,
    DRIVER_OPTIONS,
    FLAG,
    LIMITS,
    LIMITS_BY_ID,
    LINE,
    LISTEN_ADDRESS,
    LOG_FORMAT,
    LOG_LEVEL,
    LOG_TO,
    LONGEST_DELAY,
    NETWORKS,
    PATH,
    PERIODS,
    PERMISSION,
    QUERY,
    RECIPIENTS,
    REDIS_OPTIONS,
    SECRET,
    SENDER,
    SERVER,
    SQLITE_OPTIONS,
    URL,
    Kind,
    seconds,
    unset_or,
    whole,
)
from policyd_rate_limit.config.rule_kind import RULES
from policyd_rate_limit.config.rules import RuleSettings
from policyd_rate_limit.config.setting import Declared, setting
from policyd_rate_limit.config.table_kind import TABLES
from policyd_rate_limit.config.tables import TableSettings
from policyd_rate_limit.config.web_kinds import HEADER, WEB_ADDRESS, WEB_URL
from policyd_rate_limit.const import SQLITE_DB
from policyd_rate_limit.domain.limits import Limits

STATE_DIRECTORY = "/var/lib/policyd-rate-limit"
"""Where the daemon keeps what must survive a restart."""

OLD_NAMES = {"limited_netword": "limited_networks"}
"""Old spellings of settings, which go on working."""

_DAY = 86400


@dataclass(frozen=True, init=False)
class Settings(Declared):
    """The configuration. Without arguments: the defaults."""

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

    limits: Limits = setting(
        LIMITS,
        ((10, 60), (150, _DAY)),
        """
        At most so many mails in any so many seconds, every pair at once. [10, 60] may also be written as
        '10/1m' or [10, '1m'], with the units s, m, h, d and w. [] is no limit, [0, 60] lets nothing pass.
        """,
        reload=True,
        heading="The limits",
    )
    limits_by_id: dict[str, Limits] = setting(
        LIMITS_BY_ID,
        {},
        """
        Limits of single ids, in place of those above. An id is a SASL user or a sender, in upper or lower
        case, or an address or a network of clients, each of which has these limits for itself. [] is no
        limit.
        """,
        reload=True,
        may_be_empty=True,
    )
    sql_limits_by_id: str = setting(
        QUERY,
        "",
        """
        A query of the database in use, with one placeholder for the id (? for SQLite, %s for the others), that
        gives the limits of that id as text such as [[5, 60]]. They count before those above. Not for redis.
        """,
        reload=True,
        may_be_empty=True,
    )
    sql_limits_ttl: float = setting(
        seconds(0, _DAY),
        60,
        "How long the result of that query is used before it is asked again.",
        unit="seconds",
        reload=True,
    )
    limit_by_sasl: bool = setting(
        FLAG,
        True,
        "Charge the SASL user.",
        reload=True,
    )
    limit_by_sender: bool = setting(
        FLAG,
        False,
        "Where there is no SASL user to charge: charge the envelope sender.",
        reload=True,
    )
    limit_by_ip: bool = setting(
        FLAG,
        False,
        """
        Where there is neither to charge: charge the address of the client, when it lies in limited_networks.
        """,
        reload=True,
    )
    limited_networks: tuple[str, ...] = setting(
        NETWORKS,
        (),
        "The networks, in CIDR notation, whose addresses are limited. Empty: none; 0.0.0.0/0 and ::/0: all.",
        reload=True,
        may_be_empty=True,
    )
    ipv6_prefix: int = setting(
        whole(1, 128),
        64,
        "IPv6 clients whose addresses begin with the same so many bits are one client.",
        unit="bits",
        reload=True,
    )
    count_mode: int | None = setting(
        unset_or(COUNT_MODE),
        None,
        """
        What is counted. Unset: each recipient of a mail once, whichever of smtpd_recipient_restrictions,
        smtpd_data_restrictions and smtpd_end_of_data_restrictions ask. 0: recipients, in
        smtpd_recipient_restrictions. 1: recipients, in smtpd_data_restrictions. 2: mails, in
        smtpd_data_restrictions.
        """,
        reload=True,
    )

    geoip: str | None = setting(
        unset_or(PATH),
        None,
        """
        A file in the format of MaxMind DB (.mmdb), such as that of DB-IP, that has the country of each address, for
        rules that name country. It is reread when it is replaced.
        """,
        reload=True,
    )
    tables: tuple[TableSettings, ...] = setting(
        TABLES,
        {},
        """
        Lists and mappings that rules ask by $NAME: in place, in a file (file:PATH, an entry or an entry and a text on
        each line, reread when it changes), by a query of the database in use (sql:QUERY, with one placeholder), or
        in a hash of Redis (redis:HASH).
        """,
        reload=True,
        may_be_empty=True,
    )
    tables_ttl: float = setting(
        seconds(0, _DAY),
        60,
        "How long what a table in a database says is used before it is asked again.",
        unit="seconds",
        reload=True,
    )
    rules: tuple[RuleSettings, ...] = setting(
        RULES,
        {},
        """
        Rules beside the limits above, each with counters of its own: a key, limits, and what to count (recipients,
        messages or bytes), overrides of the limits by pattern, match and unless, an action, warn, block, notify,
        shadow. Where there are rules, the limits above count only if limits, limits_by_id or sql_limits_by_id is
        written.
        """,
        reload=True,
        may_be_empty=True,
    )

    success_action: str = setting(
        ACTION,
        "dunno",
        "The answer within the limits: any action of access(5).",
        reload=True,
        may_be_empty=True,
        heading="The answers",
    )
    fail_action: str = setting(
        ACTION,
        "defer_if_permit Rate limit reach, retry later",
        "The answer beyond a limit: any action of access(5).",
        reload=True,
        may_be_empty=True,
        sample="defer_if_permit Rate limit reached, retry later",
    )
    block_action: str = setting(
        ACTION,
        "reject 5.7.1 Sending mail is blocked for this account",
        """
        The answer to who is blocked, by the command block or by a rule: any action of access(5). A permanent
        refusal, so that clients say so at once and servers do not retry.
        """,
        reload=True,
    )

    report: bool = setting(
        FLAG,
        False,
        "Mail a report on who ran into a limit, each time --clean is called.",
        reload=True,
        reporting=True,
        heading="The report",
    )
    report_from: str | None = setting(
        unset_or(SENDER),
        None,
        """
        The address that the report and the alerts come from. Unset: policyd-rate-limit at this host, with the null
        sender.
        """,
        reload=True,
        reporting=True,
    )
    report_to: str | tuple[str, ...] | None = setting(
        unset_or(RECIPIENTS),
        None,
        "The address that the report goes to, or a list of them. To be set where report is on.",
        reload=True,
        reporting=True,
    )
    report_subject: str = setting(
        LINE,
        "policyd-rate-limit report",
        "The subject of the report.",
        reload=True,
        reporting=True,
        may_be_empty=True,
    )
    report_limits: tuple[int, ...] = setting(
        PERIODS,
        (_DAY,),
        "The periods of the limits that are reported.",
        unit="seconds",
        reload=True,
        reporting=True,
        may_be_empty=True,
    )
    report_only_if_needed: bool = setting(
        FLAG,
        True,
        "Mail no report when nobody ran into a limit.",
        reload=True,
        reporting=True,
    )
    smtp_server: tuple[str, int] = setting(
        SERVER,
        ("localhost", 25),
        "The SMTP server that takes the report and the alerts.",
        reload=True,
        reporting=True,
        may_be_empty=True,
    )
    smtp_starttls: bool = setting(
        FLAG,
        False,
        """
        Speak TLS with that server, whose certificate is verified; to be set where there are credentials.
        """,
        reload=True,
        reporting=True,
    )
    smtp_ca_file: str | None = setting(
        unset_or(PATH),
        None,
        """
        A file, in PEM, of the certificate authorities that may vouch for that server. Unset: those that the
        system trusts.
        """,
        reload=True,
        reporting=True,
    )
    smtp_credentials: tuple[str, str] | None = setting(
        unset_or(CREDENTIALS),
        None,
        "[user, password] for that server, or nothing.",
        reload=True,
        reporting=True,
        secret=True,
    )

    notify_to: str | tuple[str, ...] | None = setting(
        unset_or(RECIPIENTS),
        None,
        """
        The address, or a list of them, that gets a mail at once when somebody runs into a limit, from
        report_from by way of smtp_server. One alert for each id and limit in the period of that limit.
        """,
        reload=True,
        reporting=True,
        heading="Alerts",
    )
    notify_command: tuple[str, ...] | None = setting(
        unset_or(ARGUMENTS),
        None,
        """
        A program and its arguments, run without a shell for each alert, which it reads as JSON from its
        standard input.
        """,
        reload=True,
        reporting=True,
    )
    notify_url: str | None = setting(
        unset_or(URL),
        None,
        "Where each alert goes as JSON, by POST.",
        reload=True,
        reporting=True,
        secret=True,
    )
    notify_secret: str | None = setting(
        unset_or(SECRET),
        None,
        """
        What signs these, as Standard Webhooks have it: whsec_ and the key in base64, or text that is the key.
        """,
        reload=True,
        reporting=True,
        secret=True,
    )
    notify_ca_file: str | None = setting(
        unset_or(PATH),
        None,
        """
        A file, in PEM, of the certificate authorities that may vouch for the server of notify_url. Unset: those
        that the system trusts.
        """,
        reload=True,
        reporting=True,
    )
    notify_max_per_hour: int = setting(
        whole(1, 100_000),
        20,
        "The most alerts in any hour; the next one says which there would have been.",
        reload=True,
        reporting=True,
    )

    web_address: str | tuple[str, int] = setting(
        WEB_ADDRESS,
        "/run/policyd-rate-limit-web/web.sock",
        """
        Where policyd-rate-limit web listens: the path of a UNIX socket, or [127.0.0.1, port], where whoever is on this
        host may connect. Browsers come by a proxy of yours that speaks TLS. Sockets that systemd has made are served in
        its place.
        """,
        reload=True,
        reporting=True,
        heading="The web page",
    )
    web_group: str = setting(
        LINE,
        "www-data",
        "The group that may connect to that UNIX socket, which is that of the proxy, where root starts the command.",
        reload=True,
        reporting=True,
    )
    web_url: str | None = setting(
        unset_or(WEB_URL),
        None,
        """
        Where browsers reach it, such as https://limits.example.org. Unset: as localhost alone, as through ssh -L.
        """,
        reload=True,
        reporting=True,
    )
    web_accounts: str = setting(
        PATH,
        "/etc/policyd-rate-limit-web.accounts",
        "The file of its accounts and tokens, which policyd-rate-limit web-user and web-token make.",
        reload=True,
        reporting=True,
    )
    web_user_header: str | None = setting(
        unset_or(HEADER),
        None,
        """
        The header in which the proxy says who has logged in there, such as X-Remote-User; it must take away one that a
        browser sends. Believed on the UNIX socket alone. Unset: none is.
        """,
        reload=True,
        reporting=True,
    )

    config_file: str | None = setting(
        unset_or(Kind("a path", str)),
        None,
        "The path of the configuration file in use. It is set by itself.",
        reload=True,
    )

    _broken: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def broken(self) -> Mapping[str, str]:
        """The settings for the report and the alerts that have a mistake, and which; they are at their defaults.

        The daemon serves with them. Whoever needs one fails, and says why.
        """
        return dict(self._broken)

    def mistakes_of(self, *beginnings: str) -> str:
        """What is wrong with the ``broken`` ones whose names begin so, on one line; empty: nothing."""
        return "; ".join(text for name, text in self._broken if name.startswith(beginnings))

    def with_broken(self, broken: Mapping[str, str]) -> Settings:
        """The same settings, of which those in ``broken`` have these mistakes."""
        return self.with_values(_broken=tuple(broken.items()))

    @property
    def least_severe(self) -> str:
        """The level from which on is logged, whether ``log_level`` is set or not."""
        return self.log_level or ("debug" if self.debug else "info")


SETTINGS = Settings.declarations()
"""Every setting by its name, in the order of the documentation."""
