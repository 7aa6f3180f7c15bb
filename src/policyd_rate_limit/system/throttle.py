"""Throttles log lines that a client can cause at will."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from policyd_rate_limit.compiling import mypyc_attr

if TYPE_CHECKING:
    from collections.abc import Callable

THROTTLE_KEYS: Final = 1024

_NEVER: Final = float("-inf")


@mypyc_attr(acyclic=True)
class _Said:
    """When something was said last, and how often it was not said since."""

    def __init__(self) -> None:
        self.at = _NEVER
        self.suppressed = 0


class Throttle:
    """Lets something be logged once per ``interval`` seconds and key.

    ``clock`` is a monotonic clock in seconds. At most ``keys`` keys are known at a time; those beyond share one turn,
    so that many keys do not make many lines.
    """

    def __init__(self, interval: float, clock: Callable[[], float], keys: int = THROTTLE_KEYS) -> None:
        self._interval = interval
        self._clock = clock
        self._keys = keys
        self._said: dict[str, _Said] = {}  # in the order of the times
        self._beyond = _Said()  # what is said of those that share one turn
        self._forgotten = 0  # of what was not said, about keys that are no longer known

    def hit(self, key: str = "") -> tuple[bool, int]:
        """Whether to say it now, and how often it was not said since the last time.

        That is about ``key``, and about keys that have been forgotten since without being told of.
        """
        now = self._clock()
        said = self._said.get(key)
        if said is None:
            said = self._begin(now)
        if now - said.at < self._interval:
            said.suppressed += 1
            return False, said.suppressed
        if said is not self._beyond:
            self._said.pop(key, None)
            self._said[key] = said
        suppressed = said.suppressed + self._forgotten
        said.at = now
        said.suppressed = self._forgotten = 0
        return True, suppressed

    def _begin(self, now: float) -> _Said:
        """What is known of a key that is new."""
        if now - self._beyond.at >= self._interval:
            self._forgotten += self._beyond.suppressed
            self._beyond.suppressed = 0
        while len(self._said) >= self._keys:
            oldest = next(iter(self._said))
            if now - self._said[oldest].at < self._interval:
                return self._beyond
            self._forgotten += self._said.pop(oldest).suppressed
        return _Said()
