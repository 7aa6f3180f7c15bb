"""What processes have used, by proc(5): CPU time and memory; and how they are ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import signal
import sys
import time
from collections.abc import Iterable, Sequence

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


def keep_in_hand() -> None:
    """Have what daemons leave behind become children of this process, and end all of it on SIGTERM, too."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def tree(roots: Iterable[int]) -> list[int]:
    """The processes ``roots`` and all that they have started, as far as they live."""
    found: list[int] = []
    waiting = list(roots)
    while waiting:
        process = waiting.pop()
        with contextlib.suppress(OSError):
            tasks = list(pathlib.Path(f"/proc/{process}/task").iterdir())
            found.append(process)
            for task in tasks:
                waiting += map(int, (task / "children").read_text().split())
    return found


def cpu_seconds(processes: Iterable[int]) -> float:
    """User and system time of ``processes`` and of their children that have ended and were waited for."""
    ticks = 0
    for process in processes:
        with contextlib.suppress(OSError):
            # The name of the program, in parentheses, may hold anything.
            fields = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / TICKS_PER_SECOND


def peak_memory(processes: Iterable[int]) -> float:
    """The sum of the most that each of ``processes`` has had resident (VmHWM), in MB; shared pages count for each."""
    return sum(_status(process, "VmHWM") for process in processes) / 1e3 * 1.024


def resident_memory(processes: Iterable[int]) -> float:
    """What ``processes`` have resident now (VmRSS), in MB."""
    return sum(_status(process, "VmRSS") for process in processes) / 1e3 * 1.024


def _status(process: int, field: str) -> int:
    """A field of ``/proc/PID/status``, in KiB; 0 when the process has ended."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1])
    return 0


def send(processes: Iterable[int], number: int) -> None:
    """Send a signal to each of ``processes`` that still lives."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def end(processes: Sequence[int], number: int, seconds: float) -> None:
    """End processes that are no children of ours by birth: by signal ``number``, after ``seconds`` by SIGKILL."""
    send(processes, number)
    limit = time.monotonic() + seconds
    while any(_lives(process) for process in processes):
        if time.monotonic() > limit:
            send(processes, signal.SIGKILL)
        time.sleep(0.02)


def _lives(process: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process, os.WNOHANG)
    return pathlib.Path(f"/proc/{process}").exists()
