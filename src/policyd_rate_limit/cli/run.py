"""The daemon itself."""

from __future__ import annotations

from pathlib import Path

from policyd_rate_limit import app
from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.cli.settings import load


def run(path: Path | None) -> Exit:
    """Serve until a signal. Raises PolicydError."""
    app.run(load(path, serves=True))
    return Exit.OK
