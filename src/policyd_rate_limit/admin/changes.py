"""Changes to what an id may send, and what they will do: for whatever asks before it makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

from policyd_rate_limit.admin.close_up import seen_of
from policyd_rate_limit.domain.limits import BLOCKED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.admin.watching import Watcher
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.storage.administration import Override

What = Literal["raise", "block", "free", "reset"]
WHAT: Final[tuple[What, ...]] = get_args(What)


class Change(NamedTuple):
    """``what`` is to be done to ``name``, in ``rule`` alone unless that is None.

    ``limits`` and ``seconds`` are those of "raise", ``seconds`` also that of "block". ``note``: why.
    """

    what: What
    name: str
    rule: str | None
    limits: Limits
    seconds: int
    note: str

    @property
    def new_limits(self) -> Limits:
        """Those that it puts in force."""
        return (BLOCKED,) if self.what == "block" else self.limits


class Effect(NamedTuple):
    """What a change does to the counter ``key``.

    ``before``, ``after``: the limits; ``override``: what is set now; ``until``: the Unix second until which the new
    ones hold; ``used``: what is counted as far back as limits look. ``shadow``: its rule refuses nothing.
    """

    key: str
    before: Limits
    after: Limits
    override: Override | None
    until: int
    used: int
    shadow: bool


class Shown(NamedTuple):
    """A change whose ``effects`` somebody was shown."""

    change: Change
    effects: tuple[Effect, ...]

    def still_holds(self, effects: Iterable[Effect]) -> bool:
        """Whether ``effects``, those of the change now, are the same but for what time alone changes."""
        return [_lasting(one) for one in self.effects] == [_lasting(one) for one in effects]


def _lasting(effect: Effect) -> Effect:
    return effect._replace(until=0, used=0)


def foreseen(desk: Desk, watcher: Watcher, change: Change) -> list[Effect]:
    """What ``change`` will do to each counter. Raises NotAnId."""
    overrides = desk.overrides()
    now = desk.store.now()
    from_table = {key: desk.from_table(key, change.name) for key in desk.keys(change.name, change.rule)}
    in_force = {key: desk.in_force(key, overrides.get(key), limits) for key, limits in from_table.items()}
    seen = seen_of(desk, watcher, in_force, now)
    found = []
    for key, one in in_force.items():
        if change.what in ("raise", "block"):
            after = change.new_limits
        elif change.what == "free":
            after = desk.in_force(key, None, from_table[key]).limits
        else:
            after = one.limits
        used = sum(amount for _, amount in seen[key].charges)
        found.append(Effect(key, one.limits, after, overrides.get(key), now + change.seconds, used, one.shadow))
    return found
