"""The hit history and the audit trail: two tables that databases of older versions lack, which do not mind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.storage.log import audit_trail, hit_history

if TYPE_CHECKING:
    from policyd_rate_limit.storage.log.contract import Log


def are_kept(log: Log) -> bool:
    """Whether there are both tables."""
    return log.has_table(audit_trail.TABLE) and log.has_table(hit_history.TABLE)


def clean(log: Log, now: int, patience: float) -> bool:
    """Delete some of what is too old at ``now`` (Unix second), or too much; whether there is more of that."""
    more_hits = hit_history.clean(log, now, patience)
    more_entries = audit_trail.clean(log, now, patience)
    return more_hits or more_entries
