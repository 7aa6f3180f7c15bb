"""The batch table in a PostgreSQL database.

psycopg's generators drive libpq without its blocking calls: each wait is one for the connection's socket, with an end.
Statements of one round trip go down libpq's pipeline, their parameters beside them. Their snapshots are their own
(``READ COMMITTED``): what follows the lock sees all that was committed before the lock was had.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
import re
import select
import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from policyd_rate_limit.errors import ConfigError, Problem
from policyd_rate_limit.storage.drivers import check_options, missing_driver
from policyd_rate_limit.storage.log.contract import LogError, RecordRefused, Statement, named
from policyd_rate_limit.storage.log.server import COMMIT, LONG_SECONDS, SqlLog, TableExists, TableMissing
from policyd_rate_limit.storage.watchdog import resolve

try:
    from psycopg import Error, generators, pq
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
    from psycopg.waiting import Ready, Wait
except ImportError as error:
    raise missing_driver("PostgreSQL", "postgresql", error) from error

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from psycopg.abc import PQGen

    from policyd_rate_limit.storage.log.contract import OldCounts

T = TypeVar("T")

DEFAULT_PORT = "5432"
OLD_COUNTS_PER_FETCH = 10_000
OLD_ROWS_PER_CLEAN = 10_000
MOST_TEXTS = 256  # different statements that are kept as PostgreSQL wants them

# Keyword arguments of psycopg2.connect that are not libpq's; connections of ours have no such thing.
_OF_PSYCOPG2 = frozenset({"connection_factory", "cursor_factory", "async", "async_"})
_PLACE = ("service", "host", "hostaddr", "port", "dbname")  # of libpq's options, none of them secret
_UNDEFINED_TABLE = "42P01"
# duplicate_table, duplicate_object, unique_violation: what CREATE TABLE meets while another makes the same table.
_TABLE_EXISTS = frozenset({"42P07", "42710", "23505"})

# Classes of errors that are about what was to be written: data, constraints, views, triggers, limits of a statement.
_REFUSALS = ("22", "23", "44", "54", "P0")

_SYNCHRONOUS_COMMIT_OFF = "off"

# LOCAL, since behind a pool of connections the session may be another one's next.
_BOUNDS = (
    "SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true),"
    # A daemon that is cut off while it holds the lock must not keep it.
    " set_config('idle_in_transaction_session_timeout', %s, true)"
)
_DECLARE_OLD_COUNTS = (
    "DECLARE old_counts CURSOR FOR SELECT id, date, sum({recipients}) FROM mail_count GROUP BY id, date ORDER BY date"
)
_DELETE_OLD_COUNTS = (
    "WITH deleted AS (DELETE FROM mail_count WHERE ctid = ANY (ARRAY("
    "SELECT ctid FROM mail_count WHERE date < %s::bigint LIMIT %s)) RETURNING 1) SELECT count(*) FROM deleted"
)


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
    ADDED = (
        (
            "policyd_hit_history",
            "CREATE TABLE policyd_hit_history ("
            "hour bigint, "
            "origin bigint, "
            "id char(32), "
            "seconds bigint, "
            "maximum bigint, "
            "kind text, "
            "counter text NOT NULL, "
            "hits bigint NOT NULL, "
            "first bigint NOT NULL, "
            "last bigint NOT NULL, "
            "queue_id text NOT NULL, "
            "details text NOT NULL, "
            "PRIMARY KEY (hour, origin, id, seconds, maximum, kind))",
        ),
        ("policyd_hit_history_id", "CREATE INDEX policyd_hit_history_id ON policyd_hit_history (id, hour)"),
        (
            "policyd_audit",
            "CREATE TABLE policyd_audit ("
            # Not serial: the right to use its sequence would be one more to be granted.
            "number bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, "
            "date bigint NOT NULL, "
            "who text NOT NULL, "
            "from_where text NOT NULL, "
            "action text NOT NULL, "
            "subject text NOT NULL, "
            "detail text NOT NULL, "
            "note text NOT NULL, "
            "origin bigint NOT NULL, "
            "original bigint, "
            "UNIQUE (origin, original))",
        ),
    )
    MAKE_STATE = "INSERT INTO policyd_state VALUES (1, %s, %s) ON CONFLICT DO NOTHING"
    INSTALLATION = "SELECT identity FROM policyd_installation"
    MAKE_INSTALLATION = "INSERT INTO policyd_installation VALUES (1, %s)"
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
    COUNT_TABLES = "SELECT count(to_regclass(%s))"
    MAY_CREATE = "SELECT 1 WHERE has_schema_privilege(current_schema(), 'CREATE')"

    def __init__(self, config: Mapping[str, Any], timeout: float) -> None:
        super().__init__(timeout)
        options = {**connection_options(config), "client_encoding": "UTF8"}
        self._name = f"PostgreSQL {options.get('dbname', '')}@{options.get('host', 'localhost')}"
        self._connection: pq.abc.PGconn | None = None
        self._durability: tuple[Statement, ...] = ()
        limit = float(options.pop("connect_timeout", 0) or 0)
        if limit > 0:
            self._end = min(self._end, time.monotonic() + limit)
        try:
            self._connection = self._connect(options)
            self._connection.enter_pipeline_mode()
        except Error as error:
            raise self._failure(_first_line(str(error))) from error
        if self._connection.parameter_status(b"server_encoding") == b"SQL_ASCII":
            self._query(Statement("SET client_encoding = SQL_ASCII"))  # which takes and gives any bytes
        start = time.monotonic()
        (((synchronous_commit,),),) = self._query(Statement("SHOW synchronous_commit"))
        self._round_trip = time.monotonic() - start
        if synchronous_commit == _SYNCHRONOUS_COMMIT_OFF:
            self._durability = (Statement("SET LOCAL synchronous_commit = local"),)

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
            connecting = generators.connect(make_conninfo(**{**options, **address}))
            try:
                connection: pq.abc.PGconn = _drive(connecting, end)
            except (Error, LogError) as error:
                refusals.append(_first_line(str(error)))
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

    def _query(self, *statements: Statement) -> list[Sequence[Sequence[Any]]]:
        connection = self._connection
        if connection is None:
            raise LogError(f"{self._name}: the connection is closed")
        try:
            results = _drive(_exchange(connection, statements), self._end, connection.socket)
        except (Error, LogError) as error:
            raise self._failure(_first_line(str(error))) from error
        for result in results:
            if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
                raise self._refusal(result)
        if len(results) != len(statements):
            raise self._failure("the connection was closed")
        if statements[-1] == COMMIT and results[-1].command_status != b"COMMIT":
            raise self._failure("the transaction was rolled back")
        return [_rows(result) for result in results]

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

    def _start(self, wait: float) -> list[Statement]:
        milliseconds = math.ceil(self._timeout * 1000)
        bounds = (max(1, int(wait * 1000)), math.ceil(wait * 1000) + milliseconds, milliseconds)
        return [
            Statement("BEGIN ISOLATION LEVEL READ COMMITTED"),
            Statement(_BOUNDS, tuple(map(str, bounds))),
            *self._durability,
        ]

    def _allow(self, seconds: float) -> None:
        self._ask("SELECT set_config('statement_timeout', %s, true)", str(math.ceil(seconds * 1000)))
        super()._allow(seconds)

    def _may_keep_installation(self) -> bool:
        ((may,),) = self._ask(self.MAY_KEEP_INSTALLATION)
        if may is None and self._ask(self.MAY_CREATE):
            self._query(Statement(self.MAKE_INSTALLATION_TABLE))
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
        self._query(Statement(named(_DECLARE_OLD_COUNTS, recipients=recipients)))
        while rows := self._ask(f"FETCH {OLD_COUNTS_PER_FETCH} FROM old_counts"):
            for old_id, date, count in rows:
                yield str(old_id), int(date), int(count)
        self._query(Statement("CLOSE old_counts"))

    def _delete_old_counts(self, before: int) -> int:
        self._end = time.monotonic() + LONG_SECONDS
        (rows,) = self._query(Statement(_DELETE_OLD_COUNTS, (before, OLD_ROWS_PER_CLEAN)))
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


def place_of_dsn(config: Mapping[str, Any]) -> dict[str, str]:
    """Where the database is, and which one, as far as ``dsn`` says so and no other keyword argument takes its place.

    :raises ConfigError: as :func:`connection_options`.
    """
    given = {name for name, value in config.items() if value is not None and name != "dsn"}
    if "database" in given:
        given.add("dbname")
    options = connection_options(config)
    return {name: options[name] for name in _PLACE if name in options and name not in given}


def _value(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _places(options: Mapping[str, str]) -> Iterator[_Place]:
    """The hosts of ``options``, in the order in which they are to be tried.

    conninfo_attempts() of psycopg's newer versions also asks the resolver, and waits for it without an end.
    """
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


def _exchange(connection: pq.abc.PGconn, statements: Sequence[Statement]) -> PQGen[list[pq.abc.PGresult]]:
    """Send ``statements`` at once; the result of each, unless the connection is lost before."""
    for text, parameters in statements:
        # Each is of the type that its place asks for.
        values = [str(value).encode("utf-8", "surrogateescape") for value in parameters]
        connection.send_query_params(_numbered(text), values)
    connection.pipeline_sync()
    yield from generators.send(connection)
    results: list[pq.abc.PGresult] = []
    for _ in statements:
        results += yield from generators.fetch_many(connection)
    yield from generators.fetch_many(connection)  # that all have been answered
    return results


def _drive(generator: Generator[Any, Any, T], end: float, descriptor: int = -1) -> T:
    """What ``generator``, one of psycopg's, comes to by ``end``; unless it names the socket, that is ``descriptor``.

    psycopg.waiting does that as well, but only its newest versions keep an end.

    :raises LogError: nothing comes in time.
    """
    try:
        waits = next(generator)
        while True:
            wanted, descriptor = (waits[1], waits[0]) if isinstance(waits, tuple) else (waits, descriptor)
            poll = select.poll()  # select() knows no descriptors beyond 1023
            readable, writable = (select.POLLIN if wanted & Wait.R else 0), (select.POLLOUT if wanted & Wait.W else 0)
            poll.register(descriptor, readable | writable)
            found = poll.poll(max(0.0, end - time.monotonic()) * 1000)
            if not found:
                raise LogError("no answer in time")
            # Of a connection that is lost libpq is to find out by trying.
            happened = found[0][1] if found[0][1] & (readable | writable) else readable | writable
            ready = (Ready.R if happened & readable else 0) | (Ready.W if happened & writable else 0)
            waits = generator.send(Ready(ready))
    except StopIteration as stop:
        result: T = stop.value
        return result


@functools.lru_cache(MOST_TEXTS)
def _numbered(text: str) -> bytes:
    """The text of a statement as PostgreSQL marks parameters: by number."""
    numbers = itertools.count(1)
    return re.sub("%s", lambda _: f"${next(numbers)}", text).encode()


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
