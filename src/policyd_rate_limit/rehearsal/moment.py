"""A moment in the JSON of rehearsals and suggestions."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime


def moment_members(name: str, time: float | None) -> dict[str, int | str | None]:
    """``time`` under ``name``, as Unix seconds, and beside it as RFC 3339 has it."""
    second = None if time is None else int(time)
    told = None
    if second is not None:
        with contextlib.suppress(ValueError, OverflowError, OSError):  # no year of a calendar
            told = datetime.fromtimestamp(second, UTC).isoformat().replace("+00:00", "Z")
    return {name: second, f"{name}_time": told}
