"""Databases for the benchmark: the servers that the tests start, but with full durability.

What they have committed is on disk before they say so, as a mail administrator would run them.
"""

from __future__ import annotations

import contextlib
import pathlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "tests"))

import pytest

from support import redis_servers, sql_servers


class Server(NamedTuple):
    """``settings``: what leads a daemon to it. ``process``: its first process, None where there is no server."""

    settings: dict[str, Any]
    process: int | None = None


Database = Callable[[pathlib.Path], AbstractContextManager[Server]]
"""An empty server in a directory that is not there yet."""

NotInstalled: type[BaseException] = pytest.skip.Exception
"""What a server raises that this machine lacks."""


@contextlib.contextmanager
def sqlite(_: pathlib.Path) -> Iterator[Server]:
    """The database that every configuration of the benchmark names."""
    yield Server({})


@contextlib.contextmanager
def postgresql(directory: pathlib.Path) -> Iterator[Server]:
    """PostgreSQL with its default durability."""
    with _running(
        sql_servers.PostgresqlServer(directory), "--fsync=on", "--synchronous_commit=on", "--shared_buffers=128MB"
    ) as server:
        yield Server({"backend": "postgresql", "pgsql_config": server.create()}, _process(server))


@contextlib.contextmanager
def mariadb(directory: pathlib.Path) -> Iterator[Server]:
    """MariaDB with its default durability."""
    with _running(
        sql_servers.MariadbServer(directory),
        *("--innodb-flush-log-at-trx-commit=1", "--innodb-buffer-pool-size=128M", "--innodb-log-file-size=96M"),
    ) as server:
        yield Server({"backend": "mysql", "mysql_config": server.create()}, _process(server))


@contextlib.contextmanager
def redis(directory: pathlib.Path) -> Iterator[Server]:
    """Redis or Valkey, with ``appendfsync always``."""
    with redis_servers.RedisServer(directory, appendonly="yes", appendfsync="always") as server:
        yield Server({"backend": "redis", "redis_config": {"url": server.url}}, _process(server))


@contextlib.contextmanager
def _running(server: sql_servers.SqlServer, *options: str) -> Iterator[sql_servers.SqlServer]:
    server.start(*options)
    try:
        yield server
    finally:
        server.stop(server.quickly)


def _process(server: sql_servers.SqlServer | redis_servers.RedisServer) -> int:
    assert server.process is not None
    return server.process.pid
