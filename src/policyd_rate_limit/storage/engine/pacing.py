"""Batch pacing: start now, or wait briefly to share a commit.

Beside a Postfix that takes in a thousand mails a second demands come one by one, and a commit for each of them costs
more of the processors than all the rest. So batches keep a distance from each other. Nobody waits for clients that are
not there, nor for those that cannot ask since they wait themselves. PostgreSQL's ``commit_delay`` and
``commit_siblings`` are the same idea.

Being woken for each demand costs as much again as what is done about it then. So where few are to be expected, the
event loop rests meanwhile, and reads at once what has come: what network cards do with their interrupts.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DISTANCE_SECONDS = 0.016  # of two beginnings; a mail that takes Postfix a millisecond waits for some others
LEAST_REST_SECONDS = 0.002
LEAST_CLIENTS = 8  # fewer do not wait for each other
PERIOD_SECONDS = 0.1  # for so long, or a little longer, clients are counted


class Pace:
    """Paces batches: says how far apart they begin. Times are of a monotonic clock, in seconds.

    ``count`` says how many clients have asked since it was called last; ``clients`` are those that ask these days, 0
    where that is not known. ``enough``: so many demands begin at once. They are half of the clients: enough to share
    the cost of a commit, and the other half keeps the processors busy. Fewer begin ``distance`` after those before.
    """

    def __init__(self, count: Callable[[], int] = lambda: 0, distance: float = DISTANCE_SECONDS) -> None:
        self.clients = 0
        self.enough = 1
        self._count = count
        self._distance = distance
        self._began = 0.0
        self._counted = 0.0  # when the clients were
        self._begun = 0  # demands, since then
        self._rate = math.inf  # demands per second; at the most what is expected

    def delay(self, now: float, waiting: int) -> float:
        """How long a batch of ``waiting`` demands is to wait for more of them; it begins at once where that is <= 0."""
        return 0.0 if waiting >= self.enough else self._began + self._distance - now

    def rest(self, delay: float, waiting: int) -> float:
        """How much of ``delay`` is likely to pass before there are enough; 0.0 where sleeping is not worth that.

        So long there is nothing to do but to wait.
        """
        seconds = min(delay, (self.enough - 1 - waiting) / self._rate)
        return seconds if seconds >= LEAST_REST_SECONDS else 0.0

    def begin(self, now: float, demands: int) -> None:
        """A batch of ``demands`` begins."""
        self._began = now
        self._begun += demands
        if demands >= self.clients:
            self._rate = math.inf  # all wait: many more have come than were expected
        period = now - self._counted
        if period >= PERIOD_SECONDS:
            self._counted = now
            clients = self._count()
            # After a rest they are those of long ago.
            self.clients = clients if period < 2 * PERIOD_SECONDS else 0
            self.enough = self.clients // 2 if self.clients >= LEAST_CLIENTS else 1
            self._rate = self._begun / period if self.clients else math.inf
            self._begun = 0
