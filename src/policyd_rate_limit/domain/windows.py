"""Sliding windows: how much each counter has in the last S seconds, for every S that limits it.

Pure: no clock, no I/O. It is what decides, in front of every store.

**Time** is whole Unix seconds. A charge made at time t is dated ``ceil(t)`` and judged at ``floor(t)``, and it
leaves a window of S seconds when ``date + S <= now``. So nothing leaves a window before S seconds have passed,
and what was charged in the middle of a second leaves less than a second late.

**Layout.** Each counter has one ``array('q')``, its *event log*, or log for short::

    [tag, head, sum, head, sum, ..., date, amount, date, amount, ...]
          `- one pair per limit -'   `- oldest first, one pair per second -'

``head`` is the index of the oldest date inside that window, ``sum`` the total from there to the end, so that a
check costs what has expired since the last one, not what lies in the window. A log of no more than
:data:`MOST_BARE` seconds has neither, and is looked through: that is how most logs are. ``tag`` says for which limits
and since which step of the clock the heads and sums hold, and how many there are. An array of machine integers takes
a fifth of the memory of Python objects and, like its key, is nothing that the garbage collector has to visit.

**A clock that steps back.** A date that lies in the future when the step is noticed becomes that moment: the
charge goes on counting, for at most one window from then. Dates are mended when their log is next touched.
"""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.charge import MOST_SECONDS_LOOKED_AT
from policyd_rate_limit.domain.limits import LARGEST, longest_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policyd_rate_limit.domain.limits import Limit, Limits

MOST_BARE: Final = 3
_LONGEST_BARE: Final = 1 + 2 * MOST_BARE
SHARDS: Final = 1024  # so that neither growing a dictionary nor sweeping one holds up anybody for long
SWEEPS: Final = 256  # look at all keys, where the longest window is no longer than
LONGEST_SWEPT: Final = 16 * SWEEPS  # seconds; with a longer one it takes as many more
MOST_LAYOUTS: Final = 1024
MOST_STEPS: Final = 64
OVERFLOW_BUCKETS: Final = 4096
_COUNT_BITS: Final = 8
_COUNT_MASK: Final = (1 << _COUNT_BITS) - 1
MOST_LIMITS: Final = _COUNT_MASK


class Windows:
    """The event logs of all counters, by name.

    ``max_keys`` bounds the memory: keys beyond it share :data:`OVERFLOW_BUCKETS` common logs. Whoever shares a
    log may be refused too early, never too late: what has left the windows of one key may lie in those of another, so
    that only :meth:`sweep` shortens a common log, by the longest window of all.

    ``now`` is the second at which charges are judged, ``date`` the one that a charge made now is given.
    """

    def __init__(self, max_keys: int = 2_000_000) -> None:
        self.max_keys = max_keys
        self._shards: list[dict[str, array[int]]] = [{} for _ in range(SHARDS)]
        self._overflow: dict[int, array[int]] = {}
        self._keys = 0
        self.time = 0.0
        self.now = 0
        self.date = 0
        self._next_tag = 1
        # Tags below this one date from before the last step back of the clock.
        self._settled_from = 0
        self._steps: list[tuple[int, int]] = []
        self._layouts: dict[Limits, int] = {}
        self._longest: dict[int, int] = {}
        self._longest_of_all = 0  # of all limits that anything has been asked about
        self._limits: Limits | None = None
        self._maxima: list[int] = []
        self._seconds: list[int] = []
        self._least = 0  # of the maxima
        self._tag = self._tag_bare = 0
        self._bare = self._new_tag(0)
        self._one = array("q", (0, 1))  # one charged now
        self._new = array("q", (0, 0, 1))  # the log of whoever is charged one for the first time now
        self._sweeping = 0
        self._unswept = 0.0  # shards that are due

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
        """The clock shows ``time`` (Unix seconds); whether it has stepped back since the last call."""
        now = math.floor(time)
        date = math.ceil(time)
        stepped_back = now < self.now
        self.time = time
        self.now = now
        self.date = date
        if stepped_back:
            # A later step to an earlier moment makes the earlier ones pointless.
            while self._steps and self._steps[-1][1] >= self.date:
                self._steps.pop()
            del self._steps[: max(0, len(self._steps) - MOST_STEPS + 1)]
            self._layouts.clear()
            self._longest.clear()
            self._limits = None
            self._settled_from = self._bare = self._new_tag(0)
            self._steps.append((self._bare, date))
        if stepped_back or self._one[0] != date:
            self._one = array("q", (date, 1))
            self._renew()
        return stepped_back

    def exceeded(self, key: str, cost: int, limits: Limits) -> Limit | None:
        """The first of ``limits`` that ``cost`` more would exceed now, None when all of them admit it."""
        log = self._log(key)
        return _too_much(cost, limits) if log is None else self._exceeded(key, log, cost, limits)

    def _exceeded(self, key: str, log: array[int], cost: int, limits: Limits) -> Limit | None:
        """As :meth:`exceeded`, by the ``log`` of ``key``; its own is empty afterwards when all of it has expired."""
        if not limits:
            return None
        if limits is not self._limits:
            self._use(limits)
        tag = log[0]
        if tag != self._tag:
            if len(log) <= _LONGEST_BARE and self._is_bare(tag):
                return self._look_through(key, log, log.tolist(), cost, limits)
            self._lay_out(log, limits)
        now = self.now
        end = len(log)
        oldest = end
        found = None
        at = 1
        for index, seconds in enumerate(self._seconds):
            head = log[at]
            total = log[at + 1]
            horizon = now - seconds
            if head < end and log[head] <= horizon:
                while head < end and log[head] <= horizon:
                    total -= log[head + 1]
                    head += 2
                log[at] = head
                log[at + 1] = total
            if head < oldest:
                oldest = head
            if found is None and total + cost > self._maxima[index]:
                found = limits[index]
            at += 2
        if oldest - at > (end - at) >> 1:
            self._trim(key, log, oldest, at)
        return found

    def _look_through(self, key: str, log: array[int], values: list[int], cost: int, limits: Limits) -> Limit | None:
        """As :meth:`exceeded`, for a short ``log`` of ``values``, without heads."""
        if values[0] != self._tag_bare:
            log[0] = self._tag_bare
        now = self.now
        end = len(values)
        oldest = end
        found = None
        for index, seconds in enumerate(self._seconds):
            horizon = now - seconds
            total = cost
            at = end - 2
            while at > 0 and values[at] > horizon:
                total += values[at + 1]
                at -= 2
            if at + 2 < oldest:
                oldest = at + 2
            if found is None and total > self._maxima[index]:
                found = limits[index]
        if oldest > 1:
            self._trim(key, log, oldest, 1)
        return found

    def charge(self, key: str, cost: int, limits: Limits) -> Limit | None:
        """As :meth:`exceeded`; when all of ``limits`` admit it, ``cost`` is counted now."""
        if not limits:
            self.add(key, self.date, cost)
            return None
        if limits is not self._limits:
            self._use(limits)
        shard = self._shards[hash(key) % SHARDS]
        log = shard.get(key)
        if log is None:
            if not self._overflow and self._keys < self.max_keys:
                found = _too_much(cost, limits)
                if found is None:
                    shard[key] = self._new_log(cost)
                    self._keys += 1
                return found
            found = self.exceeded(key, cost, limits)
            if found is None:
                self.add(key, self.date, cost)
            return found
        values = log.tolist() if len(log) <= _LONGEST_BARE else None  # at the price of reading two of them one by one
        if values is None or (values[0] != self._tag_bare and values[0] != self._bare):
            found = self._exceeded(key, log, cost, limits)
        elif self._charge_below(log, values, cost):
            return None
        else:
            found = self._look_through(key, log, values, cost, limits)
        if found is None:
            if log:
                self._append(log, self.date, cost)
            else:
                self._begin(key, self._new_log(cost))
        return found

    def _charge_below(self, log: array[int], values: list[int], cost: int) -> bool:
        """Count ``cost`` now in a short ``log`` of ``values``, where all that is in it is less than any limit."""
        end, date = len(values), self.date
        total = cost
        for at in range(2, end, 2):
            total += values[at]
        newest = values[end - 2]
        if total > self._least or newest > date:
            return False
        if newest == date:
            log[-1] = values[end - 1] + cost
        elif end < _LONGEST_BARE:
            log += self._one if cost == 1 else array("q", (date, cost))
        else:
            return False  # something in it may have expired
        return True

    def usage(self, key: str, limits: Limits) -> tuple[int, ...]:
        """What lies in the window of each of ``limits`` now."""
        log = self._log(key)
        if log is None:
            return (0,) * len(limits)
        return tuple(
            sum(amount for date, amount in _events(log) if self._settled(log, date) > self.now - limit.seconds)
            for limit in limits
        )

    def outlook(self, key: str, cost: int, limits: Limits) -> tuple[tuple[int, int | None], ...]:
        """For each of ``limits`` what lies in its window now, and in how many seconds it admits ``cost`` more.

        0: now; None: never. See :class:`policyd_rate_limit.domain.charge.Usage` for how exact that is.
        """
        log = self._up_to_date(key, limits)
        found: list[tuple[int, int | None]] = []
        for at, limit in zip(range(1, 1 + 2 * len(limits), 2), limits, strict=True):
            used = 0 if log is None else log[at + 1]
            excess = used + cost - limit.maximum
            if cost > limit.maximum:
                found.append((used, None))
            elif log is None or excess <= 0:
                found.append((used, 0))
            else:
                found.append((used, _date_of(log, log[at], excess) + limit.seconds - self.now))
        return tuple(found)

    def _up_to_date(self, key: str, limits: Limits) -> array[int] | None:
        """The log of ``key`` with heads and sums as they are now, for ``limits``; None: nothing is counted."""
        log = self._log(key)
        if log is None or not limits:
            return None
        self._use(limits)
        if log[0] != self._tag:
            self._lay_out(log, limits)
        self._exceeded(key, log, 0, limits)
        # Where all of its own has expired, the next charge meets a common log.
        return log if log else self._up_to_date(key, limits)

    def add(self, key: str, date: int, amount: int) -> None:
        """Count ``amount`` for ``key`` at ``date``; dates may come in any order."""
        log = self._log(key)
        if log is None:
            self._begin(key, array("q", (self._bare, date, amount)))
        else:
            self._append(log, date, amount)

    def _append(self, log: array[int], date: int, amount: int) -> None:
        tag = log[0]
        if tag < self._settled_from:
            self._make_bare(log)
            tag = self._bare
        newest = log[-2]
        if newest > date:
            self._make_bare(log)
            _insert(log, date, amount)
            return
        if newest == date:
            log[-1] += amount
        else:
            log += self._one if amount == 1 and date == self.date else array("q", (date, amount))
        end = len(log)
        for at in range(2, 1 + 2 * (tag & _COUNT_MASK), 2):
            if log[at - 1] < end:  # else ``date`` has left this window: somebody tells of it late
                log[at] += amount

    def give_back(self, key: str, date: int, amount: int) -> None:
        """Count ``amount`` less for ``key``, of what was counted at ``date``.

        Where ``date`` has been mended or has expired, older charges are given back in its place, never newer ones:
        those leave the windows earlier, so that the error is to the strict side.
        """
        log = self._log(key)
        if log is None:
            return
        if log[0] < self._settled_from:
            self._make_bare(log)
        first = _base(log)
        at = len(log) - 2
        while amount > 0 and at >= first:
            if log[at] <= date and log[at + 1] > 0:
                taken = min(amount, log[at + 1])
                log[at + 1] -= taken
                amount -= taken
                for index in range(1, first, 2):
                    if log[index] <= at:
                        log[index + 1] -= taken
            at -= 2

    def empty(self, key: str, date: int) -> None:
        """Count nothing any more for ``key`` of what is dated ``date`` or earlier, unless others share its log."""
        if key in self._shards[hash(key) % SHARDS]:
            self.give_back(key, date, LARGEST)

    def sweep(self, longest: int) -> None:
        """Forget keys all of whose charges have expired; called about once a second.

        :data:`SWEEPS` of these look at all keys, more where windows are longer than :data:`LONGEST_SWEPT`: looking at
        a key that nobody has asked for takes as long as deciding. ``longest``: the longest window of anybody (seconds),
        for keys whose limits are not known here yet.
        """
        self._unswept += SHARDS / SWEEPS * min(1.0, LONGEST_SWEPT / max(1, longest))
        while self._unswept >= 1:
            self._unswept -= 1
            self._sweep_one(longest)

    def _sweep_one(self, longest: int) -> None:
        number = self._sweeping
        shard = self._shards[number]
        self._sweeping = (number + 1) % SHARDS
        expired = [key for key, log in shard.items() if self._expired(log, longest)]
        for key in expired:
            del shard[key]
        self._keys -= len(expired)
        if self._overflow:
            horizon = self.now - max(longest, self._longest_of_all)
            for bucket in range(number, OVERFLOW_BUCKETS, SHARDS):
                log = self._overflow.get(bucket)
                if log is not None:
                    self._shorten(log, horizon)
                    if len(log) == 1:
                        del self._overflow[bucket]

    def _shorten(self, log: array[int], horizon: int) -> None:
        """Drop what is dated ``horizon`` or earlier from a common log."""
        if self._settled(log, log[_base(log)]) > horizon:
            return
        self._make_bare(log)
        end = 1
        while end < len(log) and log[end] <= horizon:
            end += 2
        del log[1:end]

    def charges(self) -> Iterator[tuple[str, int, int]]:
        """All that is remembered, as (key, date, amount); keys beyond ``max_keys`` are left out."""
        for shard in self._shards:
            for key, log in shard.items():
                for date, amount in _events(log):
                    if amount:
                        yield key, self._settled(log, date), amount

    def _log(self, key: str) -> array[int] | None:
        log = self._shards[hash(key) % SHARDS].get(key)
        if log is None and self._overflow:
            return self._overflow.get(hash(key) % OVERFLOW_BUCKETS)
        return log

    def _begin(self, key: str, log: array[int]) -> None:
        if self._keys < self.max_keys:
            self._shards[hash(key) % SHARDS][key] = log
            self._keys += 1
        else:
            self._overflow[hash(key) % OVERFLOW_BUCKETS] = log

    def _new_log(self, cost: int) -> array[int]:
        """The log of someone who has been charged ``cost`` now, and nothing before."""
        log = self._new[:]  # faster than making one
        if cost != 1:
            log[2] = cost
        return log

    def _renew(self) -> None:
        self._new = array("q", (self._tag_bare, self.date, 1))

    def _trim(self, key: str, log: array[int], oldest: int, first: int) -> None:
        """Drop from ``key``'s own ``log`` what lies before the index ``oldest``; a common log stays as it is."""
        shard = self._shards[hash(key) % SHARDS]
        if self._overflow and key not in shard:
            return
        if oldest < len(log):
            del log[first:oldest]
            for at in range(1, first, 2):
                log[at] -= oldest - first
            return
        del log[:]  # for whoever holds it
        del shard[key]
        self._keys -= 1

    def _expired(self, log: array[int], longest: int) -> bool:
        span = self._longest.get(log[0], longest)
        return self._settled(log, log[-2]) + span <= self.now

    def _new_tag(self, count: int) -> int:
        tag = self._next_tag << _COUNT_BITS | count
        self._next_tag += 1
        return tag

    def _use(self, limits: Limits) -> None:
        tag = self._layouts.get(limits)
        if tag is None:
            if len(limits) > MOST_LIMITS:
                raise ValueError(f"{len(limits)} limits for one key, at most {MOST_LIMITS} are possible")
            if len(self._layouts) >= MOST_LAYOUTS:
                self._layouts.clear()
                self._longest.clear()
            tag = self._layouts[limits] = self._new_tag(len(limits))
            longest = self._longest[tag] = self._longest[tag & ~_COUNT_MASK] = longest_of(limits)
            self._longest_of_all = max(self._longest_of_all, longest)
        self._limits = limits
        self._maxima = [limit.maximum for limit in limits]
        self._seconds = [limit.seconds for limit in limits]
        self._least = min(self._maxima, default=0)
        self._tag = tag
        self._tag_bare = tag & ~_COUNT_MASK
        self._renew()

    def _settled(self, log: array[int], date: int) -> int:
        """``date`` of ``log``, no later than any step back of the clock that the log has not seen."""
        tag = log[0]
        for since, moment in self._steps:
            if since > tag:
                return min(date, moment)
        return date

    def _is_bare(self, tag: int) -> bool:
        """Whether a log with ``tag`` has neither heads nor sums, and dates that hold."""
        return not tag & _COUNT_MASK and tag >= self._settled_from

    def _make_bare(self, log: array[int]) -> None:
        """Drop heads and sums, and mend the dates."""
        events = array("q", (self._bare,))
        for date, amount in _events(log):
            settled = self._settled(log, date)
            if len(events) > 1 and events[-2] == settled:
                events[-1] += amount
            else:
                events.extend((settled, amount))
        log[:] = events

    def _lay_out(self, log: array[int], limits: Limits) -> None:
        """Give ``log`` a head and a sum for each of ``limits``."""
        if log[0] < self._settled_from:
            self._make_bare(log)
        before = _base(log)
        first = 1 + 2 * len(limits)
        total = log[2] if len(log) == 3 else sum(log[before + 1 :: 2])  # most have been charged once
        log[:before] = array("q", (self._tag, *(first, total) * len(limits)))


def _too_much(cost: int, limits: Limits) -> Limit | None:
    for limit in limits:
        if cost > limit.maximum:
            return limit
    return None


def _base(log: array[int]) -> int:
    return 1 + 2 * (log[0] & _COUNT_MASK)


def _events(log: array[int]) -> Iterator[tuple[int, int]]:
    for at in range(_base(log), len(log), 2):
        yield log[at], log[at + 1]


def _date_of(log: array[int], at: int, amount: int) -> int:
    """The date by which the amounts from the index ``at`` on have come to ``amount``; no later than the newest one."""
    last = at + 2 * MOST_SECONDS_LOOKED_AT
    step = 2
    while (part := sum(log[at + 1 : at + step : 2])) < amount:
        amount -= part
        at += step
        step *= 2
        if at >= last:
            return log[-2]
    while step > 2:
        step //= 2
        part = sum(log[at + 1 : at + step : 2])
        if part < amount:
            amount -= part
            at += step
    return log[at]


def _insert(log: array[int], date: int, amount: int) -> None:
    """Put a charge into a log without heads, whose newest date is later than ``date``."""
    low, high = 0, (len(log) - 1) // 2
    while low < high:
        middle = (low + high) // 2
        if log[1 + 2 * middle] < date:
            low = middle + 1
        else:
            high = middle
    at = 1 + 2 * low
    if log[at] == date:
        log[at + 1] += amount
    else:
        log[at:at] = array("q", (date, amount))
