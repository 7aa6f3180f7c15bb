"""Redis and Valkey. Their driver is an extra, and is loaded only where it is asked for."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from policyd_rate_limit.backends.contract import Probe, least_difference, longest_window
from policyd_rate_limit.backends.server import FINE, ServerBackend
from policyd_rate_limit.config.databases import DATABASES, REDIS
from policyd_rate_limit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policyd_rate_limit.domain.identity import Subjects
    from policyd_rate_limit.storage.administration import Administration
    from policyd_rate_limit.storage.copying import Copier
    from policyd_rate_limit.storage.redis.administration import RedisAdministration
    from policyd_rate_limit.storage.redis.store import RedisStore
    from policyd_rate_limit.storage.replica import Memory
    from policyd_rate_limit.tables.redis import RedisLookup


class RedisBackend(ServerBackend):
    """One server, the master that Sentinels name, or a Cluster."""

    database = DATABASES[REDIS]
    grants = (
        "ACL SETUSER USER ~policyd:* +select +time +script|exists +script|load +evalsha +scan"
        " +hget +hmget +hgetall +hkeys +hexists +hset +hsetnx +hdel +get +set +del +exists +type +expire"
    )
    durable = (
        "CONFIG SET appendonly yes\nCONFIG SET appendfsync always\nCONFIG SET maxmemory-policy noeviction"
        "\nCONFIG REWRITE"
    )
    may_list = "ACL SETUSER USER +scan"

    def make_store(self, subjects: Subjects, memory: Memory) -> RedisStore:  # noqa: ARG002 - no version before had it
        from policyd_rate_limit.storage.redis.store import RedisStore

        return RedisStore(self.options, memory, longest=longest_window(self.settings), timeout=self.settings.db_timeout)

    def open_administration(self, subjects: Subjects) -> RedisAdministration:  # noqa: ARG002 - likewise
        from policyd_rate_limit.storage.redis.administration import RedisAdministration

        return RedisAdministration(
            self.options, longest=longest_window(self.settings), timeout=self.settings.db_timeout
        )

    def make_copier(self, administration: Administration) -> Copier:
        from policyd_rate_limit.storage.redis.administration import RedisAdministration
        from policyd_rate_limit.storage.redis.copying import RedisCopying

        assert isinstance(administration, RedisAdministration)  # noqa: S101 - it has been opened here
        return RedisCopying(administration)

    def make_lookup(self) -> None:
        settings = self.settings
        if settings.sql_limits_by_id.strip():
            place = settings.config_file or "configuration"
            wanted = f"nothing with backend {settings.backend}, which has no SQL; limits_by_id does that"
            raise ConfigError([Problem(place, 0, "sql_limits_by_id", wanted, "a query")])

    def lookup(self, table: str) -> RedisLookup:
        from policyd_rate_limit.tables.redis import RedisLookup

        return RedisLookup(self.options, table, self.settings.db_timeout)

    def probe(self) -> Probe:
        from policyd_rate_limit.storage.redis.daemons import RedisDaemons
        from policyd_rate_limit.storage.redis.keys import keys_of
        from policyd_rate_limit.storage.redis.node import Command, NodeError, script
        from policyd_rate_limit.storage.redis.topology import Servers

        timeout = self.settings.db_timeout
        key = f"{keys_of(self.options).prefix}:doctor".encode()
        clock = Command(None, "TIME")
        # There is no such key: nothing is deleted, and nothing is to expire. And the script is asked to decide nothing.
        tries = [
            Command(key, "HGETALL", key),
            Command(key, "HDEL", key, "x"),
            Command(key, "DEL", key),
            Command(key, "EXISTS", key),
            Command(key, "TYPE", key),
            Command(key, "EXPIRE", key, 1),
            script([key], (b"\0" * 8, 0, 0, "")),
        ]

        def ask(commands: Sequence[Command]) -> None:
            """Have them answered. Raises NodeError."""
            error = session.exchange(commands, time.monotonic() + timeout)
            if error is not None:
                raise error

        with contextlib.closing(Servers(self.options, timeout).connect()) as session:
            before = time.time()
            refusal = session.exchange([clock, *tries], time.monotonic() + timeout)
            after = time.time()
            risks = list(session.warnings)
            listing = Command(None, "SCAN", 0, "COUNT", 1)
            unlisted = session.exchange([listing], time.monotonic() + timeout)
            found = None
            if not refusal:
                with contextlib.suppress(NodeError):  # what is known of daemons is no count
                    found = RedisDaemons(keys_of(self.options).prefix, ask).heartbeats()
        ahead = 0.0
        if clock.reply:
            seconds, microseconds = map(int, clock.reply)
            ahead = least_difference(seconds + microseconds / 1e6, before, after)
        now = int(after + ahead)
        unlisted_for = "" if refusal else str(unlisted or "")
        return Probe(FINE, str(refusal or ""), ahead, risks, unlisted_for, heartbeats=found, now=now)
