"""The query of ``sql_limits_by_id``: what is the same for every database, and for every server."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from policyd_rate_limit.tables.cache import QueryFailed, Unreachable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policyd_rate_limit.storage.watchdog import Watchdog


class _Connection(Protocol):
    def close(self) -> object: ...


C = TypeVar("C", bound=_Connection)


class SqlLookup(ABC):
    """Asks the query of ``sql_limits_by_id``: a :class:`policyd_rate_limit.tables.cache.Lookup`, whose methods are
    described there.

    ``query`` has one placeholder, as the drivers of the old versions write it. ``timeout`` (seconds) bounds each
    lookup.
    """

    def __init__(self, query: str, timeout: float) -> None:
        self._query = query
        self._timeout = timeout
        self._is_used = False

    def first_column(self, identifier: str) -> object:
        end = time.monotonic() + self._timeout
        while True:
            was_used = self._is_used
            try:
                if not self._is_used:
                    self._connect(end)
                    self._is_used = True
                return self._ask(identifier, end)
            except BaseException as error:
                if isinstance(error, QueryFailed):
                    raise
                self.close()
                # Over a connection that was there already it may be just that which is lost.
                if not (was_used and isinstance(error, Unreachable) and time.monotonic() < end):
                    raise

    def close(self) -> None:
        self._is_used = False
        with contextlib.suppress(Exception):
            self._disconnect()

    @abstractmethod
    def _connect(self, end: float) -> None:
        """Connect by ``end``.

        :raises Unreachable: no connection.
        """

    @abstractmethod
    def _ask(self, identifier: str, end: float) -> object:
        """The first column of the first row, by ``end``.

        :raises Unreachable: the connection is lost, or there is no answer in time.
        :raises QueryFailed: the query is refused; the connection goes on.
        """

    @abstractmethod
    def _disconnect(self) -> None:
        """Close what there is of a connection."""


class ServerLookup(SqlLookup, Generic[C]):
    """The query of a server, over a connection of its driver's. Placeholder: ``%s``; any other ``%`` is doubled."""

    errors: ClassVar[type[Exception]]
    """What the driver raises."""
    cancelled: ClassVar[tuple[type[Exception], ...]] = ()
    """Those of them by which the server itself ends what takes too long."""

    def __init__(self, query: str, timeout: float) -> None:
        super().__init__(query, timeout)
        self._session: tuple[C, Watchdog] | None = None

    def _connect(self, end: float) -> None:
        try:
            self._session = self._open(end)
        except self.errors as error:
            raise Unreachable(self._about(error)) from error

    def _ask(self, identifier: str, end: float) -> object:
        assert self._session is not None  # noqa: S101 - connected before
        connection, watchdog = self._session
        try:
            with watchdog.until(end):
                row = self._first_row(connection, identifier, end)
        except self.errors as error:
            if watchdog.has_bitten or isinstance(error, self.cancelled):
                raise Unreachable("no answer in time") from error
            kind = QueryFailed if self._is_open(connection) else Unreachable
            raise kind(self._about(error)) from error
        return row[0] if row else None

    def _disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            connection, watchdog = session
            watchdog.close()
            connection.close()

    @abstractmethod
    def _open(self, end: float) -> tuple[C, Watchdog]:
        """Connect by ``end``, and have the connection watched."""

    @abstractmethod
    def _first_row(self, connection: C, identifier: str, end: float) -> Sequence[Any] | None:
        """The first row, None where there is none; who takes longer than ``end`` is cut off."""

    @abstractmethod
    def _is_open(self, connection: C) -> bool:
        """Whether more can be asked over ``connection``."""

    @abstractmethod
    def _about(self, error: Exception) -> str:
        """One line that says what ``error`` is."""
