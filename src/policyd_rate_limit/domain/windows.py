"""Sliding windows: how much each counter has in the last S seconds, for every S that limits it.

Pure: no I/O, and the clock of :mod:`.clock`. It is what decides, in front of every store.

**Layout.** Each counter has one ``array('q')``, its *event log*, or log for short::

    [mark, base, date, total, date, total, ...]
                 `- oldest first, one pair per second -'

``total`` is all that was ever counted on the counter up to and including that second, ``base`` what was counted before
the first: what lies in a window is the difference of two totals, and where the window begins is found by halving. So
a check costs the same few steps whatever lies in the window, and the limits leave no trace in the log. An array of
machine integers takes a fifth of the memory of Python objects and, like its key, is nothing that the garbage collector
has to visit. ``mark`` says how long what is counted is kept, and which steps of the clock the dates have seen.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.clock import KEPT, Clock
from policyd_rate_limit.domain.limits import LARGEST
from policyd_rate_limit.domain.sweeping import SHARDS, Sweeping

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policyd_rate_limit.domain.limits import Limit, Limits

OVERFLOW_BUCKETS: Final = 4096
_FIRST: Final = 2  # the index of the oldest date
_MOST_TOTAL: Final = 1 << 62


class Windows(Clock):
    """The event logs of all counters, by name.

    ``max_keys`` bounds the memory: keys beyond it share :data:`OVERFLOW_BUCKETS` common logs. Whoever shares a
    log may be refused too early, never too late: what has left the windows of one key may lie in those of another, so
    that only :meth:`sweep` shortens a common log, by the longest window of all.
    """

    def __init__(self, max_keys: int = 2_000_000) -> None:
        super().__init__()
        self.max_keys = max_keys
        self._shards: list[dict[str, array[int]]] = [{} for _ in range(SHARDS)]
        self._overflow: dict[int, array[int]] = {}
        self._keys = 0
        self._longest_of_all = 0  # of all limits that anything has been asked about
        self._new = array("q", (0, 0, 0, 1))  # the log of whoever is charged one for the first time now
        self._sweeping = Sweeping()

    def __len__(self) -> int:
        """How many keys have a log of their own."""
        return self._keys

    def __iter__(self) -> Iterator[str]:
        """The keys that have a log of their own; what is asked about them meanwhile may have them go."""
        for shard in self._shards:
            yield from tuple(shard)

    @property
    def overflowing(self) -> int:
        """How many of the common logs for keys beyond ``max_keys`` are in use."""
        return len(self._overflow)

    def advance(self, time: float) -> bool:
        before = self.date
        stepped_back = Clock.advance(self, time)
        if stepped_back or self.date != before:
            self._new = array("q", (self.seen, 0, self.date, 1))
        return stepped_back

    def exceeded(self, key: str, cost: int, limits: Limits, keep: int = 0) -> Limit | None:
        """The first of ``limits`` that ``cost`` more would exceed now, None when all of them admit it.

        What is counted is kept for as long as the longest of ``limits`` looks back, and for ``keep`` seconds. None of
        them is per mail: the ledger knows what a mail was charged.
        """
        if not limits and not keep:
            return None
        log = self._log(key)
        if log is None:
            for limit in limits:
                if cost > limit.maximum:
                    return limit
            return None
        if log[0] < self.seen:
            self._mend(log)
        now, oldest, found = self.now, log[_FIRST], None
        total = log[-1] + cost  # once it is counted
        for limit in limits:
            seconds = limit.seconds
            if seconds > keep:
                keep = seconds
            if found is None:
                used = total - (log[1] if oldest > now - seconds else _total_until(log, now - seconds))
                if used > limit.maximum:
                    found = limit
        if log[0] & KEPT != keep:
            self._keep(log, keep)
        if log[len(log) >> 2 << 1] <= now - keep:  # half of it has expired
            self._trim(key, log, now - keep)
        return found

    def usage(self, key: str, limits: Limits) -> tuple[int, ...]:
        """What lies in the window of each of ``limits`` now; a limit per mail has none."""
        log = self._log(key)
        if log is None:
            return (0,) * len(limits)
        if log[0] < self.seen:
            self._mend(log)
        total, now = log[-1], self.now
        return tuple(0 if limit.is_per_mail else total - _total_until(log, now - limit.seconds) for limit in limits)

    def outlook(self, key: str, cost: int, limits: Limits) -> tuple[tuple[int, int | None], ...]:
        """For each of ``limits`` what lies in its window now, and in how many seconds it admits ``cost`` more.

        0: now; None: never.
        """
        log = self._log(key)
        found: list[tuple[int, int | None]] = []
        for limit, used in zip(limits, self.usage(key, limits), strict=True):
            excess = used + cost - limit.maximum
            if cost > limit.maximum:
                found.append((used, None))
            elif log is None or excess <= 0:
                found.append((used, 0))
            else:
                found.append((used, _date_of(log, log[-1] - used + excess) + limit.seconds - self.now))
        return tuple(found)

    def add(self, key: str, date: int, amount: int) -> None:
        """Count ``amount`` for ``key`` at ``date``; dates may come in any order."""
        log = self._log(key)
        if log is None:
            self._begin(key, date, amount)
            return
        if log[0] < self.seen:
            self._mend(log)
        _append(log, date, amount)

    def give_back(self, key: str, date: int, amount: int) -> None:
        """Count ``amount`` less for ``key``, of what was counted at ``date``.

        Where ``date`` has been mended or has expired, older charges are given back in its place, never newer ones:
        those leave the windows earlier, so that the error is to the strict side.
        """
        log = self._log(key)
        if log is None:
            return
        if log[0] < self.seen:
            self._mend(log)
        later = _after(log, date)
        left = max(log[1], log[later - 1] - amount)
        taken = log[later - 1] - left
        for at in range(later + 1, len(log), 2):
            log[at] -= taken
        at = later - 1
        while at > _FIRST and log[at] > left:
            log[at] = left
            at -= 2

    def empty(self, key: str, date: int) -> None:
        """Count nothing any more for ``key`` of what is dated ``date`` or earlier, unless others share its log."""
        if key in self._shards[hash(key) % SHARDS]:
            self.give_back(key, date, LARGEST)

    def sweep(self, longest: int) -> None:
        """Forget keys all of whose charges have expired; called about once a second: see :mod:`.sweeping`.

        ``longest``: the longest window of anybody (seconds), for keys whose limits are not known here yet.
        """
        for number in self._sweeping.due(longest):
            self._sweep_one(number, longest)

    def _sweep_one(self, number: int, longest: int) -> None:
        shard = self._shards[number]
        expired = [key for key, log in shard.items() if self._has_expired(log, log[0] & KEPT or longest)]
        for key in expired:
            del shard[key]
        self._keys -= len(expired)
        if self._overflow:
            for bucket in range(number, OVERFLOW_BUCKETS, SHARDS):
                log = self._overflow.get(bucket)
                if log is not None and self._has_expired(log, max(longest, self._longest_of_all)):
                    del self._overflow[bucket]

    def charges(self) -> Iterator[tuple[str, int, int]]:
        """All that is remembered, as (key, date, amount); keys beyond ``max_keys`` are left out."""
        for shard in self._shards:
            for key, log in shard.items():
                for date, amount in self._charges(log):
                    yield key, date, amount

    def charges_of(self, key: str) -> list[tuple[int, int]]:
        """What is remembered of ``key``, as (date, amount), oldest first; nothing of one beyond ``max_keys``."""
        log = self._shards[hash(key) % SHARDS].get(key)
        return [] if log is None else self._charges(log)

    def _charges(self, log: array[int]) -> list[tuple[int, int]]:
        if log[0] < self.seen:
            self._mend(log)
        found: list[tuple[int, int]] = []
        before = log[1]
        for at in range(_FIRST, len(log), 2):
            if log[at + 1] != before:
                found.append((log[at], log[at + 1] - before))
                before = log[at + 1]
        return found

    def _log(self, key: str) -> array[int] | None:
        log = self._shards[hash(key) % SHARDS].get(key)
        if log is None and self._overflow:
            return self._overflow.get(hash(key) % OVERFLOW_BUCKETS)
        return log

    def _begin(self, key: str, date: int, amount: int) -> None:
        """Give ``key`` a log with ``amount`` at ``date``; how long that is kept is known once it is judged."""
        log = self._new[:]  # faster than making one
        if date != self.date:
            log[_FIRST] = date
        if amount != 1:
            log[-1] = amount
        if self._keys < self.max_keys:
            self._shards[hash(key) % SHARDS][key] = log
            self._keys += 1
        else:
            self._overflow[hash(key) % OVERFLOW_BUCKETS] = log

    def _keep(self, log: array[int], seconds: int) -> None:
        log[0] = self.seen | min(seconds, KEPT)
        self._longest_of_all = max(self._longest_of_all, seconds)

    def _trim(self, key: str, log: array[int], horizon: int) -> None:
        """Drop what is dated ``horizon`` or earlier from the ``log`` of ``key``, unless others share it."""
        if not self._overflow or key in self._shards[hash(key) % SHARDS]:
            _forget_until(log, horizon)

    def _has_expired(self, log: array[int], seconds: int) -> bool:
        """Whether nothing of ``log`` lies in the last ``seconds``; what does not is dropped where it is most."""
        if log[0] < self.seen:
            self._mend(log)
        horizon = self.now - seconds
        if log[-2] <= horizon:
            return True
        if log[len(log) >> 2 << 1] <= horizon:
            _forget_until(log, horizon)
        return False

    def _mend(self, log: array[int]) -> None:
        """Have no date of ``log`` lie behind a step back of the clock that it has not seen."""
        mark = log[0]
        log[0] = self.seen | mark & KEPT
        moment = self.moment_after(mark)
        later = _after(log, moment)
        if later < len(log):
            log[later:] = array("q", (moment, log[-1]))
            if later > _FIRST and log[later - 2] == moment:
                del log[later - 2 : later]


def _append(log: array[int], date: int, amount: int) -> None:
    """Count ``amount`` at ``date``, which most often is the newest."""
    if log[-1] > _MOST_TOTAL:
        base = log[1]
        for at in range(1, len(log), 2):
            log[at] -= base
    newest = log[-2]
    if newest < date:
        total = log[-1] + amount
        log.append(date)
        log.append(total)
        return
    if newest == date:
        log[-1] += amount
        return
    at = _after(log, date)
    if at == _FIRST or log[at - 2] != date:
        log[at:at] = array("q", (date, log[at - 1]))
    else:
        at -= 2
    for later in range(at + 1, len(log), 2):
        log[later] += amount


def _after(log: array[int], date: int) -> int:
    """The index of the first date later than ``date``; the end of ``log`` where there is none."""
    low, high = 0, len(log) - _FIRST >> 1
    while low < high:
        middle = low + high >> 1
        if log[_FIRST + 2 * middle] <= date:
            low = middle + 1
        else:
            high = middle
    return _FIRST + 2 * low


def _total_until(log: array[int], date: int) -> int:
    """All that was counted at ``date`` or earlier."""
    return log[_after(log, date) - 1]


def _date_of(log: array[int], total: int) -> int:
    """The date by which all that was counted has come to ``total``, which is no more than the last one."""
    low, high = 0, (len(log) - _FIRST >> 1) - 1
    while low < high:
        middle = low + high >> 1
        if log[_FIRST + 1 + 2 * middle] < total:
            low = middle + 1
        else:
            high = middle
    return log[_FIRST + 2 * low]


def _forget_until(log: array[int], date: int) -> None:
    """Drop what is dated ``date`` or earlier, but for the newest: no log is without a date."""
    end = min(_after(log, date), len(log) - 2)
    if end > _FIRST:
        log[1] = log[end - 1]
        del log[_FIRST:end]
