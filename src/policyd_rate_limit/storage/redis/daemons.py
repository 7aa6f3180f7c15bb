"""The heartbeats of daemons in Redis.

One key, which a Cluster keeps together with the overrides::

    policyd:{administration}:daemons  hash: run of a daemon -> JSON: Unix second in which it was heard, and what it says

See :mod:`policyd_rate_limit.storage.heartbeat`.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from policyd_rate_limit.storage.heartbeat import FORGOTTEN_SECONDS, MOST_DAEMONS, heartbeat_of
from policyd_rate_limit.storage.redis.encoding import pairs
from policyd_rate_limit.storage.redis.node import Command

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from policyd_rate_limit.storage.heartbeat import Heartbeat
    from policyd_rate_limit.storage.redis.node import Argument

_logger = logging.getLogger(__name__)


class RedisDaemons:
    """The heartbeats under ``prefix``; ``run`` has commands answered, or raises StoreError."""

    def __init__(self, prefix: str, run: Callable[[Sequence[Command]], object]) -> None:
        self._key = f"{prefix}:{{administration}}:daemons".encode()
        self._run = run

    def beat(self, heartbeat: Heartbeat, *, is_first: bool) -> None:
        """Keep ``heartbeat``; the first one of a run takes the place of those that were at work there before."""
        if is_first:
            self._forget([one.run for one in self._all() if one.place == heartbeat.place and one.run != heartbeat.run])
        self._ask("HSET", heartbeat.run, json.dumps([heartbeat.heard, heartbeat.words]))

    def leave(self, run: str) -> None:
        """The daemon of that ``run`` ends by itself: nobody has to miss it."""
        self._forget([run])

    def heartbeats(self) -> list[Heartbeat]:
        """Those of all daemons, heard of last first."""
        return sorted(self._all(), key=lambda one: (-one.heard, one.run))[:MOST_DAEMONS]

    def clean(self, now: int) -> None:
        """Forget the daemons of which nothing was heard for long ``now``, or that are too many."""
        wanted = {one.run for one in self.heartbeats() if one.heard >= now - FORGOTTEN_SECONDS}
        self._forget([one.run for one in self._all() if one.run not in wanted])

    def _all(self) -> list[Heartbeat]:
        found = []
        for run, value in pairs(self._ask("HGETALL")):
            try:
                heard, words = json.loads(value)
                found.append(heartbeat_of(run.decode("ascii", "replace"), int(heard), str(words)))
            except (ValueError, TypeError) as error:
                _logger.error("what %r says of itself cannot be understood and is left out: %s", run, error)
        return found

    def _forget(self, runs: Sequence[str]) -> None:
        if runs:
            self._ask("HDEL", *runs)

    def _ask(self, name: str, *arguments: Argument) -> Any:
        command = Command(self._key, name, self._key, *arguments)
        self._run([command])
        return command.reply
