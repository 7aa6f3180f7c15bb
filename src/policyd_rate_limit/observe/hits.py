"""Counts hits for the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.domain.listener import Listener

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.domain.limits import Limit


class ReportedHits(Listener):
    """Counts hits of the limits that the report tells of; who and which limit is all it needs.

    ``windows`` (seconds) are those whose limits are reported: ``hit`` is told of them.
    """

    def __init__(self, windows: Iterable[int], hit: Callable[[str, Limit], None]) -> None:
        self._windows = frozenset(windows)
        self._hit = hit

    def reconfigure(self, settings: Settings) -> None:
        """Count for the report that ``settings`` ask for."""
        self._windows = frozenset(settings.report_limits if settings.report else ())

    def refused(self, counter: str, limit: Limit) -> bool:
        """Count it; there is nothing more to be told of it."""
        if limit.seconds in self._windows:
            self._hit(counter, limit)
        return False
