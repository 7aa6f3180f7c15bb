"""Whether this host's clock is right, as far as it knows itself."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from policyd_rate_limit.doctor.finding import Finding, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST_ERROR = 16_000_000
"""Microseconds: where the kernel's estimate of the error ends when nobody sets the clock: adjtimex(2), NTP_PHASE_LIMIT.
timedatectl(1) goes by it as well."""

_WORDS = 64  # struct timex has fewer


def estimated_error() -> int | None:
    """Microseconds that the clock may be wrong by, as the kernel says; None where it does not say."""
    timex = (ctypes.c_long * _WORDS)()  # modes = 0: nothing is set
    libc = ctypes.CDLL(None, use_errno=True)
    # modes, offset, freq, maxerror
    return timex[3] if libc.adjtimex(timex) >= 0 else None


def examine(error: int | None) -> Iterator[Finding]:
    """``error`` is of :func:`estimated_error`."""
    if error is None:
        return
    if error >= LARGEST_ERROR:
        yield warning(
            "clock",
            "this host",
            "the clock is not synchronised",
            "Windows are measured by it. One that is set right later lets windows run out, or stand still.",
            "apt install chrony   # or: timedatectl set-ntp true",
        )
    else:
        yield ok("clock", "this host", f"synchronised to within {max(1, error // 1000)} ms")
