"""The daemon itself."""

from __future__ import annotations

from pathlib import Path

from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.cli.settings import load
from policyd_rate_limit.daemon import start


def run(path: Path | None) -> Exit:
    """Serve until a signal. Raises PolicydError."""
    start.run(load(path, serves=True))
    return Exit.OK
