"""Whether daemon and spool are well: looked up as often as somebody asks, but not for everybody anew."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from policyd_rate_limit.admin.overview import Health, health

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.config import Settings

KEPT_SECONDS = 3.0
"""How long an answer is good: spool files, which are read for it, may be large."""


class HealthChecks:
    """Looks at the host. ``clock``: a monotonic one, in seconds."""

    def __init__(self, settings: Callable[[], Settings], clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._found: tuple[float, Health] | None = None

    def __call__(self) -> Health:
        """How it is now; it reads files, so not for the event loop."""
        with self._lock:
            now = self._clock()
            if self._found is None or not 0 <= now - self._found[0] < KEPT_SECONDS:
                self._found = (now, health(self._settings()))
            return self._found[1]
