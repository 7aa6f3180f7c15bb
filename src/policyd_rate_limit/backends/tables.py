"""The tables of the configuration, for daemons and for commands."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from policyd_rate_limit.config.references import query_for
from policyd_rate_limit.config.tables import FILE, IN_PLACE, SQL
from policyd_rate_limit.domain.limits import shown
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.domain.rules.asked import Asked
from policyd_rate_limit.domain.rules.listed import Listed
from policyd_rate_limit.domain.rules.tables import LIMITS
from policyd_rate_limit.system.throttle import Throttle
from policyd_rate_limit.tables.file import FileTable, FileWatch
from policyd_rate_limit.tables.source import BlockingSource, CachedSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.backends.contract import Backend
    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.config.tables import TableSettings
    from policyd_rate_limit.domain.rules.facts import Source
    from policyd_rate_limit.domain.rules.tables import Table
    from policyd_rate_limit.tables.cache import Lookup

_logger = logging.getLogger(__name__)

WARNING_SECONDS = 60.0  # between two lines about the same trouble with a table


class Tables:
    """The tables of ``settings``, by name, which a daemon asks without waiting; those in databases by ``backend``.

    ``pause`` is called now and then while they are made of many entries.

    :raises ConfigError: a driver is not installed, or its options are wrong.
    """

    def __init__(self, settings: Settings, backend: Backend, pause: Callable[[], object] | None = None) -> None:
        self._sources: list[CachedSource] = []
        self._ttl = settings.tables_ttl
        self._timeout = settings.db_timeout
        self.by_name = make_tables(settings, backend, self._cached, pause)
        self._files = [table for table in self.by_name.values() if isinstance(table, FileTable)]
        self._watch = FileWatch(self._files)
        self._wrong_limits = Throttle(WARNING_SECONDS, time.monotonic)

    def _cached(self, name: str, lookup: Lookup) -> Source:
        may_log = Throttle(WARNING_SECONDS, time.monotonic).hit
        source = CachedSource(name, lookup, ttl=self._ttl, timeout=self._timeout, may_log=may_log)
        self._sources.append(source)
        return source

    def warn_of_no_limits(self, table: str, value: str, said: str) -> None:
        """A rule takes its limits of ``table``, and what it has ``said`` of ``value`` is none."""
        log_it, suppressed = self._wrong_limits.hit(f"{table} {value}")
        if log_it:
            more = f" ({quantity(suppressed, 'more time')} since the last such line)" if suppressed else ""
            _logger.warning(
                "tables.%s for %r: expected %s, found %s; it does not count%s",
                *(table, value, LIMITS, shown(said), more),
            )

    def read(self) -> None:
        """Read those in files, once it is known what they are asked about. It blocks."""
        for table in self._files:
            table.look()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look things up when somebody asks, and files when they change."""
        for source in self._sources:
            source.start(loop)
        self._watch.start()

    async def stop(self) -> None:
        """End the threads, and close connections."""
        self._watch.stop()
        await asyncio.gather(*(source.stop() for source in self._sources))


def make_tables(
    settings: Settings,
    backend: Backend,
    source_of: Callable[[str, Lookup], Source],
    pause: Callable[[], object] | None = None,
) -> dict[str, Table]:
    """The tables of ``settings``, by name; ``source_of`` makes what asks one in a database, of its name.

    :raises ConfigError: a driver is not installed, or its options are wrong.
    """
    return {table.name: _table(table, settings, backend, source_of, pause) for table in settings.tables}


def _table(
    table: TableSettings,
    settings: Settings,
    backend: Backend,
    source_of: Callable[[str, Lookup], Source],
    pause: Callable[[], object] | None,
) -> Table:
    if table.kept == IN_PLACE:
        return Listed(table.name, table.entries, pause)
    if table.kept == FILE:
        return FileTable(table.name, table.place, pause)
    place = query_for(table, settings.backend) if table.kept == SQL else table.place
    return Asked(table.name, source_of(table.name, backend.lookup(place)))


class TablesForCommands:
    """The tables of ``settings``, by name, which ask while somebody waits.

    :raises ConfigError: a driver is not installed, or its options are wrong.
    """

    def __init__(self, settings: Settings, backend: Backend) -> None:
        self._sources: list[BlockingSource] = []
        self.by_name = make_tables(settings, backend, self._blocking)

    def _blocking(self, name: str, lookup: Lookup) -> Source:
        source = BlockingSource(name, lookup)
        self._sources.append(source)
        return source

    def read(self) -> None:
        """Read those in files, once it is known what they are asked about."""
        for table in self.by_name.values():
            if isinstance(table, FileTable):
                table.look()

    def close(self) -> None:
        """Let go of all connections."""
        for source in self._sources:
            source.close()
