"""The limit of open files (RLIMIT_NOFILE), of which each connection takes one."""

from __future__ import annotations

import contextlib
import resource


def allow_open_files(wanted: int) -> None:
    """Raise the limit to ``wanted`` files, as far as that is allowed, so that all connections fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard) if hard >= 0 else wanted, hard))
