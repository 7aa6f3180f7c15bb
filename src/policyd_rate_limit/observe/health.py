"""Health of the daemon. An outage of the database is not unhealthy: a restart would not help."""

from __future__ import annotations

from typing import NamedTuple

LOOP_SECONDS = 5.0
"""An event loop that has not turned for so long is stuck; it turns at least once a second."""


class Health(NamedTuple):
    """Whether all is well, and what there is to say."""

    ok: bool
    text: str


def health(now: float, *, loop_turned: float, store_alive: bool, away_since: float | None) -> Health:
    """The state of health at ``now``; all times by the monotonic clock, in seconds.

    ``loop_turned``: when the event loop did last. ``store_alive``: whether the store thread makes progress.
    ``away_since``: since when the database
    has been away.
    """
    ills = []
    if now - loop_turned > LOOP_SECONDS:
        ills.append(f"the event loop has been stuck for {now - loop_turned:.0f} s")
    if not store_alive:
        ills.append("the store's thread is stuck")
    if ills:
        return Health(False, "; ".join(ills))
    if away_since is not None:
        return Health(True, f"ok, but the database has been away for {now - away_since:.0f} s")
    return Health(True, "ok")
