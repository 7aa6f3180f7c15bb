"""Rows for the hit history."""

from __future__ import annotations

import time

from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.storage.administration import HitDetails, HourOfHits
from policyd_rate_limit.storage.hit_history import hour_of

LIMIT = Limit(10, 60)
THIS_HOUR = hour_of(time.time())


def details(queue_id: str = "4bX1", sender: str = "a@example.org") -> HitDetails:
    return HitDetails(queue_id, "2001:db8::1", sender, "b@example.org", "1.2.3")


def row(key: str = "user:a", hits: int = 1, *, hour: int = THIS_HOUR, at: int = 5, kind: str = "refused") -> HourOfHits:
    """``hits`` that came in the second ``at`` of ``hour``."""
    return HourOfHits(hour, key, LIMIT, kind, hits, hour + at, hour + at, details(f"{at:X}"))
