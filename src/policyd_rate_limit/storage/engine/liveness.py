"""Liveness of the store thread, for the watchdog and the health check."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.storage.engine.worker import Decider

STUCK_SECONDS = 30.0
"""How long the store may rest on one thing beyond twice the time that the database may take."""

WORK_SECONDS = 0.05
"""So much of a processor is work: reading a million ids takes long, and is no rest."""

ENDLESS_SECONDS = 600.0
"""No work takes longer."""


class Liveness:
    """``store``, a :class:`policyd_rate_limit.storage.engine.worker.Decider`, and when its thread last made progress.

    A thread that waits for a database which does not answer is not stuck: that ends with ``timeout`` (seconds). One
    is that waits for longer, for a disk that hangs or for a lock that is never given back. ``clock`` is a monotonic
    one, in seconds.
    """

    def __init__(self, store: Decider, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self.prepare = store.prepare
        self.explain = store.explain
        self._patience = 2 * timeout + STUCK_SECONDS
        self._clock = clock
        self._beat = self._progress = clock()
        self._worked = 0.0
        self._processor: int | None = None  # the clock of the thread's processor time

    def open(self) -> None:
        # Asked for here: of a thread that has ended it must not be.
        self._processor = time.pthread_getcpuclockid(threading.get_ident())
        self._store.open()
        self._beat = self._clock()

    def maintain(self) -> None:
        """About once a second."""
        self._store.maintain()
        self._beat = self._clock()

    def close(self) -> None:
        self._store.close()

    def alive(self) -> bool:
        """Whether the thread makes progress; to be asked about once a second, from any other thread."""
        now = self._clock()
        worked = self._processor_seconds()
        if worked - self._worked >= WORK_SECONDS:
            self._worked = worked
            self._progress = now
        rests = now - max(self._beat, self._progress)
        return rests < self._patience and now - self._beat < ENDLESS_SECONDS

    def _processor_seconds(self) -> float:
        if self._processor is None:
            return 0.0
        try:
            return time.clock_gettime(self._processor)
        except OSError:  # the thread has ended
            return self._worked
