"""Redis as one of the databases that the contract of the stores is held against."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from redis import Redis

from policyd_rate_limit.storage.redis.store import RedisStore
from policyd_rate_limit.storage.replica import Memory
from storage.stores import HOUR, PATIENCE, new_memory

# Date and amount of all events of a counter.
_EVENTS = """
local m = redis.call('HGET', KEYS[1], 'm')
if not m then return {} end
m = cmsgpack.unpack(m)
local found = {}
for at = m[3], m[3] + m[4] - 2 do
    local event = cmsgpack.unpack(redis.call('HGET', KEYS[1], at))
    found[#found + 1], found[#found + 2] = event[1], event[2]
end
if m[4] > 0 then
    found[#found + 1], found[#found + 2] = m[2] - m[5], m[6]
end
return found
"""
_numbers = itertools.count()


class RedisDatabase:
    """A prefix and a user of its own on the server at ``url``; see :class:`storage.stores.Database`."""

    expires = True

    def __init__(self, directory: pathlib.Path, url: str) -> None:
        self.home = directory
        self.url = url
        self.user = f"test-{os.getpid()}-{next(_numbers)}"
        with self._administrator() as client:
            client.acl_setuser(self.user, enabled=True, nopass=True, keys=[f"{self.user}:*"], commands=["+@all"])

    @property
    def config(self) -> dict[str, Any]:
        """``redis_config``."""
        place = urlsplit(self.url)
        return {"url": f"redis://{self.user}:any@{place.hostname}:{place.port}{place.path}", "prefix": self.user}

    def store(
        self,
        clock: Callable[[], float] | None,
        *,
        memory: Memory | None = None,
        longest: int = HOUR,
        counters_of_old_id: Callable[[str], Sequence[str]] = lambda old_id: (),
    ) -> RedisStore:
        """A store on it; there is nothing old in Redis. Without a clock: the server's."""
        return RedisStore(
            self.config, memory or new_memory(clock or time.time), longest=longest, timeout=PATIENCE, clock=clock
        )

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Nobody can log in."""
        with self._administrator() as client:
            client.acl_setuser(self.user, enabled=False, reset=False)
            client.client_kill_filter(user=self.user)
            yield
            client.acl_setuser(self.user, enabled=True, reset=False)

    def usage(self, now: float) -> dict[str, int]:
        found: dict[str, int] = {}
        with self._administrator() as client:
            events = client.register_script(_EVENTS)
            for key in client.scan_iter(f"{self.user}:c:*"):
                counter = key.partition(b"{")[2][:-1].partition(b":")[2].decode()
                numbers = events(keys=[key])
                dated = zip(numbers[::2], numbers[1::2], strict=True)
                found[counter] = sum(amount for date, amount in dated if date > now - HOUR)
        return {counter: amount for counter, amount in found.items() if amount}

    def _administrator(self) -> Redis:
        return Redis.from_url(self.url, protocol=2)
