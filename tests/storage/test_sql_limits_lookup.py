"""The query for the limits of an id, asked of real databases."""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.tables.cache import QueryFailed, Unreachable, look_up
from policyd_rate_limit.tables.limits import limits_of_column
from policyd_rate_limit.tables.lookup import SqlLookup
from policyd_rate_limit.tables.mysql import MysqlLookup
from policyd_rate_limit.tables.postgresql import PostgresqlLookup
from policyd_rate_limit.tables.sqlite import SqliteLookup
from support import sql_servers
from support.tcp_proxy import TcpProxy

TIMEOUT = 5.0  # seconds, on a machine that is busy
FIVE = (Limit(5, 60),)
STRANGE_IDS = (
    "o'brien@example.org",
    'quo"ted',
    "back\\slash\\'",
    "semi; DROP TABLE rate_limits; --",
    "' OR '1'='1",
    "' UNION SELECT '[]' -- ",
    "%s",
    "%(id)s",
    "100%",
    "?",
    "${id}",
    "straße",
    "😀@example.org",
    "new\nline",
    "x" * 300,
)


class Table(ABC):
    """The table ``rate_limits`` of one test, in a database of its own."""

    placeholder = "%s"
    slow: str  # a query that takes very long

    @abstractmethod
    def execute(self, *statements: str) -> None:
        """What an administrator does to the database."""

    @abstractmethod
    def insert(self, identifier: str, limits: str | None) -> None:
        """Add a row."""

    @abstractmethod
    def lookup(self, query: str | None = None, timeout: float = TIMEOUT, **options: Any) -> SqlLookup:
        """A lookup with ``query``, which is the usual one unless given."""

    def query(self) -> str:
        """The usual query."""
        return f"SELECT limits FROM rate_limits WHERE id = {self.placeholder}"

    def close(self) -> None:  # noqa: B027 - there may be nothing to remove
        """Remove the database."""


class SqliteTable(Table):
    """In a file."""

    placeholder = "?"
    slow = (
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
        "SELECT count(*) FROM n WHERE x <> ? AND x < 1000000000000"
    )

    def __init__(self, directory: pathlib.Path) -> None:
        self.path = directory / "a ?%#.sqlite3"
        self.execute("PRAGMA journal_mode=WAL", "CREATE TABLE rate_limits (id TEXT, limits TEXT)")

    def execute(self, *statements: str) -> None:
        with contextlib.closing(sqlite3.connect(self.path)) as database, database:
            for statement in statements:
                database.execute(statement)

    def insert(self, identifier: str, limits: str | None) -> None:
        with contextlib.closing(sqlite3.connect(self.path)) as database, database:
            database.execute("INSERT INTO rate_limits VALUES (?, ?)", (identifier, limits))

    def lookup(self, query: str | None = None, timeout: float = TIMEOUT, **_: Any) -> SqlLookup:
        return SqliteLookup(self.path, query or self.query(), timeout)


class ServerTable(Table):
    """In a server that all tests share."""

    kind: type[sql_servers.SqlServer]

    def __init__(self) -> None:
        self.server = sql_servers.shared(self.kind)
        self.config = self.server.create()
        self.database: str = self.config.get("database") or self.config["db"]

    def execute(self, *statements: str) -> None:
        self.server.admin(*statements, database=self.database)

    def close(self) -> None:
        self.server.drop(self.config)


class PostgresqlTable(ServerTable):
    """In PostgreSQL."""

    kind = sql_servers.PostgresqlServer
    slow = "SELECT pg_sleep(60) WHERE %s <> ''"

    def __init__(self) -> None:
        super().__init__()
        self.execute(
            "CREATE TABLE rate_limits (id text PRIMARY KEY, limits text)",
            f"GRANT SELECT ON rate_limits TO {self.config['user']}",
        )

    def insert(self, identifier: str, limits: str | None) -> None:
        id_, its = (_literal(text, "'") for text in (identifier, limits))
        self.execute(f"INSERT INTO rate_limits VALUES ({id_}, {its})")

    def lookup(self, query: str | None = None, timeout: float = TIMEOUT, **options: Any) -> SqlLookup:
        return PostgresqlLookup({**self.config, **options}, query or self.query(), timeout)


class MariadbTable(ServerTable):
    """In MariaDB."""

    kind = sql_servers.MariadbServer
    slow = "SELECT sleep(60) WHERE %s <> ''"

    def __init__(self) -> None:
        super().__init__()
        self.execute("CREATE TABLE rate_limits (id varchar(300) PRIMARY KEY, limits text) CHARACTER SET utf8mb4")

    def insert(self, identifier: str, limits: str | None) -> None:
        id_, its = (_literal(text, "'\\") for text in (identifier, limits))
        self.execute("SET NAMES utf8mb4", f"INSERT INTO rate_limits VALUES ({id_}, {its})")

    def lookup(self, query: str | None = None, timeout: float = TIMEOUT, **options: Any) -> SqlLookup:
        return MysqlLookup({**self.config, **options}, query or self.query(), timeout)


def _literal(text: str | None, special: str) -> str:
    if text is None:
        return "NULL"
    return "'" + "".join(character * 2 if character in special else character for character in text) + "'"


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def table(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Table]:
    """An empty table in each database."""
    made: Table
    if request.param == "sqlite":
        made = SqliteTable(tmp_path)
    else:
        made = PostgresqlTable() if request.param == "postgresql" else MariadbTable()
    yield made
    made.close()


@pytest.fixture(params=["postgresql", "mariadb"])
def server_table(request: pytest.FixtureRequest) -> Iterator[ServerTable]:
    """An empty table in each server."""
    made: ServerTable = PostgresqlTable() if request.param == "postgresql" else MariadbTable()
    yield made
    made.close()


@contextlib.contextmanager
def closing(lookup: SqlLookup) -> Iterator[SqlLookup]:
    try:
        yield lookup
    finally:
        lookup.close()


def test_a_row_null_and_no_row(table: Table) -> None:
    table.insert("alice", "[[5, 60]]")
    table.insert("free", "[]")
    table.insert("null", None)
    table.insert("wrong", "nonsense")
    with closing(table.lookup()) as lookup:
        assert look_up(lookup, ("alice",), limits_of_column) == FIVE
        assert look_up(lookup, ("nobody", "alice"), limits_of_column) == FIVE
        assert look_up(lookup, ("free",), limits_of_column) == ()
        assert look_up(lookup, ("null",), limits_of_column) is None
        assert look_up(lookup, ("nobody",), limits_of_column) is None
        with pytest.raises(ValueError, match="nonsense"):
            look_up(lookup, ("wrong",), limits_of_column)
        table.insert("nobody", "7/1m")
        assert look_up(lookup, ("nobody",), limits_of_column) == (Limit(7, 60),)


def test_only_the_first_column_of_the_first_row_counts(table: Table) -> None:
    table.insert("alice", "[[5, 60]]")
    table.insert("bob", "[[6, 60]]")
    query = f"SELECT limits, 'x', id FROM rate_limits WHERE id >= {table.placeholder} ORDER BY id"
    with closing(table.lookup(query)) as lookup:
        for _ in range(3):  # what is left of a result does not disturb the next one
            assert look_up(lookup, ("alice",), limits_of_column) == FIVE


def test_ids_are_values_whatever_is_in_them(table: Table) -> None:
    table.insert("alice", "[[9, 60]]")
    with closing(table.lookup()) as lookup:
        for identifier in STRANGE_IDS:
            assert look_up(lookup, (identifier,), limits_of_column) is None
        for number, identifier in enumerate(STRANGE_IDS):
            table.insert(identifier, f"[[{number}, 60]]")
        found = [look_up(lookup, (identifier,), limits_of_column) for identifier in STRANGE_IDS]
        assert found == [(Limit(number, 60),) for number in range(len(STRANGE_IDS))]
        assert look_up(lookup, ("a\0b",), limits_of_column) is None
        assert look_up(lookup, ("a\udcff",), limits_of_column) is None
        assert look_up(lookup, ("alice",), limits_of_column) == (Limit(9, 60),)


def test_a_literal_percent_sign(table: Table) -> None:
    table.insert("alice", "[[5, 60]]")
    percent = "%" if isinstance(table, SqliteTable) else "%%"
    with closing(table.lookup(f"{table.query()} AND limits LIKE '[[{percent}'")) as lookup:
        assert look_up(lookup, ("alice",), limits_of_column) == FIVE


@pytest.mark.parametrize("query", ["SELECT limits FROM nowhere WHERE id = {}", "SELEKT {}", "SELECT 1"])
def test_a_query_that_is_refused_leaves_the_connection(table: Table, query: str) -> None:
    with closing(table.lookup(query.format(table.placeholder))) as lookup:
        for _ in range(2):
            with pytest.raises(QueryFailed):
                lookup.first_column("alice")


def test_a_table_that_comes_later(table: Table) -> None:
    with closing(table.lookup(f"SELECT limits FROM later WHERE id = {table.placeholder}")) as lookup:
        with pytest.raises(QueryFailed):
            lookup.first_column("alice")
        table.execute("CREATE TABLE later AS SELECT 'alice' AS id, '[[5, 60]]' AS limits")
        if isinstance(table, PostgresqlTable):
            table.execute(f"GRANT SELECT ON later TO {table.config['user']}")
        assert look_up(lookup, ("alice",), limits_of_column) == FIVE


def unreachable_in_time(lookup: SqlLookup) -> None:
    start = time.monotonic()
    with pytest.raises(Unreachable):
        lookup.first_column("alice")
    assert time.monotonic() - start < TIMEOUT


def test_a_slow_query_is_bounded(table: Table) -> None:
    with closing(table.lookup(table.slow, timeout=0.5)) as lookup:
        unreachable_in_time(lookup)


def test_postgresql_itself_is_told_how_long_a_query_may_take() -> None:
    """Or each look-up that was given up would leave one running there. A pool gives the session to others later."""
    table = PostgresqlTable()
    try:
        with closing(table.lookup("SELECT setting, %s FROM pg_settings WHERE name = 'statement_timeout'")) as lookup:
            milliseconds = int(str(lookup.first_column("alice")))
            assert 0 < milliseconds <= TIMEOUT * 1000
            assert isinstance(lookup, PostgresqlLookup)
            assert lookup._session is not None
            assert lookup._session[0].execute("SHOW statement_timeout").fetchone() == ("0",)
    finally:
        table.close()


def test_a_server_that_is_frozen_is_waited_for_no_longer(server_table: ServerTable) -> None:
    server_table.insert("alice", "[[5, 60]]")
    with closing(server_table.lookup()) as lookup:
        assert look_up(lookup, ("alice",), limits_of_column) == FIVE
        lookup._timeout = 0.5
        with server_table.server.frozen():
            unreachable_in_time(lookup)
    with closing(server_table.lookup()) as lookup:
        assert look_up(lookup, ("alice",), limits_of_column) == FIVE


def test_a_server_that_does_not_speak_is_waited_for_no_longer(server_table: ServerTable) -> None:
    proxy = TcpProxy((server_table.server.host, server_table.server.port))
    proxy.mute()
    with closing(server_table.lookup(timeout=0.5, port=proxy.port)) as lookup:
        unreachable_in_time(lookup)


def test_a_connection_that_was_cut_is_replaced(server_table: ServerTable) -> None:
    server_table.insert("alice", "[[5, 60]]")
    proxy = TcpProxy((server_table.server.host, server_table.server.port))
    with closing(server_table.lookup(port=proxy.port)) as lookup:
        assert look_up(lookup, ("alice",), limits_of_column) == FIVE
        proxy.cut()
        assert look_up(lookup, ("alice",), limits_of_column) == FIVE  # within the same lookup
        proxy.refuse()
        with pytest.raises(Unreachable):
            lookup.first_column("alice")
        proxy.admit()
        assert look_up(lookup, ("alice",), limits_of_column) == FIVE
        assert look_up(lookup, ("bob",), limits_of_column) is None


def test_ids_that_a_narrow_character_set_lacks() -> None:
    table = PostgresqlTable()
    other = f"{table.database}_latin"
    try:
        table.server.admin(f"CREATE DATABASE {other} ENCODING 'LATIN1' TEMPLATE template0 OWNER {table.config['user']}")
        table.server.admin(
            "CREATE TABLE rate_limits (id text, limits text)",
            "INSERT INTO rate_limits VALUES ('alice', '[[5, 60]]')",
            f"GRANT SELECT ON rate_limits TO {table.config['user']}",
            database=other,
        )
        with closing(table.lookup(database=other)) as lookup:
            assert look_up(lookup, ("😀",), limits_of_column) is None
            assert look_up(lookup, ("alice",), limits_of_column) == FIVE
    finally:
        table.server.admin(f"DROP DATABASE {other} WITH (FORCE)")
        table.close()


def test_columns_of_other_types_in_postgresql() -> None:
    table = PostgresqlTable()
    try:
        for expression in ("'[[5, 60]]'::jsonb", "'[[5, 60]]'::json", "ARRAY[[5, 60]]", "'[[5, 60]]'::bytea"):
            with closing(table.lookup(f"SELECT {expression} WHERE %s <> ''")) as lookup:
                assert look_up(lookup, ("alice",), limits_of_column) == FIVE, expression
    finally:
        table.close()


def test_a_file_that_is_replaced(tmp_path: pathlib.Path) -> None:
    table = SqliteTable(tmp_path)
    table.insert("alice", "[[5, 60]]")
    with closing(table.lookup()) as lookup:
        assert look_up(lookup, ("alice",), limits_of_column) == FIVE
        with mock.patch.object(sqlite3, "connect", side_effect=AssertionError):  # it is the same file
            assert look_up(lookup, ("alice",), limits_of_column) == FIVE
        for path in tmp_path.glob(f"{table.path.name}*".replace("?", "[?]")):
            path.unlink()
        with pytest.raises(Unreachable):
            lookup.first_column("alice")
        assert not table.path.exists()
        table = SqliteTable(tmp_path)
        table.insert("alice", "[[6, 60]]")
        assert look_up(lookup, ("alice",), limits_of_column) == (Limit(6, 60),)


def test_the_query_cannot_write_to_the_file(tmp_path: pathlib.Path) -> None:
    table = SqliteTable(tmp_path)
    table.insert("alice", "[[5, 60]]")
    with closing(table.lookup("DELETE FROM rate_limits WHERE id = ?")) as lookup, pytest.raises(QueryFailed):
        lookup.first_column("alice")
    with closing(table.lookup()) as lookup:
        assert look_up(lookup, ("alice",), limits_of_column) == FIVE


def test_a_file_that_others_write_to_is_read(tmp_path: pathlib.Path) -> None:
    table = SqliteTable(tmp_path)
    table.insert("alice", "[[5, 60]]")
    with contextlib.closing(sqlite3.connect(table.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM rate_limits")
        with closing(table.lookup()) as lookup:
            assert look_up(lookup, ("alice",), limits_of_column) == FIVE
        other.execute("ROLLBACK")
