"""What tables in a database say of ids, remembered for a while.

The event loop asks; a thread of its own, over a connection of its own, looks up what is not in the cache. So a table
that is slow or fails holds up nobody for longer than ``db_timeout``, and the store thread not at all. What was known
of an id is then used on, however old.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.errors import StoreError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

MOST_IDS = 65_536  # of which is remembered what a table says
RETRY_SECONDS = 5.0  # during which a lookup that failed is not retried
IDLE_SECONDS = 30.0  # after which the connection is closed: a firewall may forget it, a server may end it

V = TypeVar("V")
_NO_MATTER_SECONDS = 0.01  # by which somebody may wait longer
_LONGEST_THREAD = 15  # characters of a name that Linux keeps

_logger = logging.getLogger(__name__)


class Unreachable(StoreError):
    """The database is away, or does not answer in time: no id can be looked up."""


class QueryFailed(StoreError):
    """The database refuses the query, perhaps for this id only."""


class Lookup(Protocol):
    """The table, over a connection that is made when it is needed. Every method blocks; one thread at a time."""

    def first_column(self, identifier: str) -> object:
        """What it says of ``identifier``: the first column of the first row; None when there is none.

        :raises Unreachable: no answer in time; another try makes a new connection.
        :raises QueryFailed: the database refuses the query.
        """

    def close(self) -> None:
        """Let go of the connection. Never raises."""


def look_up(lookup: Lookup, ids: Iterable[str], read: Callable[[object], V]) -> V | None:
    """What the table says of the first of ``ids`` of which it says anything, as ``read`` has it; None: of none.

    :raises Unreachable: as :meth:`Lookup.first_column`.
    :raises QueryFailed: likewise.
    :raises ValueError: ``read`` cannot use what the table holds.
    """
    for identifier in ids:
        if _is_text(identifier):
            value = lookup.first_column(identifier)
            if value is not None:
                return read(value)
    return None


def _is_text(identifier: str) -> bool:
    """Whether a database can hold ``identifier``: neither a NUL nor bytes that are not UTF-8."""
    try:
        return b"\0" not in identifier.encode()
    except UnicodeEncodeError:
        return False


class Known(NamedTuple, Generic[V]):
    """What is known of an id ``until`` a time of the clock; ``said`` None: the table says nothing of it."""

    said: V | None
    until: float


class _InFlight(Generic[V]):
    """A lookup that has no result yet, and who waits for it, until ``end`` (of the clock) at the latest.

    ``over``: nobody waits any more.
    """

    def __init__(self, ids: tuple[str, ...], end: float) -> None:
        self.ids = ids
        self.end = end
        self.waiting: list[Callable[[V | None], None]] = []
        self.over = False
        self.timer: asyncio.TimerHandle | None = None


class LookupCache(Generic[V]):
    """What a table says of ids, as far as it is known; what is not is looked up.

    ``read`` makes what is used of what the table holds, and raises ValueError where that is wrong. ``name``: of the
    table, for the log; ``meanwhile``: what holds for ids of which nothing is known, for the log. ``ttl``: seconds for
    which a result is used, ``timeout``: for which anybody waits for one. ``heed`` is told of each result before it is
    used. ``may_log`` bounds how often something may be logged, by its key: whether to, and how often it was not.
    ``clock`` is a monotonic one, in seconds.
    """

    def __init__(
        self,
        lookup: Lookup,
        read: Callable[[object], V],
        *,
        name: str,
        meanwhile: str,
        ttl: float,
        timeout: float,
        may_log: Callable[[str], tuple[bool, int]],
        heed: Callable[[V], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lookup = lookup
        self._read = read
        self._name = name
        self._meanwhile = meanwhile
        self._ttl = ttl
        self._timeout = timeout
        self._may_log = may_log
        self._heed = heed
        self._clock = clock
        self._known: OrderedDict[tuple[str, ...], Known[V]] = OrderedDict()
        self._in_flight: dict[tuple[str, ...], _InFlight[V]] = {}
        self._paused_until = 0.0
        self._failing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: queue.SimpleQueue[_InFlight[V] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name[:_LONGEST_THREAD], daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread; nothing is connected before somebody asks."""
        self._loop = loop
        self._paused_until = self._clock()
        self._thread.start()

    def known(self, ids: tuple[str, ...]) -> Known[V] | None:
        """What is known of ``ids`` and is not too old; None: it has to be asked for."""
        known = self._known.get(ids)
        if known is None:
            return None
        self._known.move_to_end(ids)
        return known if self._clock() < known.until else None

    def ask(self, ids: tuple[str, ...], done: Callable[[V | None], None], began: float) -> None:
        """Have ``done`` called, at once or later, with what is said of the first of ``ids`` of which anything is.

        With None where nothing is. All of this happens in the event loop. ``began``: since when, by the clock, somebody
        waits, maybe for other tables so far; for all of them together nobody waits longer than the timeout.
        """
        now = self._clock()
        known = self.known(ids)
        if known is not None:
            done(known.said)
            return
        in_flight = self._in_flight.get(ids)
        end = began + self._timeout
        if end <= now or (in_flight is None and now < self._paused_until):
            done(self._last_said(ids))
            return
        assert self._loop is not None  # noqa: S101 - start() has been called
        if in_flight is None:
            in_flight = self._in_flight[ids] = _InFlight(ids, now + self._timeout)
            in_flight.timer = self._loop.call_later(self._timeout, self._take_too_long)
            self._queue.put(in_flight)
        in_flight.waiting.append(done)
        if end < in_flight.end - _NO_MATTER_SECONDS:
            self._loop.call_later(end - now, self._wait_no_longer, in_flight, done)

    async def stop(self) -> None:
        """End the thread, and close the connection."""
        assert self._loop is not None  # noqa: S101 - start() has been called
        self._queue.put(None)
        await self._loop.run_in_executor(None, self._thread.join, self._timeout)

    def _run(self) -> None:
        assert self._loop is not None  # noqa: S101 - start() has set it
        while True:
            try:
                in_flight = self._queue.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                self._lookup.close()
                continue
            if in_flight is None:
                break
            if in_flight.over:
                continue
            result: V | Exception | None
            try:
                result = look_up(self._lookup, in_flight.ids, self._read)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told to those who wait
                result = error
            with contextlib.suppress(RuntimeError):  # the loop has ended without waiting for this
                self._loop.call_soon_threadsafe(self._deliver, in_flight, result)
        self._lookup.close()

    def _deliver(self, in_flight: _InFlight[V], result: V | Exception | None) -> None:
        """Take what the thread has found."""
        if isinstance(result, Unreachable):
            if not in_flight.over:
                self._pause(result)
        elif isinstance(result, Exception):
            if isinstance(result, ValueError):
                self._warn_of(in_flight.ids, result)
            else:
                self._say_failure(result)
            self._fail(in_flight)
        else:
            if self._failing:
                self._failing = False
                _logger.warning("%s works again", self._name)
            if result is not None and self._heed is not None:
                self._heed(result)
            self._remember(in_flight.ids, result, self._ttl)
            self._answer(in_flight, result)

    def _wait_no_longer(self, in_flight: _InFlight[V], done: Callable[[V | None], None]) -> None:
        """Answer one who has waited before, and is not to wait for so long as others."""
        if not in_flight.over:
            in_flight.waiting.remove(done)
            done(self._last_said(in_flight.ids))

    def _last_said(self, ids: tuple[str, ...]) -> V | None:
        """What was known last, however old; None: nothing."""
        known = self._known.get(ids)
        return known.said if known else None

    def _take_too_long(self) -> None:
        self._pause(Unreachable(f"no answer within {self._timeout:g} s"))

    def _pause(self, error: Unreachable) -> None:
        """Answer all who wait, and let nobody else wait for a while."""
        self._paused_until = self._clock() + RETRY_SECONDS
        self._say_failure(error)
        for in_flight in list(self._in_flight.values()):
            self._fail(in_flight)

    def _fail(self, in_flight: _InFlight[V]) -> None:
        """Go on with what was known last."""
        if not in_flight.over:
            said = self._last_said(in_flight.ids)
            self._remember(in_flight.ids, said, RETRY_SECONDS)
            self._answer(in_flight, said)

    def _answer(self, in_flight: _InFlight[V], said: V | None) -> None:
        if in_flight.over:  # a late result is good for the next one
            return
        in_flight.over = True
        del self._in_flight[in_flight.ids]
        if in_flight.timer is not None:
            in_flight.timer.cancel()
        for done in in_flight.waiting:
            try:
                done(said)
            except Exception:
                # The others wait for their answers all the same.
                _logger.exception("what %s says could not be delivered", self._name)

    def _remember(self, ids: tuple[str, ...], said: V | None, seconds: float) -> None:
        self._known[ids] = Known(said, self._clock() + seconds)
        self._known.move_to_end(ids)
        if len(self._known) > MOST_IDS:
            self._known.popitem(last=False)

    def _say_failure(self, error: Exception) -> None:
        if not self._failing and self._may_log("failing")[0]:
            self._failing = True
            _logger.warning(
                "%s fails: %s; until it works again, what it said last is used, else %s",
                self._name,
                f"{type(error).__name__}: {error}" if not isinstance(error, StoreError) else error,
                self._meanwhile,
            )

    def _warn_of(self, ids: tuple[str, ...], error: ValueError) -> None:
        log_it, suppressed = self._may_log(f"id {ids[0]}")
        if log_it:
            more = f" ({quantity(suppressed, 'more time')} since the last such line)" if suppressed else ""
            _logger.warning("%s for %r: %s; it does not count%s", self._name, ids[0], error, more)
