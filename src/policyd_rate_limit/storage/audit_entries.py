"""What the audit trail of every store says of each change."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.counter import is_distinct, unit_of
from policyd_rate_limit.domain.counting import BYTES
from policyd_rate_limit.domain.limits import spell_limit
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.storage.administration import LONGEST_DETAIL, LONGEST_NOTE, AuditEntry

if TYPE_CHECKING:
    from policyd_rate_limit.storage.administration import Actor, Override

ALLOW: Final = "allow"
BLOCK: Final = "block"
REVOKE: Final = "revoke"
RESET: Final = "reset"
COPY_TO: Final = "copy-to"

LONGEST_ACTION: Final = 64  # characters
LONGEST_SUBJECT: Final = 10_000  # characters; no counter that a client can make is as long


def entry_of(by: Actor, now: int, action: str, subject: str, detail: str = "", note: str = "") -> AuditEntry:
    """What ``by`` did ``now`` (Unix second), each text as long as it may be; the store gives it its number."""
    return AuditEntry(
        0,
        now,
        by.who[:LONGEST_DETAIL],
        by.from_where[:LONGEST_DETAIL],
        action[:LONGEST_ACTION],
        subject[:LONGEST_SUBJECT],
        detail[:LONGEST_NOTE],
        note[:LONGEST_NOTE],
    )


def entry_of_override(by: Actor, now: int, override: Override) -> AuditEntry:
    """Other limits, or none, or a block, until a time."""
    blocks = any(limit.maximum == 0 for limit in override.limits)
    until = time.strftime("until %Y-%m-%d %H:%M:%S UTC", time.gmtime(override.until))
    limits = ", ".join(map(spell_limit, override.limits)) or "unlimited"
    detail = until if blocks else f"{limits} {until}"
    return entry_of(by, now, BLOCK if blocks else ALLOW, override.key, detail, override.note)


def entry_of_revocation(by: Actor, now: int, key: str, note: str = "", *, had_one: bool) -> AuditEntry:
    """The end of an override; ``had_one``: there was one in force."""
    return entry_of(by, now, REVOKE, key, "" if had_one else "nothing was in force", note)


def entry_of_reset(by: Actor, now: int, key: str, taken_back: int | None, note: str = "") -> AuditEntry:
    """That windows are empty: so much was ``taken_back``; None: that is not known yet."""
    detail = "" if taken_back is None else taken_back_of(key, taken_back)
    return entry_of(by, now, RESET, key, detail, note)


def taken_back_of(key: str, amount: int) -> str:
    """That ``amount`` was taken back of the counter ``key``: ``3 mails taken back``."""
    counted = "byte" if unit_of(key) == BYTES else "value" if is_distinct(key) else "mail"
    return f"{quantity(amount, counted)} taken back"
