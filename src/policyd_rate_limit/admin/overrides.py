"""Other limits for an id, which end by themselves; and taking back what was counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.admin.desk import NotAnId
from policyd_rate_limit.admin.strangers import Stranger, stranger
from policyd_rate_limit.domain.counter import kind_of
from policyd_rate_limit.domain.identity import looks_like_a_pattern
from policyd_rate_limit.domain.rules.keys import DOMAIN_KINDS
from policyd_rate_limit.storage.administration import Override

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.storage.administration import Actor


class Overridden(NamedTuple):
    """The ``overrides`` that are in force from ``now`` (Unix second) on; ``stranger``: the id may be misspelt."""

    now: int
    overrides: list[Override]
    stranger: Stranger | None


def override(
    desk: Desk, name: str, limits: Limits, seconds: int, note: str, rule: str | None = None, *, by: Actor
) -> Overridden:
    """Put ``limits`` in force for ``name``, for so many ``seconds``; ``note``: why. ``rule``: in that rule alone.

    ``by`` asks for it, here and below; the audit trail keeps that.

    Raises NotAnId, and StoreFull when there are too many overrides already.
    """
    keys = desk.keys(name, rule)
    _refuse_patterns(name, keys)
    before = desk.overrides()
    now = desk.store.now()
    overrides = [Override(key, limits, now + seconds, note) for key in keys]
    for one in overrides:
        desk.store.set_override(one, by)
    return Overridden(now, overrides, stranger(desk, name, before))  # not earlier: whoever blocks is in a hurry


def revoke(desk: Desk, name: str, rule: str | None = None, *, by: Actor, note: str = "") -> dict[str, bool]:
    """End the overrides of ``name``: for each of its counters whether there was one. Raises NotAnId."""
    return {key: desk.store.remove_override(key, by, note) for key in desk.keys(name, rule)}


def reset(desk: Desk, name: str, rule: str | None = None, *, by: Actor, note: str = "") -> dict[str, int]:
    """Take back all that was counted for ``name``, in every daemon: how much, by counter. Raises NotAnId."""
    return {key: desk.store.reset(key, by, note) for key in desk.keys(name, rule)}


def _refuse_patterns(name: str, keys: Sequence[str]) -> None:
    """Raise NotAnId for what looks like many users at once: it would be in force for nobody."""
    if any(kind_of(key) in DOMAIN_KINDS for key in keys):
        return
    if looks_like_a_pattern(name) and not name.startswith(("user:", "sender:", "client:")):
        raise NotAnId(
            f"{name} looks like a domain or a pattern, and an id is one user, sender or client;"
            f" user:{name} is the user of exactly that name"
        )
