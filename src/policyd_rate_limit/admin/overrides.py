"""Other limits for an id, which end by themselves; and taking back what was counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.admin.desk import NotAnId
from policyd_rate_limit.admin.strangers import Stranger, stranger
from policyd_rate_limit.domain.identity import looks_like_a_pattern
from policyd_rate_limit.storage.administration import Override

if TYPE_CHECKING:
    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.domain.limits import Limits

LONGEST_SECONDS = 10 * 366 * 86_400  # what is meant for ever belongs into the configuration


class Overridden(NamedTuple):
    """The ``overrides`` that are in force from ``now`` (Unix second) on; ``stranger``: the id may be misspelt."""

    now: int
    overrides: list[Override]
    stranger: Stranger | None


def override(desk: Desk, name: str, limits: Limits, seconds: int, note: str) -> Overridden:
    """Put ``limits`` in force for ``name``, for so many ``seconds``; ``note``: why.

    Raises NotAnId, and StoreFull when there are too many overrides already.
    """
    _refuse_patterns(name)
    keys = desk.keys(name)
    before = desk.overrides()
    now = desk.store.now()
    overrides = [Override(key, limits, now + seconds, note) for key in keys]
    for one in overrides:
        desk.store.set_override(one)
    return Overridden(now, overrides, stranger(desk, name, before))  # not earlier: whoever blocks is in a hurry


def revoke(desk: Desk, name: str) -> dict[str, bool]:
    """End the overrides of ``name``: for each of its keys whether there was one. Raises NotAnId."""
    return {key: desk.store.remove_override(key) for key in desk.keys(name)}


def reset(desk: Desk, name: str) -> dict[str, int]:
    """Take back all that was counted for ``name``, in every daemon: how many mails, by key. Raises NotAnId."""
    return {key: desk.store.reset(key) for key in desk.keys(name)}


def _refuse_patterns(name: str) -> None:
    """Raise NotAnId for what looks like many users at once: it would be in force for nobody."""
    if looks_like_a_pattern(name) and not name.startswith(("user:", "sender:", "client:")):
        raise NotAnId(
            f"{name} looks like a domain or a pattern, and an id is one user, sender or client;"
            f" user:{name} is the user of exactly that name"
        )
