"""The stores that daemons of several hosts may share, each as the settings that a daemon needs for it.

A store that joins is one more row of :data:`STORES`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import pathlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from support import redis_servers, sql_servers
from support.public import public_directory

T = TypeVar("T")


class Server(NamedTuple):
    """Where a store listens, and the settings that reach it at another address instead."""

    address: tuple[str, int]
    settings_at: Callable[[str, int], dict[str, Any]]


class SharedStore(NamedTuple):
    """An empty store for one test.

    ``settings``: of a daemon that uses it. ``server``: None where there is no single one to put a proxy in front of.
    """

    settings: dict[str, Any]
    server: Server | None = None


def sqlite(directory: pathlib.Path) -> AbstractContextManager[SharedStore]:
    """A file, for daemons of one host."""
    return contextlib.nullcontext(SharedStore({"sqlite_config": {"database": str(directory / "shared.sqlite3")}}))


@contextlib.contextmanager
def _sql(kind: type[sql_servers.SqlServer], backend: str, setting: str) -> Iterator[SharedStore]:
    server = sql_servers.shared(kind)
    config = server.create()

    def settings_at(host: str, port: int) -> dict[str, Any]:
        return {"backend": backend, setting: {**config, "host": host, "port": port}}

    try:
        address = (server.host, server.port)
        yield SharedStore(settings_at(*address), Server(address, settings_at))
    finally:
        server.drop(config)


def postgresql(_: pathlib.Path) -> AbstractContextManager[SharedStore]:
    """A database of PostgreSQL."""
    return _sql(sql_servers.PostgresqlServer, "postgresql", "pgsql_config")


def mariadb(_: pathlib.Path) -> AbstractContextManager[SharedStore]:
    """A database of MariaDB."""
    return _sql(sql_servers.MariadbServer, "mysql", "mysql_config")


@contextlib.contextmanager
def redis(_: pathlib.Path) -> Iterator[SharedStore]:
    """Keys of their own in Redis or Valkey."""
    prefix = _new_prefix()
    url = urlsplit(_single().url)
    account, at, _where = url.netloc.rpartition("@")

    def settings_at(host: str, port: int) -> dict[str, Any]:
        there = url._replace(netloc=f"{account}{at}{host}:{port}")
        return {"backend": "redis", "redis_config": {"url": there.geturl(), "prefix": prefix}}

    address = (url.hostname or "127.0.0.1", url.port or 6379)
    yield SharedStore(settings_at(*address), Server(address, settings_at))


@contextlib.contextmanager
def redis_cluster(_: pathlib.Path) -> Iterator[SharedStore]:
    """Keys of their own in a Cluster of three masters."""
    yield SharedStore(
        {"backend": "redis", "redis_config": {"url": _cluster().url, "cluster": True, "prefix": _new_prefix()}}
    )


STORES: Mapping[str, Callable[[pathlib.Path], AbstractContextManager[SharedStore]]] = {
    "sqlite": sqlite,
    "postgresql": postgresql,
    "mariadb": mariadb,
    "redis": redis,
    "redis-cluster": redis_cluster,
}


@functools.cache
def _single() -> redis_servers.RedisServer | redis_servers.External:
    """The one Redis for all tests of this process; it ends with the process."""
    return _until_exit(redis_servers.single(_directory_until_exit()))


@functools.cache
def _cluster() -> redis_servers.RedisServer:
    """A node of the one Cluster for all tests of this process; it ends with the process."""
    return _until_exit(redis_servers.cluster(_directory_until_exit()))[0]


def _directory_until_exit() -> pathlib.Path:
    return _until_exit(public_directory()) / "redis"


def _until_exit(resource: AbstractContextManager[T]) -> T:
    stack = contextlib.ExitStack()
    entered = stack.enter_context(resource)
    atexit.register(stack.close)
    return entered


def _new_prefix() -> str:
    return f"policyd-{uuid.uuid4().hex[:12]}"
