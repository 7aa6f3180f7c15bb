"""Other limits for an id, which end by themselves; and taking back what was counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.admin.desk import NotAnId
from policyd_rate_limit.admin.strangers import Stranger, stranger
from policyd_rate_limit.domain.counter import kind_of
from policyd_rate_limit.domain.ids import looks_like_a_pattern
from policyd_rate_limit.domain.rules.keys import DOMAIN_KINDS
from policyd_rate_limit.errors import PolicydError
from policyd_rate_limit.storage.administration import Override

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.storage.administration import Actor


class Overridden(NamedTuple):
    """The ``overrides`` that are in force from ``now`` (Unix second) on; ``stranger``: the id may be misspelt."""

    now: int
    overrides: list[Override]
    stranger: Stranger | None


class ChangedMeanwhile(PolicydError):
    """Somebody else has set, or ended, an override of the same id since it was looked at."""


def override(
    desk: Desk,
    name: str,
    limits: Limits,
    seconds: int,
    note: str,
    rule: str | None = None,
    *,
    by: Actor,
    seen: Mapping[str, Override] | None = None,
) -> Overridden:
    """Put ``limits`` in force for ``name``, for so many ``seconds``; ``note``: why. ``rule``: in that rule alone.

    ``by`` asks for it, here and below; the audit trail keeps that. ``seen``: the overrides in force, by key, as they
    were when it was found to be right; None: it is right whatever is in force.

    Raises NotAnId, ChangedMeanwhile where others than those ``seen`` are in force by now, and StoreFull when there are
    too many already. Some counters of ``name`` may have been changed by then.
    """
    keys = desk.keys(name, rule)
    _refuse_patterns(name, keys)
    before = desk.overrides()
    now = desk.store.now()
    overrides = [Override(key, limits, now + seconds, note) for key in keys]
    for one in overrides:
        if seen is None:
            desk.store.set_override(one, by)
        elif not desk.store.replace_override(one, seen.get(one.key), by):
            raise _changed(one.key)
    return Overridden(now, overrides, stranger(desk, name, before, rule))  # not earlier: whoever blocks is in a hurry


def revoke(
    desk: Desk,
    name: str,
    rule: str | None = None,
    *,
    by: Actor,
    note: str = "",
    seen: Mapping[str, Override] | None = None,
) -> dict[str, bool]:
    """End the overrides of ``name``: for each of its counters whether there was one.

    ``seen``: end these alone. Raises NotAnId and ChangedMeanwhile, as :func:`override`.
    """
    keys = desk.keys(name, rule)
    if seen is None:
        return {key: desk.store.remove_override(key, by, note) for key in keys}
    for key in keys:
        if key in seen and not desk.store.end_override(seen[key], by, note):
            raise _changed(key)
    return {key: key in seen for key in keys}


def _changed(key: str) -> ChangedMeanwhile:
    return ChangedMeanwhile(f"somebody else has changed what is set for {key} at the same time; look at it again")


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
