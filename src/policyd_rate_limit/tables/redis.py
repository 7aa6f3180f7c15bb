"""A table in a hash of Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policyd_rate_limit.storage.redis.link import Link
from policyd_rate_limit.storage.redis.node import Command, NodeError
from policyd_rate_limit.tables.cache import QueryFailed, Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping


class RedisLookup:
    """Asks the hash ``name`` of the servers of ``redis_config``.

    It is a :class:`policyd_rate_limit.tables.cache.Lookup`, whose methods are described there. ``timeout`` (seconds)
    bounds each lookup.

    :raises ConfigError: something in ``config`` is wrong.
    """

    def __init__(self, config: Mapping[str, Any], name: str, timeout: float) -> None:
        self._link = Link(config, timeout)
        self._key = name.encode()

    def first_column(self, identifier: str) -> object:
        # HGET says nil where nothing is, as if there were no reply.
        command = Command(self._key, "HMGET", self._key, identifier.encode())
        try:
            self._link.run([command], self._link.end())
        except NodeError as error:
            raise (QueryFailed if error.may_be_of_keys else Unreachable)(str(error)) from error
        (found,) = command.reply
        return found

    def close(self) -> None:
        self._link.close()
