"""What the tests of the stores share."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Callable, Iterator

import pytest

from storage.logs import MariadbLogs, PostgresqlLogs, ServerLogs
from storage.redis_database import RedisDatabase
from storage.stores import Clock, Database, SqliteDatabase, WaitingSqliteDatabase, in_memory
from support.redis_servers import External, RedisServer, single

DATABASES = (
    pytest.param(SqliteDatabase, id="sqlite"),
    pytest.param(WaitingSqliteDatabase, id="sqlite-waiting"),
    pytest.param(RedisDatabase, id="redis"),
)


@pytest.fixture
def clock() -> Clock:
    """The clock of all daemons of one test."""
    return Clock()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of Redis or Valkey, for tests that keep to a prefix of their own."""
    with single(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer | External]:
    """A server of Redis or Valkey for tests that leave it as it is, each with a prefix of its own."""
    with single(tmp_path_factory.mktemp("redis")) as server, server.client() as client:
        yield server
        client.flushdb()


@pytest.fixture
def own(tmp_path: pathlib.Path) -> Iterator[RedisServer]:
    """A server that a test may do anything to."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Database:
    """An empty database of each kind."""
    make: Callable[..., Database] = request.param
    if make is RedisDatabase:
        return make(tmp_path, request.getfixturevalue("redis_url"))
    return make(tmp_path)


@pytest.fixture(params=[pytest.param(PostgresqlLogs, id="postgresql"), pytest.param(MariadbLogs, id="mariadb")])
def logs(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[ServerLogs]:
    """An empty database on each server with SQL."""
    make: Callable[[pathlib.Path], ServerLogs] = request.param
    database = make(tmp_path)
    yield database
    database.close()


@pytest.fixture
def memory_directory(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """An empty directory on no disk, where there is such a thing: for thousands of transactions."""
    with tempfile.TemporaryDirectory(dir=in_memory() or tmp_path, prefix="policyd-test-") as name:
        yield pathlib.Path(name)


@pytest.fixture
def sqlite(tmp_path: pathlib.Path) -> SqliteDatabase:
    """An SQLite database, for what concerns no other kind."""
    return SqliteDatabase(tmp_path)
