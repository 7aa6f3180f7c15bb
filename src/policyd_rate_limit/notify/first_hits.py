"""Which hits are worth an alert: the first of an id in its window, and not too many an hour."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from policyd_rate_limit.notify.alert import HOUR, Unsent, told_once_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.domain.limits import Limit

MOST_TOLD = 65_536
"""The most hits that are remembered as told; beyond them the oldest is forgotten, and may be told again."""

MOST_NAMED = 50
"""The most unsent alerts of which the next one says whom they were about."""


class FirstHits:
    """Finds first hits: remembers which were told.

    ``clock`` gives Unix seconds; ``per_hour``: the most alerts in any hour.
    """

    def __init__(self, clock: Callable[[], float], per_hour: int = 0) -> None:
        self.per_hour = per_hour
        self._clock = clock
        self._told: dict[tuple[str, str, int], float] = {}  # in the order of the times
        self._sent: deque[float] = deque()
        self._unsent = 0
        self._named: list[tuple[str, Limit]] = []

    def hit(self, counter: str, limit: Limit, what: str = "") -> bool:
        """``counter`` ran into ``limit``, or ``what`` has come of that: whether that is to be told.

        A maximum of 0 is no news: the administrator has blocked whom it is for.
        """
        if not limit.maximum:
            return False
        now = self._clock()
        about = counter, what, limit.seconds
        told = self._told.get(about)
        # What was told in the future was told before the clock was set right.
        if told is not None and told <= now < told + told_once_in(limit):
            return False
        self._tell(about, now)
        if self._may_send(now):
            return True
        self._unsent += 1
        if len(self._named) < MOST_NAMED:
            self._named.append((counter, limit))
        return False

    def is_told(self, counter: str, limit: Limit) -> None:
        """That ``counter`` ran into ``limit`` is told with something else."""
        self._tell((counter, "", limit.seconds), self._clock())

    def _tell(self, about: tuple[str, str, int], now: float) -> None:
        self._told.pop(about, None)
        self._told[about] = now
        if len(self._told) > MOST_TOLD:
            del self._told[next(iter(self._told))]

    def take_unsent(self) -> Unsent:
        """What was not told for there were too many, since the last call."""
        unsent = Unsent(self._unsent, tuple(self._named))
        self._unsent, self._named = 0, []
        return unsent

    def _may_send(self, now: float) -> bool:
        sent = self._sent
        while sent and not sent[0] <= now < sent[0] + HOUR:
            sent.popleft()
        if len(sent) >= self.per_hour:
            return False
        sent.append(now)
        return True
