"""The most that each id has used of each window, to the second, by the windows that decide about limits."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, final

from policyd_rate_limit.domain.limits import LARGEST, Limit
from policyd_rate_limit.domain.windows import Windows
from policyd_rate_limit.rehearsal.readable import LADDER

MOST_IDS: Final = 100_000
"""The most ids of one key of which peaks are known; then an eighth of them goes: of those of whom no window holds
anything those that have sent least, or else of all."""

_GOING: Final = 8


@final
class Sent:
    """What one id has sent: ``amount``, ``last`` at; and the most that was in each window, ``peaks``, at ``times``."""

    __slots__ = ("amount", "last", "peaks", "times")

    def __init__(self, windows: int) -> None:
        self.amount = 0
        self.last = 0
        self.peaks = array("q", bytes(8 * windows))
        self.times = array("q", bytes(8 * windows))


class Forgotten(NamedTuple):
    """What is left of ids that had to go: how often one went, and how many had which peak in each window."""

    times: int
    peaks: tuple[Counter[int], ...]


class Peaks:
    """The peaks of all ids of one key, in ``windows`` of so many seconds each.

    ``most_ids`` bounds the memory, beside what lies in the windows. An id that went and comes again begins anew.
    """

    def __init__(self, windows: Sequence[int], most_ids: int = MOST_IDS) -> None:
        self.windows = tuple(windows)
        self.ids: dict[str, Sent] = {}
        self.mails = 0
        self._limits = tuple(Limit(LARGEST, seconds) for seconds in windows)
        self._longest = max(windows)
        self._most_ids = most_ids
        self._counts = Windows(most_ids)
        self._swept = 0
        self._gone_times = 0
        self._gone: tuple[Counter[int], ...] = tuple(Counter() for _ in windows)
        self._reached = [array("q", bytes(8 * (len(LADDER) + 1))) for _ in windows]
        self.is_crowded = False
        """Whether more ids than there is room for had something in a window: their peaks may be too high then."""

    def add(self, name: str, time: float, amount: int) -> None:
        """``name`` sends ``amount`` at ``time`` (Unix seconds), which is no earlier than the one before."""
        counts = self._counts
        counts.advance(time)
        if counts.now != self._swept:
            self._sweep()
        sent = self.ids.get(name)
        if sent is None:
            sent = self.ids[name] = Sent(len(self.windows))
        # Who keeps nothing has the windows let go of what has left them.
        counts.exceeded(name, amount, (), self._longest)
        counts.add(name, counts.date, amount)
        sent.amount += amount
        sent.last = counts.now
        self.mails += 1
        peaks = sent.peaks
        for at, used in enumerate(counts.usage(name, self._limits)):
            self._reached[at][bisect_left(LADDER, used)] += 1
            if used > peaks[at]:
                peaks[at] = used
                sent.times[at] = counts.now
        if len(self.ids) > self._most_ids:
            self._forget()

    @property
    def forgotten(self) -> Forgotten:
        """What had to go for want of room."""
        return Forgotten(self._gone_times, self._gone)

    def sorted_peaks(self, window: int, without: frozenset[str] = frozenset()) -> list[int]:
        """All peaks in the window with this index by size, of those that went too, but not of the ids ``without``."""
        found = [sent.peaks[window] for name, sent in self.ids.items() if name not in without]
        found += self._gone[window].elements()
        found.sort()
        return found

    def curve(self, window: int) -> Iterator[tuple[int, int, int]]:
        """For each round maximum up to one that spares all: it, how many ids it would refuse, and mails at the most.

        Ids: whose peak is higher, exactly. Mails: those before which so much had been sent, also what would have been
        refused by then: so no more than these are refused, and fewer where an id goes on and on.
        """
        peaks = self.sorted_peaks(window)
        reached = self._reached[window]
        left = self.mails
        below = 0
        for at, maximum in enumerate(LADDER):
            left -= reached[at]
            while below < len(peaks) and peaks[below] <= maximum:
                below += 1
            yield maximum, len(peaks) - below, left
            if below == len(peaks):
                return

    def _sweep(self) -> None:
        """Have the windows let go of a part of what has left them, in each second in which anything comes.

        A log that is dense enough to fill the memory has something in every second.
        """
        counts = self._counts
        counts.sweep(self._longest)
        self._swept = counts.now
        self.is_crowded = self.is_crowded or counts.overflowing > 0

    def _forget(self) -> None:
        """Let those go who have sent least; their peaks still count for what spares how many."""
        horizon = self._counts.now - self._longest
        least = sorted(self.ids.items(), key=lambda item: (item[1].last > horizon, item[1].amount))
        for name, sent in least[: max(1, len(least) // _GOING)]:
            del self.ids[name]
            self._gone_times += 1
            for at, peak in enumerate(sent.peaks):
                self._gone[at][peak] += 1
