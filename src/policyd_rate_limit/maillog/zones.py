"""The time zone of this host, with all its changes of the clock: that of dates without one."""

from __future__ import annotations

import os
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

if TYPE_CHECKING:
    from datetime import tzinfo

LOCALTIME: Final = Path("/etc/localtime")
"""See localtime(5)."""


def host_zone() -> tzinfo:
    """The zone that the variable TZ names, else that of /etc/localtime; UTC where there is none, or one unknown."""
    name = os.environ.get("TZ", "").removeprefix(":")
    try:
        if name and not name.startswith("/"):
            return ZoneInfo(name)
        with Path(name or LOCALTIME).open("rb") as file:
            return ZoneInfo.from_file(file, "localtime")
    except (OSError, ValueError, ZoneInfoNotFoundError):
        return UTC
