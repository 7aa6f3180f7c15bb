"""Databases for the benchmark: the servers that the tests start, but with full durability.

What they have committed is on disk before they say so, as a mail administrator would run them.
"""

from __future__ import annotations

import contextlib
import pathlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "tests"))

from support import redis_servers, sql_servers

# A server that is away must not look fast: the load expects another answer than this one.
_COMMON = {"db_error_action": "defer_if_permit the database is away"}

Database = Callable[[pathlib.Path], AbstractContextManager[dict[str, Any]]]
"""An empty server in a directory that is not there yet: the settings that lead to it."""


@contextlib.contextmanager
def sqlite(_: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The database that every configuration of the benchmark names."""
    yield {}


@contextlib.contextmanager
def postgresql(directory: pathlib.Path) -> Iterator[dict[str, Any]]:
    """PostgreSQL with its default durability."""
    with _running(
        sql_servers.PostgresqlServer(directory), "--fsync=on", "--synchronous_commit=on", "--shared_buffers=128MB"
    ) as server:
        yield {**_COMMON, "backend": "postgresql", "pgsql_config": server.create()}


@contextlib.contextmanager
def mariadb(directory: pathlib.Path) -> Iterator[dict[str, Any]]:
    """MariaDB with its default durability."""
    with _running(
        sql_servers.MariadbServer(directory),
        *("--innodb-flush-log-at-trx-commit=1", "--innodb-buffer-pool-size=128M", "--innodb-log-file-size=96M"),
    ) as server:
        yield {**_COMMON, "backend": "mysql", "mysql_config": server.create()}


@contextlib.contextmanager
def redis(directory: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Redis or Valkey, with ``appendfsync always``."""
    with redis_servers.RedisServer(directory, appendonly="yes", appendfsync="always") as server:
        yield {**_COMMON, "backend": "redis", "redis_config": {"url": server.url}}


@contextlib.contextmanager
def _running(server: sql_servers.SqlServer, *options: str) -> Iterator[sql_servers.SqlServer]:
    server.start(*options)
    try:
        yield server
    finally:
        server.stop(server.quickly)
