"""Batch pacing: start now, or wait briefly to share a commit.

Beside a Postfix that takes in a thousand mails a second demands come one by one, and a commit for each of them costs
more of the processors than all the rest. So batches keep a distance from each other. Nobody waits for clients that are
not there, nor for those that cannot ask since they wait themselves. PostgreSQL's ``commit_delay`` and
``commit_siblings`` are the same idea.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DISTANCE_SECONDS = 0.016  # of two beginnings; a mail that takes Postfix a millisecond waits for some others
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

    def delay(self, now: float, waiting: int) -> float:
        """How long a batch of ``waiting`` demands is to wait for more of them; it begins at once where that is <= 0."""
        return 0.0 if waiting >= self.enough else self._began + self._distance - now

    def begin(self, now: float) -> None:
        """A batch begins."""
        self._began = now
        period = now - self._counted
        if period >= PERIOD_SECONDS:
            self._counted = now
            clients = self._count()
            # After a quiet time they are those of long ago.
            self.clients = clients if period < 2 * PERIOD_SECONDS else 0
            self.enough = self.clients // 2 if self.clients >= LEAST_CLIENTS else 1
