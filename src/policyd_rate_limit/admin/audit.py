"""Who has changed what: the audit trail, as administrators ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.admin.desk import NotAnId

if TYPE_CHECKING:
    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.storage.administration import AuditEntry


class Audit(NamedTuple):
    """``entries``, latest first, as of ``now`` (Unix second)."""

    now: int
    entries: list[AuditEntry]


def audit(
    desk: Desk, name: str | None = None, *, seconds: int | None = None, most: int, before: int | None = None
) -> Audit:
    """The ``most`` latest changes, about what ``name`` stands for alone, or that is called just so; None: all.

    ``seconds``: only those of so many last ones, None: as far back as is kept. ``before``: with lower numbers only.
    """
    now = desk.store.now()
    since = 0 if seconds is None else now - seconds
    return Audit(now, desk.store.audit(since, most=most, before=before, subjects=_subjects(desk, name)))


def _subjects(desk: Desk, name: str | None) -> tuple[str, ...] | None:
    if name is None:
        return None
    try:
        keys = desk.keys(name)
    except NotAnId:  # a counter of a rule that is gone, an account of the web page
        keys = ()
    return tuple(dict.fromkeys((name, *keys)))
