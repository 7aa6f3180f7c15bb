"""The batch table in a MySQL or MariaDB database.

PyMySQL blocks, so a watchdog shuts the connection down when its time is over. Statements of one round trip go as one
query (multi-statements). ``REPEATABLE READ`` takes its snapshot at the first plain SELECT, which is the one behind the
lock, and works with every ``binlog_format``.

Each batch also writes its seq into ``policyd_state``: so two nodes of a Galera cluster that commit at the same time
collide, one of them fails, and nothing is admitted in silence.
"""

from __future__ import annotations

import configparser
import contextlib
import getpass
import math
import os
import socket
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from policyd_rate_limit.errors import ConfigError, Problem
from policyd_rate_limit.storage.drivers import check_options, missing_driver
from policyd_rate_limit.storage.log.contract import LogError, RecordRefused, Statement, named
from policyd_rate_limit.storage.log.server import LONG_SECONDS, SqlLog, TableMissing
from policyd_rate_limit.storage.watchdog import Watchdog, resolve

try:
    import pymysql
    from pymysql.constants import CLIENT, ER
    from pymysql.cursors import SSCursor
except ImportError as error:
    raise missing_driver("MySQL and MariaDB", "mysql", error) from error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from policyd_rate_limit.storage.log.contract import OldCounts

DEFAULT_PORT = 3306
# Where a server on this machine listens, as distributions have it.
DEFAULT_SOCKETS = ("/run/mysqld/mysqld.sock", "/var/lib/mysql/mysql.sock", "/tmp/mysql.sock")  # noqa: S108 - its name
OPTION_FILES = ("/etc/my.cnf", "/etc/mysql/my.cnf", "~/.my.cnf")
OLD_ROWS_PER_CLEAN = 10_000
PACKET_OVERHEAD = 512  # bytes of max_allowed_packet that are not for rows
IDLE_SECONDS = 10  # after which the server ends a session whose daemon was cut off, and lets go of its lock

_OLD_COUNTS = (
    "SELECT CONVERT(id USING utf8mb4) COLLATE utf8mb4_bin AS old_id, date, sum({recipients}) "
    "FROM mail_count GROUP BY old_id, date ORDER BY date"
)

_OF_MYSQLDB = frozenset(
    {"user", "passwd", "password", "db", "database", "host", "port", "unix_socket", "bind_address", "connect_timeout"}
    | {"init_command", "read_default_file", "read_default_group", "ssl", "ssl_mode", "server_public_key_path"}
)
# What has no meaning here: all that is sent and read is ASCII and numbers, and db_timeout bounds the time.
_WITHOUT_MEANING = frozenset(
    {"charset", "collation", "use_unicode", "conv", "cursorclass", "autocommit", "compress", "named_pipe"}
    | {"client_flag", "multi_statements", "sql_mode", "local_infile", "local_infile_dir", "binary_prefix"}
    | {"auth_plugin", "read_timeout", "write_timeout"}
)
# What is about what was to be written: data, constraints, triggers (SIGNAL), the size of a row.
_REFUSALS = frozenset(
    {ER.DATA_TOO_LONG, ER.WARN_DATA_OUT_OF_RANGE, ER.TRUNCATED_WRONG_VALUE_FOR_FIELD, ER.TRUNCATED_WRONG_VALUE}
    | {ER.BAD_NULL_ERROR, ER.NO_REFERENCED_ROW_2, ER.NO_DEFAULT_FOR_FIELD, ER.NET_PACKET_TOO_LARGE}
    | {1644, 3819, 4025}  # SIGNAL, CHECK of MySQL and of MariaDB, which PyMySQL does not name
)
_SSL_MODES = frozenset({"DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"})
_SSL_OPTIONS = frozenset({"ca", "capath", "cert", "key", "cipher"})


class MysqlLog(SqlLog):
    """A connection to MySQL or MariaDB.

    ``config``: the keyword arguments of MySQLdb.connect. ``timeout``: seconds, see :class:`SqlLog`; connecting may
    take as long.

    :raises LogError: no connection.
    :raises ConfigError: an option of ``config`` is none.
    """

    SCHEMA = (
        (
            "policyd_state",
            "CREATE TABLE IF NOT EXISTS policyd_state ("
            "id TINYINT PRIMARY KEY, "
            "schema_version INT NOT NULL, "
            "identity CHAR(32) NOT NULL, "
            "newest BIGINT NOT NULL"
            ") ENGINE=InnoDB CHARACTER SET ascii",
        ),
        (
            "policyd_batch",
            "CREATE TABLE IF NOT EXISTS policyd_batch ("
            "seq BIGINT PRIMARY KEY, "
            "date BIGINT NOT NULL, "
            "writer BIGINT NOT NULL, "
            "number BIGINT NOT NULL, "
            "size INT NOT NULL, "
            "entries LONGTEXT NOT NULL"
            ") ENGINE=InnoDB CHARACTER SET ascii",
        ),
        (
            "policyd_override",
            "CREATE TABLE IF NOT EXISTS policyd_override ("
            "id CHAR(32) PRIMARY KEY, "
            "counter LONGTEXT NOT NULL, "
            "limits TEXT NOT NULL, "
            "expires BIGINT NOT NULL, "
            "note TEXT NOT NULL, "
            "stamp BIGINT NOT NULL"
            ") ENGINE=InnoDB CHARACTER SET ascii",
        ),
        (
            "policyd_hit",
            "CREATE TABLE IF NOT EXISTS policyd_hit ("
            "id CHAR(32), "
            "seconds BIGINT, "
            "counter LONGTEXT NOT NULL, "
            "hits BIGINT NOT NULL, "
            "last BIGINT NOT NULL, "
            "PRIMARY KEY (id, seconds)"
            ") ENGINE=InnoDB CHARACTER SET ascii",
        ),
        (
            "policyd_window",
            "CREATE TABLE IF NOT EXISTS policyd_window ("
            "id CHAR(32) PRIMARY KEY, "
            "seconds BIGINT NOT NULL, "
            "expires BIGINT NOT NULL"
            ") ENGINE=InnoDB CHARACTER SET ascii",
        ),
    )
    # Not IGNORE: two who wait with the shared lock that this takes would then wait for each other.
    MAKE_STATE = "INSERT INTO policyd_state VALUES (1, %s, %s, 0) ON DUPLICATE KEY UPDATE newest = newest"
    # A row of its own in a table that is there: making a table would end the transaction, and takes a right.
    INSTALLATION = "SELECT identity FROM policyd_state WHERE id = 2"
    MAKE_INSTALLATION = "INSERT INTO policyd_state VALUES (2, 0, %s, 0)"
    LOCK = "SELECT schema_version, identity FROM policyd_state WHERE id = 1 FOR UPDATE"
    CLOCK = "SELECT UNIX_TIMESTAMP(NOW(6))"
    COUNT_TABLES = "SELECT count(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s"

    def __init__(self, config: Mapping[str, Any], timeout: float) -> None:
        super().__init__(timeout)
        options = connection_options(config)
        place = options.unix_socket or f"{options.host}:{options.port}"
        self._name = f"MySQL {options.database}@{place}"
        self._watchdog: Watchdog | None = None
        self._connection: pymysql.Connection[pymysql.cursors.Cursor] | None = None
        self._lock_wait_timeout = 0
        if options.connect_timeout:
            self._end = min(self._end, time.monotonic() + options.connect_timeout)
        try:
            self._connection, self._watchdog = connect(options, self._end, CLIENT.MULTI_STATEMENTS)
        except Exception as error:
            raise self._translated(error) from error
        start = time.monotonic()
        *_, packet, wsrep_on = self._query(
            # Without summer time, in which one hour of the year comes twice.
            Statement("SET SESSION time_zone = '+00:00'"),
            Statement("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ"),
            # A daemon that is cut off while it holds the lock must not keep it.
            Statement(
                "SET SESSION wait_timeout = %s /*M!100300 , idle_transaction_timeout = %s, max_statement_time = 0 */",
                (max(IDLE_SECONDS, math.ceil(timeout)), math.ceil(timeout)),
            ),
            Statement("SELECT @@max_allowed_packet"),
            Statement("SHOW SESSION VARIABLES LIKE 'wsrep_on'"),
        )
        self._round_trip = time.monotonic() - start
        self._packet = int(packet[0][0]) - PACKET_OVERHEAD
        self._most_characters = min(self._most_characters, self._packet)
        self._is_galera = bool(wsrep_on) and wsrep_on[0][1] == "ON"
        if self._is_galera:
            # See what was committed on another node before.
            self._query(Statement("SET SESSION wsrep_sync_wait = 1"))

    @property
    def longest_row(self) -> int:
        """All of it may have to be escaped."""
        return max(0, (self._packet - PACKET_OVERHEAD) // 2)

    def commit(self) -> None:
        has_appended, newest = self._has_appended, self._newest
        super().commit()
        # A transaction that a node gives up for one of another node may fail without an error when its statements
        # come together.
        if (
            self._is_galera
            and has_appended
            and newest is not None
            and not self._ask("SELECT 1 FROM policyd_batch WHERE seq = %s", newest)
        ):
            raise self._failure("a daemon on another node of the cluster was faster")

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.close()
            self._connection = None
        if self._watchdog is not None:
            self._watchdog.close()
            self._watchdog = None

    def _query(self, *statements: Statement) -> list[Sequence[Sequence[Any]]]:
        if self._connection is None or self._watchdog is None:
            raise LogError(f"{self._name}: the connection is closed")
        try:
            with self._watchdog.until(self._end), self._connection.cursor() as cursor:
                # Parameters are brought in by PyMySQL, for each statement by itself: the server takes none for several.
                cursor.execute("; ".join(cursor.mogrify(text, values or None) for text, values in statements))
                results: list[Sequence[Sequence[Any]]] = [cursor.fetchall()]
                while cursor.nextset():
                    results.append(cursor.fetchall())
                return results
        except Exception as error:
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> LogError:
        """``error``, of whatever kind: a peer that is no MySQL server makes PyMySQL fail in any way."""
        if self._watchdog is not None and self._watchdog.has_bitten:
            return self._failure("no answer in time")
        if not isinstance(error, pymysql.MySQLError) or len(error.args) < 2:
            return self._failure(str(error) or type(error).__name__)
        code, message = error.args[:2]
        if code == ER.NO_SUCH_TABLE:
            return TableMissing(str(message))
        if code in _REFUSALS:
            return RecordRefused(str(self._failure(f"{message} ({code})")))
        return self._failure(f"{message} ({code})")

    def _failure(self, message: str) -> LogError:
        self.close()
        return LogError(f"{self._name}: {' '.join(message.split())}")

    def on_conflict(self, key: str, assignments: Mapping[str, str]) -> str:  # noqa: ARG002 - MySQL finds it itself
        changes = (f"{column} = {value.format(new=f'VALUES({column})')}" for column, value in assignments.items())
        return f"ON DUPLICATE KEY UPDATE {', '.join(changes)}"

    def _start(self, wait: float) -> list[Statement]:
        statements = [Statement("START TRANSACTION READ WRITE")]
        seconds = max(1, math.ceil(wait))  # the watchdog knows of fractions
        if seconds != self._lock_wait_timeout:
            self._lock_wait_timeout = seconds
            statements.insert(0, Statement("SET SESSION innodb_lock_wait_timeout = %s", (seconds,)))
        return statements

    def _last_statements(self) -> tuple[Statement, ...]:
        last = super()._last_statements()
        if not self._has_appended or self._newest is None:
            return last
        return Statement("UPDATE policyd_state SET newest = %s WHERE id = 1", (self._newest,)), *last

    def _may_keep_installation(self) -> bool:
        return True

    def _old_counts(self) -> OldCounts:
        try:
            columns = [column[0] for column in self._ask("SHOW COLUMNS FROM mail_count")]
        except TableMissing:
            return
        self._allow(LONG_SECONDS)
        recipients = "coalesce(recipient_count, 1)" if "recipient_count" in columns else "1"
        assert self._connection is not None  # noqa: S101 - it has just been used
        assert self._watchdog is not None  # noqa: S101 - likewise
        try:
            with self._watchdog.until(self._end), self._connection.cursor(SSCursor) as cursor:
                cursor.execute(named(_OLD_COUNTS, recipients=recipients))
                for old_id, date, count in cursor:
                    yield str(old_id), int(date), int(count)
        except pymysql.MySQLError as error:
            raise self._translated(error) from error

    def _delete_old_counts(self, before: int) -> int:
        self._end = time.monotonic() + LONG_SECONDS
        _, rows = self._query(
            Statement("DELETE FROM mail_count WHERE date < %s LIMIT %s", (before, OLD_ROWS_PER_CLEAN)),
            Statement("SELECT ROW_COUNT()"),
        )
        return int(rows[0][0])


class Options(NamedTuple):
    """How to connect. With ``tls`` encrypted or not at all, else where the server offers it, unless ``without_tls``."""

    user: str
    password: str
    database: str
    host: str
    port: int
    unix_socket: str
    bind_address: str
    connect_timeout: float
    init_command: str | None
    public_key: bytes | None
    tls: ssl.SSLContext | None
    without_tls: bool


def connection_options(config: Mapping[str, Any]) -> Options:
    """What ``config``, the keyword arguments of MySQLdb.connect, and the option files that it names, ask for.

    :raises ConfigError: an option is unknown, or of the wrong kind; nothing of its value is told.
    :raises LogError: a file cannot be read.
    """
    check_options("mysql_config", "MySQLdb.connect", config, _OF_MYSQLDB | _WITHOUT_MEANING)
    given = {name: value for name, value in config.items() if value is not None}
    try:
        filed = _option_files(given.get("read_default_file"), given.get("read_default_group"))
        key = given.get("server_public_key_path")
        public_key = Path(key).read_bytes() if key else None
        encryption = given.get("ssl") or {}
        encryption = {**filed.encryption, **(encryption if isinstance(encryption, dict) else {})}
        mode = str(given.get("ssl_mode") or ("REQUIRED" if given.get("ssl") is True else "")).upper()
        tls = _tls(encryption, mode)
    except (OSError, configparser.Error, ssl.SSLError) as error:
        raise LogError(f"MySQL: {_about_file(error)}") from error

    def option(*names: str, default: object = "") -> Any:
        for place in (given, filed.options):
            for name in names:
                if place.get(name):
                    return place[name]
        return default

    host = str(option("host", default="localhost"))
    unix_socket = str(option("unix_socket", "socket"))
    if host == "localhost" and not unix_socket:
        unix_socket = next((path for path in _default_sockets() if Path(path).is_socket()), "")
    try:
        return Options(
            user=str(option("user", default=getpass.getuser())),
            password=str(option("passwd", "password")),
            database=str(option("db", "database")),
            host=host,
            port=int(option("port", default=DEFAULT_PORT)),
            unix_socket=unix_socket if host == "localhost" else "",
            bind_address=str(option("bind_address", "bind-address")),
            connect_timeout=float(option("connect_timeout", "connect-timeout", default=0)),
            init_command=option("init_command", default=None),
            public_key=public_key,
            tls=tls,
            without_tls=mode == "DISABLED",
        )
    except (TypeError, ValueError):
        raise _wrong("mysql_config", "numbers for port and connect_timeout", "something else") from None


def connect(
    options: Options, end: float, client_flag: int = 0
) -> tuple[pymysql.Connection[pymysql.cursors.Cursor], Watchdog]:
    """A connection that is established by ``end`` (of the monotonic clock), and what bounds its time from there on.

    Fails with errors of any kind where the peer is no MySQL server.
    """
    encrypted = options.tls is not None
    connection = pymysql.Connection(
        user=options.user,
        password=options.password.encode(),
        host=options.host,
        port=options.port,
        database=options.database,
        charset="utf8mb4",
        client_flag=client_flag,
        init_command=options.init_command,
        autocommit=True,
        program_name="policyd-rate-limit",
        server_public_key=options.public_key,
        ssl=options.tls,
        # On this machine only when asked for.
        ssl_disabled=None if encrypted else options.without_tls or bool(options.unix_socket) or None,
        auth_plugin_map=_plugins(trusted=encrypted or bool(options.unix_socket)),
        defer_connect=True,
    )
    server = _dial(options, end)
    try:
        watchdog = Watchdog(server.fileno())
    except BaseException:
        server.close()
        raise
    try:
        with watchdog.until(end):
            connection.connect(server)
    except BaseException as error:
        server.close()
        watchdog.close()
        if watchdog.has_bitten:
            raise TimeoutError("no answer in time") from error
        raise
    return connection, watchdog


def _dial(options: Options, end: float) -> socket.socket:
    """A socket that is connected to the server."""
    if options.unix_socket:
        server = socket.socket(socket.AF_UNIX)
        try:
            server.settimeout(max(end - time.monotonic(), 0.001))
            server.connect(options.unix_socket)
        except BaseException:
            server.close()
            raise
        return server
    addresses = resolve(options.host, options.port, end - time.monotonic())
    for index, address in enumerate(addresses):
        now = time.monotonic()
        share = max((end - now) / (len(addresses) - index), 0.001)
        try:
            server = socket.create_connection(address, share, (options.bind_address, 0))
        except OSError:
            if index == len(addresses) - 1:
                raise
        else:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return server
    raise OSError(f"{options.host} has no address")


def _tls(encryption: Mapping[str, Any], mode: str) -> ssl.SSLContext | None:
    """How the server is to be verified: its name, as with MySQLdb, for VERIFY_IDENTITY only."""
    if mode and mode not in _SSL_MODES:
        raise _wrong("mysql_config.ssl_mode", f"one of {', '.join(sorted(_SSL_MODES))}", "something else")
    if unknown := sorted(set(encryption) - _SSL_OPTIONS):
        raise _wrong("mysql_config.ssl", f"options among {', '.join(sorted(_SSL_OPTIONS))}", ", ".join(unknown))
    given = {name: str(value) for name, value in encryption.items() if value}
    if mode == "DISABLED" or (not given and mode in ("", "PREFERRED")):
        return None
    context = ssl.create_default_context(cafile=given.get("ca"), capath=given.get("capath"))
    # The certificates that MySQL makes for itself do not pass it.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.check_hostname = mode == "VERIFY_IDENTITY"
    if not mode.startswith("VERIFY") and not {"ca", "capath"} & given.keys():
        context.verify_mode = ssl.CERT_NONE
    if "cert" in given:
        context.load_cert_chain(given["cert"], given.get("key"))
    if "cipher" in given:
        context.set_ciphers(given["cipher"])
    return context


class _OptionFile(NamedTuple):
    options: dict[str, str]
    encryption: dict[str, str]


def _option_files(file: str | None, group: str | None) -> _OptionFile:
    """What MySQL's option files say. Files that they include are not read."""
    found: dict[str, str] = {}
    if file or group:
        for path in [file] if file else OPTION_FILES:
            place = Path(path).expanduser()
            if file or place.exists():
                parser = configparser.RawConfigParser(
                    allow_no_value=True, strict=False, comment_prefixes=("#", ";", "!")
                )
                parser.read_string(place.read_text("utf-8"), str(place))
                for section in dict.fromkeys(("client", group or "client")):
                    if parser.has_section(section):
                        found |= {
                            name.replace("_", "-"): value.strip("\"'") for name, value in parser.items(section) if value
                        }
    return _OptionFile(
        {name: value for name, value in found.items() if not name.startswith("ssl-")},
        {name[4:]: value for name, value in found.items() if name.startswith("ssl-") and name[4:] in _SSL_OPTIONS},
    )


def _default_sockets() -> tuple[str, ...]:
    """As libmysqlclient's, which does not go by TCP to "localhost"."""
    named = os.environ.get("MYSQL_UNIX_PORT")
    return (named,) if named else DEFAULT_SOCKETS


def _about_file(error: Exception) -> str:
    """``error`` in one line, without what the file holds."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return "an option file or a certificate cannot be read: " + type(error).__name__


def _wrong(setting: str, expected: str, found: str) -> ConfigError:
    return ConfigError([Problem("configuration", 0, setting, expected, found)])


class _PeerCredentials:
    """MariaDB's ``unix_socket`` and MySQL's ``auth_socket``: the kernel tells the server who connects."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def authenticate(self, _packet: object) -> Any:
        self._connection.write_packet(b"")
        # PyMySQL has plugins return the server's answer, and no public method that reads one.
        return self._connection._read_packet()


class _NoPlainPassword:
    """A server that asks for the password itself: only where nobody can listen, or stand in for the server."""

    def __init__(self, connection: object) -> None:
        pass

    def authenticate(self, _packet: object) -> Any:
        raise pymysql.OperationalError(0, "it asks for the password in clear text; set ssl in mysql_config for that")


def _plugins(*, trusted: bool) -> dict[str, Callable[[Any], Any]]:
    """What PyMySQL lacks to authenticate, and what it does without a look at the connection."""
    plugins: dict[str, Callable[[Any], Any]] = {"unix_socket": _PeerCredentials, "auth_socket": _PeerCredentials}
    if not trusted:
        plugins |= {"mysql_clear_password": _NoPlainPassword, "dialog": _NoPlainPassword}
    return plugins
