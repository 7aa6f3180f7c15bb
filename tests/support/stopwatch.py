"""How long something takes, on a machine that has other things to do."""

from __future__ import annotations

import pathlib
import time

_SCHEDSTAT = pathlib.Path("/proc/thread-self/schedstat")


class Stopwatch:
    """Runs from its making on, in the thread that makes and reads it."""

    def __init__(self) -> None:
        self._began = time.monotonic() - _kept_waiting()

    @property
    def seconds(self) -> float:
        """Without what the thread could have run, had others not had the processor."""
        return time.monotonic() - _kept_waiting() - self._began


def _kept_waiting() -> float:
    """Seconds that this thread was ready to run and did not: sched-stats.rst of the kernel. 0 where it tells none."""
    try:
        _, waited, _ = _SCHEDSTAT.read_text().split()
    except OSError:
        return 0.0
    return int(waited) / 1e9
