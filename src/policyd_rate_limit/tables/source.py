"""A table in a database, as rules ask it."""

from __future__ import annotations

import logging
import time
from datetime import date
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.rules.facts import Answer, Source
from policyd_rate_limit.tables.cache import LookupCache, look_up

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from policyd_rate_limit.tables.cache import Lookup

LONGEST_TEXT = 1000
"""The most characters of what a table says; more is nothing."""

_logger = logging.getLogger(__name__)


class CachedSource(Source):
    """Says what ``lookup`` finds, for ``ttl`` seconds without asking again; see :class:`LookupCache`."""

    def __init__(
        self,
        name: str,
        lookup: Lookup,
        *,
        ttl: float,
        timeout: float,
        may_log: Callable[[str], tuple[bool, int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name)
        self._cache = LookupCache(
            lookup,
            text_of_column,
            name=f"tables.{name}",
            meanwhile="nothing is known",
            ttl=ttl,
            timeout=timeout,
            may_log=may_log,
            clock=clock,
        )

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread that asks; nothing is connected before somebody wants to know."""
        self._cache.start(loop)

    async def stop(self) -> None:
        """End the thread, and close the connection."""
        await self._cache.stop()

    def known(self, value: str) -> Answer | None:
        found = self._cache.known((value,))
        return None if found is None else Answer(found.said)

    def ask(self, value: str, done: Callable[[str | None], None], began: float) -> None:
        self._cache.ask((value,), done, began)


class BlockingSource(Source):
    """Asks ``lookup`` at once, for commands. What it raises is raised to whoever looks at a rule.

    Once ``is_silent`` it says nothing, and asks nobody.
    """

    def __init__(self, name: str, lookup: Lookup) -> None:
        super().__init__(name)
        self._lookup = lookup
        self.is_silent = False

    def known(self, value: str) -> Answer:
        if self.is_silent:
            return Answer(None)
        try:
            return Answer(look_up(self._lookup, (value,), text_of_column))
        except ValueError as error:
            _logger.warning("tables.%s for %r: %s; it does not count", self.name, value, error)
            return Answer(None)

    def ask(self, value: str, done: Callable[[str | None], None], began: float) -> None:  # noqa: ARG002
        done(self.known(value).text)

    def close(self) -> None:
        """Let go of the connection."""
        self._lookup.close()


def text_of_column(value: object) -> str:
    """What a column holds, as text: a date in ISO 8601. Raises ValueError where it is no text, or a long one."""
    if isinstance(value, bytes | bytearray | memoryview):
        value = bytes(value).decode()
    text = value.isoformat() if isinstance(value, date) else str(value)
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"expected at most {LONGEST_TEXT} characters, found {len(text)}")
    return text
