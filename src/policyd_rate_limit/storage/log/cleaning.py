"""Deletes what no window reaches any more, while daemons use the database."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.limits import longest_of
from policyd_rate_limit.storage.administration import longest_window
from policyd_rate_limit.storage.log import tables, trails

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.storage.log.contract import Log


def clean(
    log: Log, now: int, longest: int, patience: float, limits_of: Callable[[str], Limits | None] | None = None
) -> int:
    """Delete what is older than twice the longest window of any daemon; how many entries that were.

    ``now``: Unix second. ``longest``: the longest window of the configuration, in seconds. ``limits_of`` gives the
    limits of a counter where they are not those of the configuration: it is asked about what would be deleted, in case
    that a longer window still needs it.

    :raises LogError: the database cannot be cleaned now.
    """
    tables.remove_expired(log, now, patience)
    in_force = tables.overrides(log, now)
    needed = max(longest, longest_window(in_force), tables.longest_announced(log, now))
    if limits_of is not None:
        needed = max(needed, _longest_window(log, now - 2 * longest, limits_of))
    deleted = log.clean(now - 2 * needed, patience)
    if trails.are_kept(log):
        while trails.clean(log, now, patience):
            pass
    log.compact(patience)
    return deleted


def _longest_window(log: Log, before: int, limits_of: Callable[[str], Limits | None]) -> int:
    """The longest window of those who are counted in rows that are older than ``before``."""
    counters: set[str] = set()
    for _, record in log.rows_after(0):
        if record.date >= before:
            break
        with contextlib.suppress(ValueError):  # what cannot be understood does not count
            counters.update(entry.counter for entry in record.dated_until(record.date))
    return max((longest_of(limits_of(counter) or ()) for counter in counters), default=0)
