"""Different values: which each counter has admitted in the last S seconds, for every S that limits it.

Pure, beside :mod:`.windows`: what those are to amounts, this is to recipients, addresses or whatever else is counted
once, however often it comes. A value that is admitted again moves to the newer second.

**Layout.** Each counter has one ``bytearray``, its log::

    mark, date, value, date, value, ...
          `- oldest first, 24 bytes each -'

``value`` is a digest of 18 bytes, so that one of a stranger's making is as long as any other and is found by the
search of ``bytearray``, which looks at a thousand in some microseconds. Dates, of 6 bytes, compare as bytes do: where a
window begins is found by halving. So a value takes a fourth of what it takes in a dictionary, and there is nothing that
the garbage collector has to visit. ``mark`` is that of :mod:`.clock`.
"""

from __future__ import annotations

import hashlib
from binascii import Error, a2b_base64, b2a_base64
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.clock import KEPT
from policyd_rate_limit.domain.limits import windows_of
from policyd_rate_limit.domain.sweeping import SHARDS, Sweeping

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policyd_rate_limit.domain.clock import Clock
    from policyd_rate_limit.domain.limits import Limit, Limits

MOST_VALUES: Final = 10_000
"""The most different values of one counter, whatever its limits are: beyond them a new one is refused."""

VALUES_PER_KEY: Final = 10
"""There is room for so many values for each key that may have a counter; a counter takes as much room itself."""

VALUE_BYTES: Final = 18
VALUE_CHARACTERS: Final = 24
"""Of a value in base64, as charges and entries have it: see :func:`policyd_rate_limit.domain.counting.digest`."""

_MARK: Final = 8
_DATE: Final = 6
_RECORD: Final = _DATE + VALUE_BYTES
_LATEST: Final = (1 << 8 * _DATE) - 1
_NEVER: Final = -(1 << 62)  # earlier than any date


class Values:
    """The values of all counters, by name; ``clock`` says what time it is.

    ``max_keys`` bounds the memory: see :data:`VALUES_PER_KEY`. Where there is no room a new value is refused, and one
    that others have admitted is forgotten: as long as that lies in a window, new values are refused as well, since
    nobody knows whether there is room for them in it. ``turned_away``: how many were refused for want of room.
    """

    def __init__(self, clock: Clock, max_keys: int) -> None:
        self._clock = clock
        self._room = VALUES_PER_KEY * max_keys
        self._shards: list[dict[str, bytearray]] = [{} for _ in range(SHARDS)]
        self._keys = 0
        self._values = 0
        self._forgotten = _NEVER  # the latest date of what there was no room for
        self._sweeping = Sweeping()
        self.turned_away = 0

    def __len__(self) -> int:
        """How many values are remembered."""
        return self._values

    def __iter__(self) -> Iterator[str]:
        """The keys that have values; what is asked about them meanwhile may have them go."""
        for shard in self._shards:
            yield from tuple(shard)

    def exceeded(self, key: str, value: str, limits: Limits, keep: int = 0) -> Limit | None:
        """The first of ``limits`` that ``value`` would exceed now, None when all of them admit it.

        In each window there is room for it beside the others. It is kept for as long as the longest of ``limits`` looks
        back, and for ``keep`` seconds. One per mail means nothing here.
        """
        limits = windows_of(limits)
        now, log, at, date = self._clock.now, self._log(key), -1, _NEVER
        if log is not None:
            at = _find(log, _digest(value))
            date = _date_at(log, at) if at >= 0 else _NEVER
        found: Limit | None = None
        for limit in limits:
            begin = now - limit.seconds
            keep = max(keep, limit.seconds)
            if found is None:
                is_there = date > begin
                others = (0 if log is None else _newer(log, begin)) - is_there
                if others >= limit.maximum:
                    found = limit
                elif not is_there and self._has_forgotten_since(begin):
                    found = limit
                    self.turned_away += 1
        if found is None and limits:
            if at < 0 and self._lacks_room(log):
                found = limits[0]
                self.turned_away += 1
            elif log is not None and date <= now - keep and _newer(log, now - keep) >= MOST_VALUES:
                found = limits[0]
        if log is not None:
            self._keep(log, keep)
            self._trim(key, log, now - keep)
        return found

    def usage(self, key: str, limits: Limits) -> tuple[int, ...]:
        """How many values lie in the window of each of ``limits`` now; a limit per mail has none."""
        log, now = self._log(key), self._clock.now
        if log is None:
            return (0,) * len(limits)
        return tuple([0 if limit.is_per_mail else _newer(log, now - limit.seconds) for limit in limits])

    def outlook(self, key: str, value: str, limits: Limits, keep: int = 0) -> tuple[tuple[int, int | None], ...]:
        """For each of ``limits`` how many values lie in its window now, and in how many seconds it admits ``value``.

        0: now; None: never. Where only room is wanting, that is so for the first of ``limits``, until all that its
        window holds has left it: nobody knows who makes room before. ``keep``: as :meth:`exceeded`.
        """
        log, now = self._log(key), self._clock.now
        at = -1 if log is None else _find(log, _digest(value))
        found: list[tuple[int, int | None]] = []
        for limit in limits:
            begin, maximum = now - limit.seconds, min(limit.maximum, MOST_VALUES)
            used = 0 if log is None else _newer(log, begin)
            first = 0 if log is None else len(log) - used * _RECORD
            excess = used + 1 - (at >= first) - maximum
            wait = 0
            if log is not None and excess > 0 < maximum:
                leaving = first + (excess - 1) * _RECORD
                if first <= at <= leaving:  # it is none of the others, of which so many have to leave
                    leaving += _RECORD
                wait = _date_at(log, leaving) + limit.seconds - now
            if not first <= at and self._has_forgotten_since(begin):
                wait = max(wait, self._forgotten + limit.seconds - now)
            found.append((used, wait if maximum else None))
            keep = max(keep, limit.seconds)
        if found and all(wait == 0 for _, wait in found):
            date = _NEVER if log is None or at < 0 else _date_at(log, at)
            if at < 0 and self._lacks_room(log):
                found[0] = (found[0][0], limits[0].seconds)
            elif log is not None and date <= now - keep and _newer(log, now - keep) >= MOST_VALUES:
                found[0] = (found[0][0], _date_at(log, len(log) - MOST_VALUES * _RECORD) + keep - now)
        return tuple(found)

    def add(self, key: str, date: int, value: str) -> bool:
        """Count ``value`` for ``key`` at ``date``, unless it is there at that date or later; whether it was not.

        Values and dates may come in any order.
        """
        log, digest = self._log(key), _digest(value)
        at = -1 if log is None else _find(log, digest)
        if log is not None and at >= 0:
            if _date_at(log, at) >= date:
                return False
            del log[at : at + _RECORD]
        elif self._lacks_room(log):
            self._forgotten = max(self._forgotten, date)
            return False
        else:
            self._values += 1
            if log is None:
                log = self._shards[hash(key) % SHARDS][key] = bytearray(self._clock.seen.to_bytes(_MARK, "big"))
                self._keys += 1
        _insert(log, date, digest)
        return True

    def remove(self, key: str, date: int, value: str) -> None:
        """Count ``value`` no more for ``key``, if it was not admitted after ``date``."""
        log = self._log(key)
        at = -1 if log is None else _find(log, _digest(value))
        if log is not None and at >= 0 and _date_at(log, at) <= date:
            del log[at : at + _RECORD]
            self._values -= 1
            self._drop_empty(key, log)

    def empty(self, key: str, date: int) -> None:
        """Count nothing any more for ``key`` of what is dated ``date`` or earlier."""
        log = self._log(key)
        if log is not None:
            self._forget_until(log, date)
            self._drop_empty(key, log)

    def trim(self, key: str, keep: int) -> None:
        """Have what is older than ``keep`` seconds take no more room, where it is most."""
        log = self._log(key)
        if log is not None:
            self._keep(log, keep)
            self._trim(key, log, self._clock.now - keep)

    def sweep(self, longest: int) -> None:
        """Forget values that have expired; called about once a second: see :mod:`.sweeping`.

        ``longest``: the longest window of anybody (seconds), for keys whose limits are not known here yet.
        """
        for number in self._sweeping.due(longest):
            for key, log in tuple(self._shards[number].items()):
                self._mend(log)
                self._trim(key, log, self._clock.now - (_mark_of(log) & KEPT or longest))

    def all(self) -> Iterator[tuple[str, int, str]]:
        """All that is remembered, as (key, date, value)."""
        for key in self:
            log = self._log(key)
            assert log is not None  # noqa: S101 - nothing is asked meanwhile that would have it go
            for at in range(_MARK, len(log), _RECORD):
                value = b2a_base64(log[at + _DATE : at + _RECORD], newline=False).decode()
                yield key, _date_at(log, at), value

    def dates_of(self, key: str) -> list[int]:
        """When each value of ``key`` came last, oldest first."""
        log = self._log(key)
        return [] if log is None else [_date_at(log, at) for at in range(_MARK, len(log), _RECORD)]

    def _log(self, key: str) -> bytearray | None:
        """That of ``key``, whose dates have seen all steps of the clock."""
        log = self._shards[hash(key) % SHARDS].get(key)
        if log is not None:
            self._mend(log)
        return log

    def _lacks_room(self, log: bytearray | None) -> bool:
        """Whether there is none for one value more in ``log``; None: in one of its own."""
        needed = self._values + 1 + VALUES_PER_KEY * (self._keys + (log is None))
        return needed > self._room

    def _has_forgotten_since(self, begin: int) -> bool:
        """Whether there was no room for something that is dated later than ``begin``."""
        if self._forgotten > self._clock.date:  # which has stepped back
            self._forgotten = self._clock.date
        return self._forgotten > begin

    def _keep(self, log: bytearray, seconds: int) -> None:
        log[:_MARK] = (self._clock.seen | min(seconds, KEPT)).to_bytes(_MARK, "big")

    def _trim(self, key: str, log: bytearray, horizon: int) -> None:
        """Drop what is dated ``horizon`` or earlier, where it is half of ``log``."""
        if 2 * _newer(log, horizon) * _RECORD <= len(log) - _MARK:
            self._forget_until(log, horizon)
            self._drop_empty(key, log)

    def _forget_until(self, log: bytearray, date: int) -> None:
        end = len(log) - _newer(log, date) * _RECORD
        self._values -= (end - _MARK) // _RECORD
        del log[_MARK:end]

    def _drop_empty(self, key: str, log: bytearray) -> None:
        if len(log) == _MARK:
            del self._shards[hash(key) % SHARDS][key]
            self._keys -= 1

    def _mend(self, log: bytearray) -> None:
        """Have no date of ``log`` lie behind a step back of the clock that it has not seen."""
        mark = _mark_of(log)
        seen = self._clock.seen
        if mark >= seen:
            return
        log[:_MARK] = (seen | mark & KEPT).to_bytes(_MARK, "big")
        moment = self._clock.moment_after(mark)
        date = _bytes_of(moment)
        for at in range(len(log) - _newer(log, moment) * _RECORD, len(log), _RECORD):
            log[at : at + _DATE] = date


def _digest(value: str) -> bytes:
    """``value`` as it is kept; whatever a database may hold that is no digest has one."""
    if len(value) == VALUE_CHARACTERS:
        try:
            found = a2b_base64(value)
        except (Error, ValueError):
            found = b""
        if len(found) == VALUE_BYTES:
            return found
    return hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=VALUE_BYTES).digest()


def _find(log: bytearray, digest: bytes) -> int:
    """Where the record of ``digest`` begins; -1: there is none."""
    at = log.find(digest, _MARK)
    while at >= 0 and (at - _MARK - _DATE) % _RECORD:  # by chance, in two values that are neighbours
        at = log.find(digest, at + 1)
    return at - _DATE if at >= 0 else -1


def _insert(log: bytearray, date: int, digest: bytes) -> None:
    """Add a record where ``date`` has its place, which most often is the end."""
    written = _bytes_of(date)
    if len(log) == _MARK or log[-_RECORD:-VALUE_BYTES] <= written:
        log += written + digest
    else:
        at = len(log) - _newer(log, date) * _RECORD
        log[at:at] = written + digest


def _newer(log: bytearray, date: int) -> int:
    """How many values are later than ``date``."""
    size = (len(log) - _MARK) // _RECORD
    written = _bytes_of(date)
    if date < 0 or log[_MARK : _MARK + _DATE] > written:  # all of them, mostly
        return size
    low, high = 0, size
    while low < high:
        middle = low + high >> 1
        at = _MARK + middle * _RECORD
        if log[at : at + _DATE] <= written:
            low = middle + 1
        else:
            high = middle
    return size - low


def _date_at(log: bytearray, at: int) -> int:
    return int.from_bytes(log[at : at + _DATE], "big")


def _mark_of(log: bytearray) -> int:
    return int.from_bytes(log[:_MARK], "big")


def _bytes_of(date: int) -> bytes:
    return min(max(date, 0), _LATEST).to_bytes(_DATE, "big")
