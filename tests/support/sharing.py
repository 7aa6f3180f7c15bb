"""Keys that share a common counter, beyond the keys that have one of their own."""

from __future__ import annotations

import itertools
from collections import defaultdict

from policyd_rate_limit.domain.windows import OVERFLOW_BUCKETS


def keys_that_share(count: int) -> list[str]:
    """``count`` keys with one common log: which they are differs from process to process."""
    by_bucket: dict[int, list[str]] = defaultdict(list)
    for number in itertools.count():
        key = f"k{number}"
        keys = by_bucket[hash(key) % OVERFLOW_BUCKETS]
        keys.append(key)
        if len(keys) == count:
            return keys
    raise AssertionError("never reached")
