"""What the benchmark ran on, and how still it was there."""

from __future__ import annotations

import os
import pathlib
import platform
import sqlite3
import statistics
import subprocess
import time
from typing import Any

SPIN = 200_000  # steps of a loop that always does the same
PROBES = 40


def describe() -> dict[str, Any]:
    """The machine and the programs that matter, for the page."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "version": _version(),
    }


def noise(directory: pathlib.Path) -> dict[str, Any]:
    """How long what always costs the same took, in milliseconds: a loop, and 4 KB to disk in ``directory``.

    ``stolen``: the share of time that the hypervisor gave to others (proc(5)) meanwhile.
    """
    before = _jiffies()
    loops = [_spin() for _ in range(PROBES)]
    syncs = []
    with (directory / "probe").open("wb", buffering=0) as probe:
        for _ in range(5 * PROBES):
            begin = time.perf_counter()
            probe.write(bytes(4096))
            os.fdatasync(probe.fileno())
            syncs.append(1e3 * (time.perf_counter() - begin))
    after = _jiffies()
    spent = [now - then for now, then in zip(after, before, strict=True)]
    return {
        "loop_ms": _spread(loops),
        "fdatasync_ms": _spread(syncs),
        "stolen": spent[7] / max(1, sum(spent[:8])),
    }


def idle_seconds() -> float:
    """How long the processors had nothing to do since the start, all together."""
    _, _, _, idle, waiting, *_ = _jiffies()
    return (idle + waiting) / os.sysconf("SC_CLK_TCK")


def _spin() -> float:
    begin = time.perf_counter()
    total = 0
    for number in range(SPIN):
        total += number
    return 1e3 * (time.perf_counter() - begin)


def _spread(values: list[float]) -> dict[str, float]:
    ranked = sorted(values)
    return {
        "min": ranked[0],
        "median": statistics.median(ranked),
        "p90": ranked[len(ranked) * 9 // 10],
        "max": ranked[-1],
    }


def _jiffies() -> list[int]:
    return [int(part) for part in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:]]


def _cpu_model() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _version() -> str:
    """The commit that was measured, where it is known, and whether what it is measured with or of was changed since."""
    git = ["git", "-C", str(pathlib.Path(__file__).parent.parent)]
    commit = subprocess.run([*git, "describe", "--always"], capture_output=True, text=True, check=False).stdout.strip()
    changed = subprocess.run(
        [*git, "diff", "--quiet", "HEAD", "--", "src", "packaging", "bench/*.py", "bench/*.c"], check=False
    )
    return f"{commit}-dirty" if commit and changed.returncode else commit or "unknown"
