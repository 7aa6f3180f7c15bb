"""Overrides that are changed only where they still are as somebody has seen them.

Two may look at what is in force, and each then write what would be right if nobody else did. So the statements
themselves find out whether it still is what was seen, and the audit trail is told in the same transaction of what was
done, and of nothing else.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from policyd_rate_limit.storage.log import audit_trail, tables
from policyd_rate_limit.storage.log.columns import digest_of
from policyd_rate_limit.storage.log.contract import Statement

if TYPE_CHECKING:
    from policyd_rate_limit.storage.administration import AuditEntry, Override
    from policyd_rate_limit.storage.log.contract import Log

_UPDATE = "UPDATE policyd_override SET limits = %s, expires = %s, note = %s, stamp = %s WHERE id = %s AND stamp = %s"


def put(log: Log, override: Override, seen: Override | None, now: int, patience: float, entry: AuditEntry) -> bool:
    """Put ``override`` in force in place of ``seen``, None: where none is in force ``now``; whether that was done.

    :raises StoreFull: there are too many.
    """
    tables.check_room(log, override.key, now)
    row = tables.row_of(override)
    digest, stamp = row[0], row[-1]
    if seen is None:
        changed = tables.unless_in_force("counter", "limits", "note", "stamp")
        text = tables.INSERT_OVERRIDE + log.on_conflict("id", changed)
        putting = Statement(text, (*row, *[now] * len(changed)))
    else:
        before = tables.stamp_of(log, seen)
        if before is None:
            return False
        text = (
            "UPDATE policyd_override SET limits = %s, expires = %s, note = %s, stamp = %s WHERE id = %s AND stamp = %s"
        )
        putting = Statement(text, (*row[2:], digest, before))
    log.write([putting, audit_trail.entering_beside(entry, digest, stamp)], patience)
    return tables.stamp_of(log, override) == stamp


def end(log: Log, seen: Override, patience: float, entry: AuditEntry) -> bool:
    """End ``seen``; whether that was done."""
    digest, before, stamp = digest_of(seen.key), tables.stamp_of(log, seen), random.getrandbits(32)
    if before is None:
        return False
    marking = "UPDATE policyd_override SET stamp = %s WHERE id = %s AND stamp = %s"
    deleting = "DELETE FROM policyd_override WHERE id = %s AND stamp = %s"
    log.write(
        [
            Statement(marking, (stamp, digest, before)),
            audit_trail.entering_beside(entry, digest, stamp),
            Statement(deleting, (digest, stamp)),
        ],
        patience,
    )
    return tables.stamp_of(log, seen) is None
