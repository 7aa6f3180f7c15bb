"""A wall clock for the daemon alone that a test moves, by Debian's libfaketime."""

from __future__ import annotations

import pathlib

from support.programs import require_faketime

# libfaketime 0.9.10, Debian 12's, breaks clock_nanosleep(2) of a monotonic clock that it leaves alone: EINVAL. From
# Python 3.11 on time.sleep() is that call. Python imports this module when it starts.
SITECUSTOMIZE = """\
import select
import time

def sleep(seconds):
    select.select([], [], [], seconds)

time.sleep = sleep
"""


class Clock:
    """The time of a child process started with :attr:`environment`; its monotonic clock stays true.

    The library is preloaded into the child and reads the offset from a file at every look at the clock.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        self.file = directory / "faketime"
        self.offset = 0
        modules = directory / "faketime-modules"
        modules.mkdir()
        (modules / "sitecustomize.py").write_text(SITECUSTOMIZE)
        self.environment = {
            "PYTHONPATH": str(modules),
            "LD_PRELOAD": str(require_faketime()),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DISABLE_SHM": "1",  # nothing of a killed daemon stays in /dev/shm
            # Else it adds the offset to the end of pthread_cond_timedwait(3) on the monotonic clock too: Python waits
            # for its lock in these, and would spin.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }
        self.forward(0)

    def forward(self, seconds: int) -> None:
        """Step the clock by ``seconds``; negative: back."""
        self.offset += seconds
        new = self.file.with_suffix(".new")
        new.write_text(f"{self.offset:+d}\n")
        new.replace(self.file)  # the daemon never reads half of it
