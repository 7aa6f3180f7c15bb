"""What each rule has refused, and would have refused in shadow, hour by hour: sums of the hit history, in memory."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from policyd_rate_limit.domain.counter import rule_and_key
from policyd_rate_limit.storage.administration import HISTORY_DAYS, HOUR

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from policyd_rate_limit.storage.administration import Administration, HourOfHits

WOULD: Final = ("would-refuse", "would-block")
"""The verdicts of rules in shadow."""

BROUGHT_LATER: Final = 2
"""How many hours before this one are read again with it: daemons bring the last of an hour after its end."""

AGAIN_SECONDS: Final = 10
"""How often these are read."""

ALL_AGAIN_SECONDS: Final = 6 * HOUR
"""How often all are: after an outage daemons bring what is much older."""

MOST_SUMS: Final = 100_000
"""The most sums that are kept, of an hour, a rule and a verdict: beyond it the oldest hours go."""


class Sum(NamedTuple):
    """In the hour that began at the Unix second ``hour`` so many ``hits`` of ``rule`` got the verdict ``kind``."""

    hour: int
    rule: str
    kind: str
    hits: int


class Refusals:
    """The sums. One thread reads them, any may ask for them."""

    def __init__(self) -> None:
        self._by_hour: Mapping[int, Mapping[tuple[str, str], int]] = {}
        self._read_at = self._all_read_at = 0
        self.latest: tuple[str, ...] = ()
        """The counters that ran into limits since the last reading but one."""

    @property
    def is_read(self) -> bool:
        """Whether they have been read at all."""
        return self._all_read_at > 0

    def read(self, store: Administration, now: int) -> None:
        """Read what may be new by ``now`` (Unix second), if it is due. Raises StoreError."""
        if 0 <= now - self._read_at < AGAIN_SECONDS:
            return
        oldest = now - HISTORY_DAYS * 86_400
        is_all_due = not 0 <= now - self._all_read_at < ALL_AGAIN_SECONDS
        since = oldest if is_all_due else now - BROUGHT_LATER * HOUR
        begin = since - since % HOUR
        by_hour = {hour: sums for hour, sums in self._by_hour.items() if oldest <= hour < begin}
        found: dict[int, Counter[tuple[str, str]]] = {}
        latest: dict[str, None] = {}
        for one in store.hit_history(begin):
            if one.last >= self._read_at - AGAIN_SECONDS:
                latest[one.key] = None
            found.setdefault(one.hour, Counter())[rule_and_key(one.key)[0], one.kind] += one.hits
        by_hour.update(found)
        size = sum(map(len, by_hour.values()))
        for hour in sorted(by_hour):
            if size <= MOST_SUMS:
                break
            size -= len(by_hour.pop(hour))
        self._by_hour = by_hour
        self._read_at = now
        self.latest = tuple(latest)
        if is_all_due:
            self._all_read_at = now

    def since(self, begin: int) -> Iterator[Sum]:
        """The sums of the hour of ``begin`` (Unix second) and later, oldest first."""
        for hour, sums in sorted(self._by_hour.items()):
            if hour > begin - HOUR:
                for (rule, kind), hits in sorted(sums.items()):
                    yield Sum(hour, rule, kind, hits)


def is_would_be(one: Sum | HourOfHits) -> bool:
    """Whether nothing was refused, since the rule is in shadow."""
    return one.kind in WOULD
