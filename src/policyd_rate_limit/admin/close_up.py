"""One id from close up: how it stands, what it sent, what ran into limits, and who changed what about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from policyd_rate_limit.admin.desk import credible
from policyd_rate_limit.admin.picture import Seen
from policyd_rate_limit.domain.charge import Demand
from policyd_rate_limit.domain.ledger import one_more
from policyd_rate_limit.domain.limits import longest_of
from policyd_rate_limit.storage.administration import HISTORY_DAYS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from policyd_rate_limit.admin.desk import Desk, InForce
    from policyd_rate_limit.admin.watching import Watcher
    from policyd_rate_limit.domain.charge import Usage
    from policyd_rate_limit.storage.administration import AuditEntry, HourOfHits

DAY: Final = 86_400

MOST_HITS: Final = 1_000
"""The most hours of hits that are told of one id, the latest."""

MOST_CHANGES: Final = 50
"""The most changes that are told of one id, the latest."""


class Counted(NamedTuple):
    """How one counter stands. ``charges``: (Unix second, amount) as far back as is known, oldest first.

    ``is_shared``: others are charged there as well. ``set_by``: who has put its override in force, where that is known.
    """

    key: str
    in_force: InForce
    usages: tuple[Usage, ...]
    charges: Sequence[tuple[int, int]]
    is_shared: bool
    set_by: AuditEntry | None


class CloseUp(NamedTuple):
    """All about an id, as of ``now`` (Unix second). ``hits``: oldest first; ``changes``: latest first.

    ``is_known``: something is on record of it, or an override of its own is in force.
    """

    name: str
    now: int
    counted: tuple[Counted, ...]
    hits: tuple[HourOfHits, ...]
    changes: tuple[AuditEntry, ...]

    @property
    def own(self) -> tuple[Counted, ...]:
        """The counters that are of this id alone."""
        return tuple(one for one in self.counted if not one.is_shared)

    @property
    def is_known(self) -> bool:
        """Whether anything is on record of it."""
        return bool(self.hits or self.changes or any(one.charges or one.in_force.override for one in self.own))


def close_up(desk: Desk, watcher: Watcher, name: str, is_seen: Callable[[str], bool]) -> CloseUp:
    """All about ``name``, of the counters of which ``is_seen`` says so. Raises NotAnId when it stands for none."""
    own = [key for key in desk.keys(name) if is_seen(key)]
    shared = [key for key in desk.shared(name) if is_seen(key) and key not in own]
    overrides = desk.overrides()
    in_force = {key: desk.in_force(key, overrides.get(key), desk.from_table(key, name)) for key in (*own, *shared)}
    now = desk.store.now()
    seen = seen_of(desk, watcher, in_force, now)
    setters = latest_setters(desk, [key for key in in_force if key in overrides])
    return CloseUp(
        name,
        now,
        tuple(Counted(key, one, *seen[key], key in shared, setters.get(key)) for key, one in in_force.items()),
        tuple(desk.store.hit_history(now - HISTORY_DAYS * DAY, keys=own))[-MOST_HITS:] if own else (),
        tuple(desk.store.audit(most=MOST_CHANGES, subjects=own)) if own else (),
    )


def latest_setters(desk: Desk, keys: Collection[str]) -> dict[str, AuditEntry]:
    """Who has put the overrides of ``keys`` in force, as far as the audit trail says."""
    found: dict[str, AuditEntry] = {}
    if keys:
        for entry in desk.store.audit(most=5 * len(keys), subjects=keys):
            if entry.action in ("allow", "block"):
                found.setdefault(entry.subject, entry)
    return found


def seen_of(desk: Desk, watcher: Watcher, in_force: Mapping[str, InForce], now: int) -> dict[str, Seen]:
    """How each counter stands, from memory, or else from the store: ``in_force`` are their limits."""
    seen = {key: watcher.seen(key, one.limits) for key, one in in_force.items()}
    known = {key: one for key, one in seen.items() if one is not None}
    if len(known) == len(seen):
        return known
    ledger = desk.ledger(now)
    longest = max((longest_of(one.limits) for one in in_force.values()), default=0)
    for entry in credible(desk.store.entries(in_force.keys(), max(0, now - max(longest, DAY))), now):
        ledger.apply(entry)
    return {
        key: Seen(ledger.explain(Demand((one_more(key, one.limits),))), ledger.charges_of(key))
        for key, one in in_force.items()
    }
