"""The limits of single ids from the database: ``sql_limits_by_id``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.limits import Limits, longest_of, parse_limits, parse_limits_text, tolerated_limits
from policyd_rate_limit.tables.cache import LookupCache

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from policyd_rate_limit.tables.cache import Lookup


class SqlLimits:
    """The limits that the table gives to ids.

    ``longest`` is the longest window of the configuration (seconds), ``need`` is told of every longer one before it is
    used. The other parameters are those of :class:`LookupCache`.
    """

    def __init__(
        self,
        lookup: Lookup,
        *,
        ttl: float,
        timeout: float,
        longest: int,
        need: Callable[[int], None],
        may_log: Callable[[str], tuple[bool, int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._longest = longest
        self._need = need
        self._cache = LookupCache(
            lookup,
            limits_of_column,
            name="sql_limits_by_id",
            meanwhile="ids have the limits of the configuration",
            ttl=ttl,
            timeout=timeout,
            may_log=may_log,
            heed=self._heed,
            clock=clock,
        )

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread; nothing is connected before somebody asks."""
        self._cache.start(loop)

    def ask(self, ids: tuple[str, ...], done: Callable[[Limits | None], None], began: float) -> None:
        """Have ``done`` called, at once or later, with the limits of the first of ``ids`` that has any.

        With None where those of the configuration are to be used. All of this happens in the event loop. ``began``: as
        with :meth:`LookupCache.ask`.
        """
        self._cache.ask(ids, done, began)

    @property
    def keep_seconds(self) -> int:
        """As far as any limits look back that were ever seen: the table may give an id others at any time.

        And it may be out of reach for a while.
        """
        return self._longest

    async def stop(self) -> None:
        """End the thread, and close the connection."""
        await self._cache.stop()

    def _heed(self, limits: Limits) -> None:
        """Have the store read back as far as ``limits`` look."""
        longest = longest_of(limits)
        if longest > self._longest:
            self._longest = longest
            self._need(longest)


def limits_of_column(value: object) -> Limits:
    """Limits as a column holds them: text, or a list where the column is an array or JSON. Raises ValueError."""
    if isinstance(value, bytes | bytearray | memoryview):
        value = bytes(value).decode()
    if isinstance(value, str):
        return parse_limits_text(value, tolerant=True)
    return parse_limits(tolerated_limits(value)[0])
