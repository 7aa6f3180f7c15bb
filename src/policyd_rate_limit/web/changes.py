"""What visitors change, each checked and entered into the audit trail under their name: for pages and API alike.

Each is to be asked of :class:`.desks.Desks`, and raises NotAnId, Forbidden, ChangedMeanwhile and StoreError.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeVar

from policyd_rate_limit.admin import overrides
from policyd_rate_limit.domain.limits import Limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.admin.overrides import Overridden
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.storage.administration import Override
    from policyd_rate_limit.web.visitors import Visitor

BLOCK: Limits = (Limit(0, 1),)
"""The limits of whom nothing passes."""

TRIES = 4
"""So often a change is checked and made while others change the same id."""

T = TypeVar("T")


def allow(
    desk: Desk,
    visitor: Visitor,
    name: str,
    limits: Limits,
    seconds: int,
    note: str,
    rule: str | None = None,
    *,
    shown: Mapping[str, Override] | None = None,
) -> Overridden:
    """Put ``limits`` in force for ``name``, for so many ``seconds``; ``note``: why. Of a rule: in that alone.

    ``shown``: in place of these overrides, by key, as somebody was shown; here and below. None: of whatever there is.
    """
    desk = visitor.authority.at(desk)

    def change() -> Overridden:
        seen = visitor.authority.check_override(desk, name, limits, seconds, rule)
        seen = _as_shown(seen, shown, desk.keys(name, rule))
        return overrides.override(desk, name, limits, seconds, note, rule, by=visitor.actor, seen=seen)

    done = _again(change) if shown is None else change()
    if done.stranger is None:
        return done
    nearest = visitor.authority.reached(done.stranger.nearest)
    return done._replace(stranger=done.stranger._replace(nearest=nearest))


def block(
    desk: Desk,
    visitor: Visitor,
    name: str,
    seconds: int,
    note: str,
    rule: str | None = None,
    *,
    shown: Mapping[str, Override] | None = None,
) -> Overridden:
    """Let nothing of ``name`` pass for so many ``seconds``."""
    return allow(desk, visitor, name, BLOCK, seconds, note, rule, shown=shown)


def revoke(
    desk: Desk,
    visitor: Visitor,
    name: str,
    rule: str | None = None,
    note: str = "",
    *,
    shown: Mapping[str, Override] | None = None,
) -> dict[str, bool]:
    """End the overrides of ``name``: for each of its counters whether there was one. ``note``: why."""
    desk = visitor.authority.at(desk)

    def change() -> dict[str, bool]:
        seen = visitor.authority.check_revoke(desk, name, rule)
        seen = _as_shown(seen, shown, desk.keys(name, rule))
        return overrides.revoke(desk, name, rule, by=visitor.actor, note=note, seen=seen)

    return _again(change) if shown is None else change()


def reset(desk: Desk, visitor: Visitor, name: str, rule: str | None = None, note: str = "") -> dict[str, int]:
    """Take back all that was counted for ``name``: how much, by counter. ``note``: why."""
    desk = visitor.authority.at(desk)
    visitor.authority.check_reset(desk, name, rule)
    return overrides.reset(desk, name, rule, by=visitor.actor, note=note)


def _as_shown(
    checked: Mapping[str, Override] | None, shown: Mapping[str, Override] | None, keys: Iterable[str]
) -> Mapping[str, Override] | None:
    """What has to be in force for a change: what it was ``checked`` by, which has to be what was ``shown``."""
    if shown is None or checked is None:
        return shown if checked is None else checked
    for key in keys:
        if checked.get(key) != shown.get(key):
            raise overrides.ChangedMeanwhile(f"what is set for {key} is no longer what was shown")
    return checked


def _again(change: Callable[[], T]) -> T:
    """What ``change`` returns, which is checked and made anew as long as others are faster. Raises ChangedMeanwhile."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(overrides.ChangedMeanwhile):
            return change()
    return change()
