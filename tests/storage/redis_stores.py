"""Stores on servers of Redis as the tests of them make them."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest

from policyd_rate_limit.domain.charge import Demand, Verdict
from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.redis.store import RedisStore
from storage.stores import demand, new_memory
from support.redis_servers import External, RedisServer
from support.stopwatch import Stopwatch

TIMEOUT = 10.0
SHORT = 0.5
SECRET = "s3cret/#?%"
_prefixes = (f"test{number}" for number in itertools.count())


def new_prefix() -> str:
    """One that no other store of this process has."""
    return next(_prefixes)


class Unresting:
    """A clock of which sleeping takes no time, and the end comes as if it did.

    So a store has whole seconds for each of its tries, and a test does not wait for their number. ``longer``: seconds
    that each sleep takes beyond what was asked for, as on a busy machine.
    """

    def __init__(self, longer: float = 0.0) -> None:
        self._slept = 0.0
        self._longer = longer

    def monotonic(self) -> float:
        return time.monotonic() + self._slept

    def sleep(self, seconds: float) -> None:
        self._slept += seconds + self._longer


def new_store(
    config: dict[str, Any], timeout: float = TIMEOUT, *, rests: bool = True, longer: float = 0.0
) -> RedisStore:
    unresting = Unresting(longer)
    monotonic, sleep = (time.monotonic, time.sleep) if rests else (unresting.monotonic, unresting.sleep)
    return RedisStore(config, new_memory(time.time), longest=86400, timeout=timeout, monotonic=monotonic, sleep=sleep)


@contextlib.contextmanager
def store_on(
    server: RedisServer | External,
    timeout: float = TIMEOUT,
    *,
    rests: bool = True,
    longer: float = 0.0,
    **options: Any,
) -> Iterator[RedisStore]:
    """A store with a prefix of its own, unless ``options`` name one; unless it ``rests``, see :class:`Unresting`."""
    config = {"url": server.url, "prefix": new_prefix(), **options}
    with contextlib.closing(new_store(config, timeout, rests=rests, longer=longer)) as store:
        yield store


def ask(store: RedisStore, *demands: Demand) -> list[Verdict]:
    return store.admit(demands, (), 1.0)


def refused(store: RedisStore, match: str) -> None:
    """A batch fails, in one line, in time, and without having counted."""
    watch = Stopwatch()
    with pytest.raises(StoreUnavailable, match=match) as failure:
        ask(store, demand("user:refused", 1))
    assert watch.seconds < TIMEOUT
    assert "\n" not in str(failure.value)
    assert SECRET not in str(failure.value)
