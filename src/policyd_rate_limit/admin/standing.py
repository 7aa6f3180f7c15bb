"""How an id stands: its limits, what is used up of them, when it is free again."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.admin.desk import credible
from policyd_rate_limit.domain.charge import Demand
from policyd_rate_limit.domain.ledger import one_more
from policyd_rate_limit.domain.limits import longest_of

if TYPE_CHECKING:
    from policyd_rate_limit.admin.desk import Desk, InForce
    from policyd_rate_limit.domain.charge import Usage
    from policyd_rate_limit.domain.ledger import Ledger
    from policyd_rate_limit.domain.limits import Limit, Limits
    from policyd_rate_limit.storage.administration import Hits


class Standing(NamedTuple):
    """How a key stands. ``usages``: of each of its limits, for a mail to one recipient more."""

    key: str
    in_force: InForce
    usages: tuple[Usage, ...]
    hits: tuple[Hits, ...]


def share(used: int, limit: Limit) -> float:
    """How much of ``limit`` is used up; 1 is all. One that lets nothing pass always is."""
    return used / limit.maximum if limit.maximum else 1.0


def standings(desk: Desk, name: str, rule: str | None = None) -> list[Standing]:
    """How each of the counters stands that ``name`` stands for, and each that it shares with others.

    ``rule``: in that rule alone. Raises NotAnId when it stands for none.
    """
    keys = tuple(dict.fromkeys((*desk.keys(name, rule), *(desk.shared(name) if rule is None else ()))))
    overrides = desk.overrides()
    all_hits = desk.store.hits()
    in_force = {key: desk.in_force(key, overrides.get(key), desk.from_table(key, name)) for key in keys}
    now = desk.store.now()
    ledger = desk.ledger(now)
    longest = max((longest_of(one.limits) for one in in_force.values()), default=0) or 1
    for entry in credible(desk.store.entries(keys, max(0, now - longest)), now):
        ledger.apply(entry)
    return [
        Standing(key, one, _usages(ledger, key, one.limits), tuple(hits for hits in all_hits if hits.key == key))
        for key, one in in_force.items()
    ]


def _usages(ledger: Ledger, key: str, limits: Limits) -> tuple[Usage, ...]:
    return ledger.explain(Demand((one_more(key, limits),)))
