"""The batch table in a MySQL or MariaDB database.

PyMySQL blocks, so a watchdog shuts the connection down when its time is over. Statements of one round trip go as one
query (multi-statements). ``REPEATABLE READ`` takes its snapshot at the first plain SELECT, which is the one behind the
lock, and works with every ``binlog_format``.

Each batch also writes its seq into ``policyd_state``: so two nodes of a Galera cluster that commit at the same time
collide, one of them fails, and nothing is admitted in silence.
"""

from __future__ import annotations

import contextlib
import math
import time
from typing import TYPE_CHECKING, Any

import pymysql
from pymysql.constants import CLIENT, ER
from pymysql.cursors import SSCursor

from policyd_rate_limit.storage.log.contract import LogError, RecordRefused, Statement, changes_of, named
from policyd_rate_limit.storage.log.mysql.connecting import connect
from policyd_rate_limit.storage.log.mysql.options import connection_options
from policyd_rate_limit.storage.log.server import LONG_SECONDS, SqlLog, TableMissing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from policyd_rate_limit.storage.log.contract import OldCounts
    from policyd_rate_limit.storage.watchdog import Watchdog

OLD_ROWS_PER_CLEAN = 10_000
PACKET_OVERHEAD = 512  # bytes of max_allowed_packet that are not for rows
IDLE_SECONDS = 10  # after which the server ends a session whose daemon was cut off, and lets go of its lock

_OLD_COUNTS = (
    "SELECT CONVERT(id USING utf8mb4) COLLATE utf8mb4_bin AS old_id, date, sum({recipients}) "
    "FROM mail_count GROUP BY old_id, date ORDER BY date"
)

# What is about what was to be written: data, constraints, triggers (SIGNAL), the size of a row.
_REFUSALS = frozenset(
    {ER.DATA_TOO_LONG, ER.WARN_DATA_OUT_OF_RANGE, ER.TRUNCATED_WRONG_VALUE_FOR_FIELD, ER.TRUNCATED_WRONG_VALUE}
    | {ER.BAD_NULL_ERROR, ER.NO_REFERENCED_ROW_2, ER.NO_DEFAULT_FOR_FIELD, ER.NET_PACKET_TOO_LARGE}
    | {1644, 3819, 4025}  # SIGNAL, CHECK of MySQL and of MariaDB, which PyMySQL does not name
)


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
    ADDED = (
        (
            "policyd_hit_history",
            "CREATE TABLE IF NOT EXISTS policyd_hit_history ("
            "hour BIGINT, "
            "origin BIGINT, "
            "id CHAR(32), "
            "seconds BIGINT, "
            "maximum BIGINT, "
            "kind VARCHAR(16), "
            "counter LONGTEXT NOT NULL, "
            "hits BIGINT NOT NULL, "
            "first BIGINT NOT NULL, "
            "last BIGINT NOT NULL, "
            "queue_id TEXT NOT NULL, "
            "details TEXT NOT NULL, "
            "PRIMARY KEY (hour, origin, id, seconds, maximum, kind), "
            "KEY (id, hour)"
            ") ENGINE=InnoDB CHARACTER SET ascii COLLATE ascii_bin",
        ),
        (
            "policyd_audit",
            "CREATE TABLE IF NOT EXISTS policyd_audit ("
            "number BIGINT AUTO_INCREMENT PRIMARY KEY, "
            "date BIGINT NOT NULL, "
            "who TEXT NOT NULL, "
            "from_where TEXT NOT NULL, "
            "action VARCHAR(64) NOT NULL, "
            "subject LONGTEXT NOT NULL, "
            "detail TEXT NOT NULL, "
            "note TEXT NOT NULL, "
            "origin BIGINT NOT NULL, "
            "original BIGINT, "
            "UNIQUE KEY (origin, original)"
            ") ENGINE=InnoDB CHARACTER SET ascii COLLATE ascii_bin",
        ),
        (
            "policyd_daemon",
            "CREATE TABLE IF NOT EXISTS policyd_daemon ("
            "id CHAR(32) PRIMARY KEY, "
            "place CHAR(32) NOT NULL, "
            "heard BIGINT NOT NULL, "
            "words TEXT NOT NULL"
            ") ENGINE=InnoDB CHARACTER SET ascii COLLATE ascii_bin",
        ),
    )
    GRANTEE = (
        "SELECT concat(quote(substring_index(current_user(), '@', 1)), '@',"
        " quote(substring_index(current_user(), '@', -1)))"
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
        return f"ON DUPLICATE KEY UPDATE {changes_of(assignments, 'VALUES({})')}"

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

    def _may_create(self) -> bool:
        """By the grants; what a role gives is not known, and may be anything."""
        for (grant,) in self._ask("SHOW GRANTS"):
            rights, on, _ = str(grant).removeprefix("GRANT ").partition(" ON ")
            if not on or {"ALL PRIVILEGES", "CREATE"} & set(rights.split(", ")):
                return True
        return False

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
