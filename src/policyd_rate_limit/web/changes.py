"""What visitors change, each checked and entered into the audit trail under their name: for pages and API alike.

Each is to be asked of :class:`.desks.Desks`, and raises NotAnId, Forbidden and StoreError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.admin import overrides
from policyd_rate_limit.domain.limits import Limit

if TYPE_CHECKING:
    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.admin.overrides import Overridden
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.web.visitors import Visitor

BLOCK: Limits = (Limit(0, 1),)
"""The limits of whom nothing passes."""


def allow(
    desk: Desk, visitor: Visitor, name: str, limits: Limits, seconds: int, note: str, rule: str | None = None
) -> Overridden:
    """Put ``limits`` in force for ``name``, for so many ``seconds``; ``note``: why. Of a rule: in that alone."""
    desk = visitor.authority.at(desk)
    visitor.authority.check_override(desk, name, limits, seconds, rule)
    done = overrides.override(desk, name, limits, seconds, note, rule, by=visitor.actor)
    if done.stranger is None:
        return done
    nearest = visitor.authority.reached(done.stranger.nearest)
    return done._replace(stranger=done.stranger._replace(nearest=nearest))


def block(desk: Desk, visitor: Visitor, name: str, seconds: int, note: str, rule: str | None = None) -> Overridden:
    """Let nothing of ``name`` pass for so many ``seconds``."""
    return allow(desk, visitor, name, BLOCK, seconds, note, rule)


def revoke(desk: Desk, visitor: Visitor, name: str, rule: str | None = None, note: str = "") -> dict[str, bool]:
    """End the overrides of ``name``: for each of its counters whether there was one. ``note``: why."""
    desk = visitor.authority.at(desk)
    visitor.authority.check_revoke(desk, name, rule)
    return overrides.revoke(desk, name, rule, by=visitor.actor, note=note)


def reset(desk: Desk, visitor: Visitor, name: str, rule: str | None = None, note: str = "") -> dict[str, int]:
    """Take back all that was counted for ``name``: how much, by counter. ``note``: why."""
    desk = visitor.authority.at(desk)
    visitor.authority.check_reset(desk, name, rule)
    return overrides.reset(desk, name, rule, by=visitor.actor, note=note)
