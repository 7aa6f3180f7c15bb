"""The batch table in a PostgreSQL database.

libpq is driven without its blocking calls: each wait is one for the connection's socket, with an end. Statements of one
round trip go as one query. Their snapshots are their own (``READ COMMITTED``): what follows the lock sees all that was
committed before the lock was had.
"""

from __future__ import annotations

import math
import random
import select
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from policyd_rate_limit.errors import ConfigError, Problem
from policyd_rate_limit.storage.drivers import check_options, missing_driver
from policyd_rate_limit.storage.log.contract import LogError, RecordRefused
from policyd_rate_limit.storage.log.server import LONG_SECONDS, SqlLog, TableExists, TableMissing
from policyd_rate_limit.storage.watchdog import resolve

try:
    from psycopg import Error, pq
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
except ImportError as error:
    raise missing_driver("PostgreSQL", "postgresql", error) from error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from policyd_rate_limit.storage.log.contract import OldCounts
    from policyd_rate_limit.storage.record import Record

DEFAULT_PORT = "5432"
OLD_COUNTS_PER_FETCH = 10_000
OLD_ROWS_PER_CLEAN = 10_000

# Keyword arguments of psycopg2.connect that are not libpq's; connections of ours have no such thing.
_OF_PSYCOPG2 = frozenset({"connection_factory", "cursor_factory", "async", "async_"})
_UNDEFINED_TABLE = "42P01"
# duplicate_table, duplicate_object, unique_violation: what CREATE TABLE meets while another makes the same table.
_TABLE_EXISTS = frozenset({"42P07", "42710", "23505"})

# Classes of errors that are about what was to be written: data, constraints, views, triggers, limits of a statement.
_REFUSALS = ("22", "23", "44", "54", "P0")

_SYNCHRONOUS_COMMIT_OFF = "off"


class PostgresqlLog(SqlLog):
    """A connection to PostgreSQL.

    ``config``: the keyword arguments of psycopg2.connect. ``timeout``: seconds, see :class:`SqlLog`; connecting may
    take as long.

    :raises LogError: no connection.
    :raises ConfigError: an option of ``config`` is none.
    """

    SCHEMA = (
        (
            "policyd_state",
            "CREATE TABLE policyd_state ("
            "id smallint PRIMARY KEY CHECK (id = 1), "
            "schema_version integer NOT NULL, "
            "identity text NOT NULL)",
        ),
        (
            "policyd_batch",
            "CREATE TABLE policyd_batch ("
            "seq bigint PRIMARY KEY, "
            "date bigint NOT NULL, "
            "writer bigint NOT NULL, "
            "number bigint NOT NULL, "
            "size integer NOT NULL, "
            "entries text NOT NULL)",
        ),
        (
            "policyd_override",
            "CREATE TABLE policyd_override ("
            "id char(32) PRIMARY KEY, "
            "counter text NOT NULL, "
            "limits text NOT NULL, "
            "expires bigint NOT NULL, "
            "note text NOT NULL, "
            "stamp bigint NOT NULL)",
        ),
        (
            "policyd_hit",
            "CREATE TABLE policyd_hit ("
            "id char(32), "
            "seconds bigint, "
            "counter text NOT NULL, "
            "hits bigint NOT NULL, "
            "last bigint NOT NULL, "
            "PRIMARY KEY (id, seconds))",
        ),
        (
            "policyd_window",
            "CREATE TABLE policyd_window (id char(32) PRIMARY KEY, seconds bigint NOT NULL, expires bigint NOT NULL)",
        ),
    )
    MAKE_STATE = "INSERT INTO policyd_state VALUES (1, {version}, '{identity}') ON CONFLICT DO NOTHING"
    INSTALLATION = "SELECT identity FROM policyd_installation"
    MAKE_INSTALLATION = "INSERT INTO policyd_installation VALUES (1, '{identity}')"
    # Null: there is no such table.
    MAY_KEEP_INSTALLATION = (
        "SELECT has_table_privilege(found, 'SELECT') AND has_table_privilege(found, 'INSERT') "
        "FROM (SELECT to_regclass('policyd_installation')::oid AS found) AS tables"
    )
    MAKE_INSTALLATION_TABLE = (
        "CREATE TABLE policyd_installation (id smallint PRIMARY KEY CHECK (id = 1), identity text NOT NULL)"
    )
    LOCK = "SELECT schema_version, identity FROM policyd_state WHERE id = 1 FOR UPDATE"
    CLOCK = "SELECT extract(epoch FROM clock_timestamp())"
    COUNT_TABLES = "SELECT count(to_regclass('{table}'))"
    MAY_CREATE = "SELECT 1 WHERE has_schema_privilege(current_schema(), 'CREATE')"

    def __init__(self, config: Mapping[str, Any], timeout: float) -> None:
        super().__init__(timeout)
        options = {**connection_options(config), "client_encoding": "UTF8"}
        self._name = f"PostgreSQL {options.get('dbname', '')}@{options.get('host', 'localhost')}"
        self._connection: pq.abc.PGconn | None = None
        self._durability: tuple[str, ...] = ()
        limit = float(options.pop("connect_timeout", 0) or 0)
        if limit > 0:
            self._end = min(self._end, time.monotonic() + limit)
        try:
            self._connection = self._connect(options)
            self._connection.nonblocking = 1
        except Error as error:
            raise self._failure(_first_line(str(error))) from error
        if self._connection.parameter_status(b"server_encoding") == b"SQL_ASCII":
            self._query("SET client_encoding = SQL_ASCII")  # which takes and gives any bytes
        start = time.monotonic()
        (((synchronous_commit,),),) = self._query("SHOW synchronous_commit")
        self._round_trip = time.monotonic() - start
        if synchronous_commit == _SYNCHRONOUS_COMMIT_OFF:
            self._durability = ("SET LOCAL synchronous_commit = local",)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.finish()
            self._connection = None

    def _connect(self, options: dict[str, str]) -> pq.abc.PGconn:
        """Try one address after the other, each with its share of the time."""
        refusals: list[str] = []
        addresses = list(self._addresses(options, refusals))
        for index, address in enumerate(addresses):
            now = time.monotonic()
            end = now + (self._end - now) / (len(addresses) - index)
            connection = pq.PGconn.connect_start(make_conninfo(**{**options, **address}).encode())
            try:
                self._establish(connection, end)
            except LogError as error:
                connection.finish()
                refusals.append(str(error))
            else:
                return connection
        raise self._failure("; ".join(dict.fromkeys(refusals)))

    def _addresses(self, options: Mapping[str, str], refusals: list[str]) -> Iterator[dict[str, str]]:
        """What to connect to: one address at a time, since libpq waits for each as long as it likes."""
        places = list(_places(options))
        for index, place in enumerate(places):
            if place.host and not place.address and not place.host.startswith(("/", "@")):
                now = time.monotonic()
                try:
                    found = resolve(place.host, int(place.port), (self._end - now) / (len(places) - index))
                except OSError as error:
                    refusals.append(str(error))
                    continue
                for address, _ in found:
                    yield place._replace(address=address).options()
            else:
                yield place.options()

    def _establish(self, connection: pq.abc.PGconn, end: float) -> None:
        waits: dict[int, int] = {pq.PollingStatus.READING: select.POLLIN, pq.PollingStatus.WRITING: select.POLLOUT}
        status: int = pq.PollingStatus.WRITING
        while connection.status != pq.ConnStatus.BAD:
            _wait(connection.socket, waits[status], end)
            status = connection.connect_poll()
            if status == pq.PollingStatus.OK:
                return
            if status == pq.PollingStatus.FAILED:
                break
        raise LogError(_text(connection.error_message))

    def _query(self, *statements: str) -> list[Sequence[Sequence[Any]]]:
        connection = self._connection
        if connection is None:
            raise LogError(f"{self._name}: the connection is closed")
        try:
            connection.send_query("; ".join(statements).encode("utf-8", "surrogateescape"))
            while connection.flush():
                if _wait(connection.socket, select.POLLIN | select.POLLOUT, self._end) & select.POLLIN:
                    connection.consume_input()
            results = self._results(connection)
        except (Error, LogError) as error:
            raise self._failure(_first_line(str(error))) from error
        for result in results:
            if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
                raise self._refusal(result)
        if statements[-1] == "COMMIT" and results[-1].command_status != b"COMMIT":
            raise self._failure("the transaction was rolled back")
        return [_rows(result) for result in results]

    def _results(self, connection: pq.abc.PGconn) -> list[pq.abc.PGresult]:
        results: list[pq.abc.PGresult] = []
        while True:
            while connection.is_busy():
                _wait(connection.socket, select.POLLIN, self._end)
                connection.consume_input()
            result = connection.get_result()
            if result is None:
                return results
            results.append(result)

    def _refusal(self, result: pq.abc.PGresult) -> LogError:
        state = _text(result.error_field(pq.DiagnosticField.SQLSTATE))
        message = _text(result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message)
        if state == _UNDEFINED_TABLE:
            return TableMissing(message)
        if state in _TABLE_EXISTS:
            return TableExists(message)
        if state.startswith(_REFUSALS):
            return RecordRefused(str(self._failure(message)))
        return self._failure(message)

    def _failure(self, message: str) -> LogError:
        self.close()
        return LogError(f"{self._name}: {message}")

    def literal(self, text: str) -> str:
        if self._connection is None:
            raise LogError(f"{self._name}: the connection is closed")
        data = text.encode("utf-8", "surrogateescape")
        return pq.Escaping(self._connection).escape_literal(data).decode("utf-8", "surrogateescape")

    def _start(self, wait: float) -> list[str]:
        # LOCAL, since behind a pool of connections the session may be another one's next.
        milliseconds = math.ceil(self._timeout * 1000)
        return [
            "BEGIN ISOLATION LEVEL READ COMMITTED",
            f"SET LOCAL lock_timeout = {max(1, int(wait * 1000))}",
            f"SET LOCAL statement_timeout = {math.ceil(wait * 1000) + milliseconds}",
            # A daemon that is cut off while it holds the lock must not keep it.
            f"SET LOCAL idle_in_transaction_session_timeout = {milliseconds}",
            *self._durability,
        ]

    def _insert(self, seq: int, record: Record) -> str:
        entries = self.literal(record.entries)
        return (
            f"INSERT INTO policyd_batch VALUES ({seq}, {record.date}, {record.writer}, {record.number}, "  # noqa: S608 - numbers, and a literal that is escaped
            f"{record.size}, {entries})"
        )

    def _allow(self, seconds: float) -> None:
        self._query(f"SET LOCAL statement_timeout = {math.ceil(seconds * 1000)}")
        super()._allow(seconds)

    def _may_keep_installation(self) -> bool:
        ((may,),) = self._ask(self.MAY_KEEP_INSTALLATION)
        if may is None and self._ask(self.MAY_CREATE):
            self._query(self.MAKE_INSTALLATION_TABLE)
            return True
        return str(may) in ("t", "True")

    def _old_counts(self) -> OldCounts:
        if not self.has_table("mail_count"):
            return
        self._allow(LONG_SECONDS)
        columns = self._ask(
            "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass('mail_count') AND NOT attisdropped"
        )
        recipients = "coalesce(recipient_count, 1)" if ["recipient_count"] in columns else "1"
        self._query(
            f"DECLARE old_counts CURSOR FOR SELECT id, date, sum({recipients}) "  # noqa: S608 - ours
            "FROM mail_count GROUP BY id, date ORDER BY date"
        )
        while rows := self._ask(f"FETCH {OLD_COUNTS_PER_FETCH} FROM old_counts"):
            for old_id, date, count in rows:
                yield str(old_id), int(date), int(count)
        self._query("CLOSE old_counts")

    def _delete_old_counts(self, before: int) -> int:
        self._end = time.monotonic() + LONG_SECONDS
        (rows,) = self._query(
            "WITH deleted AS (DELETE FROM mail_count WHERE ctid = ANY (ARRAY("  # noqa: S608 - numbers
            f"SELECT ctid FROM mail_count WHERE date < {before} LIMIT {OLD_ROWS_PER_CLEAN})) RETURNING 1) "
            "SELECT count(*) FROM deleted"
        )
        return int(rows[0][0])


class _Place(NamedTuple):
    """Where a server may be, in libpq's words."""

    host: str
    address: str
    port: str

    def options(self) -> dict[str, str]:
        """As libpq's options; what is empty is libpq's to choose."""
        given = {"host": self.host, "hostaddr": self.address, "port": self.port}
        return {name: value for name, value in given.items() if value}


def connection_options(config: Mapping[str, Any]) -> dict[str, str]:
    """libpq's options for ``config``, the keyword arguments of psycopg2.connect.

    :raises ConfigError: one is unknown, or ``dsn`` cannot be parsed; nothing of its value is told.
    """
    given = {name: value for name, value in config.items() if value is not None and name not in _OF_PSYCOPG2}
    dsn = given.pop("dsn", "")
    if "database" in given:
        given["dbname"] = given.pop("database")
    known = [option.keyword.decode() for option in pq.Conninfo.get_defaults()]
    check_options("pgsql_config", "psycopg2.connect", given, known)
    try:
        options = {name: str(value) for name, value in conninfo_to_dict(str(dsn)).items()}
        options |= {name: _value(value) for name, value in given.items()}
        float(options.get("connect_timeout", 0))
        for place in _places(options):
            int(place.port)
    except (Error, ValueError):
        wanted = "a connection string, and numbers for ports and times"
        raise ConfigError([Problem("configuration", 0, "pgsql_config", wanted, "something else")]) from None
    options.setdefault("fallback_application_name", "policyd-rate-limit")
    # Of several hosts the one that can be written to; a standby counts as being away.
    options.setdefault("target_session_attrs", "read-write")
    return options


def _value(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _places(options: Mapping[str, str]) -> Iterator[_Place]:
    """The hosts of ``options``, in the order in which they are to be tried."""
    defaults = {option.keyword.decode(): (option.val or b"").decode() for option in pq.Conninfo.get_defaults()}
    given = {name: options.get(name, defaults[name]) for name in ("host", "hostaddr", "port")}
    hosts, addresses, ports = (value.split(",") for value in given.values())
    count = max(len(hosts), len(addresses))
    places = [
        _Place(host, address, port or DEFAULT_PORT)
        for host, address, port in zip(
            hosts if len(hosts) == count else [""] * count,
            addresses if len(addresses) == count else [""] * count,
            ports if len(ports) == count else ports[:1] * count,
            strict=True,
        )
    ]
    if options.get("load_balance_hosts") == "random":
        random.shuffle(places)
    yield from places


def _wait(descriptor: int, events: int, end: float) -> int:
    """Wait for the socket until ``end``; what it is ready for.

    :raises LogError: not ready in time.
    """
    poll = select.poll()
    poll.register(descriptor, events)
    ready = poll.poll(max(0.0, end - time.monotonic()) * 1000)
    if not ready:
        raise LogError("no answer in time")
    return ready[0][1]


def _rows(result: pq.abc.PGresult) -> list[list[str | None]]:
    columns = range(result.nfields)
    return [
        [
            # A database in SQL_ASCII gives back whatever bytes an older version has put there.
            None if (value := result.get_value(row, column)) is None else value.decode("utf-8", "surrogateescape")
            for column in columns
        ]
        for row in range(result.ntuples)
    ]


def _text(message: bytes | None) -> str:
    return _first_line((message or b"").decode(errors="replace"))


def _first_line(message: str) -> str:
    """What libpq adds in further lines is advice."""
    return message.strip().partition("\n")[0]
