"""What the rules in shadow would have refused, and to whom: by the daemons' own counts, of all on the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from policyd_rate_limit.domain.counter import rule_and_key
from policyd_rate_limit.domain.decision import WOULD_BLOCK, WOULD_REFUSE
from policyd_rate_limit.storage.hit_history import OF_OTHERS, hour_of

if TYPE_CHECKING:
    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.domain.limits import Limit

IN_SHADOW: Final = "in shadow"
IN_FORCE: Final = "in force"
GONE: Final = "gone"


class Spared(NamedTuple):
    """``limit`` of ``key`` would have refused so many requests, from ``first`` to ``last`` (Unix seconds).

    And so many times it would have ``blocked`` the id.
    """

    key: str
    limit: Limit
    refused: int
    first: int
    last: int
    blocked: int


class ShadowRule(NamedTuple):
    """``refused``: how many requests the rule would have refused in all, ``blocked``: how often ids have been blocked.

    ``state``: it is in shadow, in force by now, or gone. ``ids``: those of the most refusals first. ``others``: how
    many of ``refused`` are of ids for whom there was no room in the hit history.
    """

    name: str
    state: str
    refused: int
    blocked: int
    ids: list[Spared]
    others: int


class Shadow(NamedTuple):
    """What was spared from the hour that began at ``since`` until ``now`` (Unix seconds)."""

    since: int
    now: int
    rules: list[ShadowRule]


def shadow(desk: Desk, seconds: int) -> Shadow:
    """Of the last so many ``seconds``, and of the whole hour in which these begin: the history is kept by hour.

    All rules in shadow, whether they would have refused anything or not, and others that would have while they were.
    """
    now = desk.store.now()
    since = hour_of(max(0, now - seconds))
    names = {name: rule.shadow for name, rule in desk.rules.items()}
    found: dict[str, dict[tuple[str, Limit], Spared]] = {name: {} for name, is_shy in names.items() if is_shy}
    for row in desk.store.hit_history(since, kinds=(WOULD_REFUSE, WOULD_BLOCK)):
        spared = found.setdefault(rule_and_key(row.key)[0], {})
        known = spared.get((row.key, row.limit), Spared(row.key, row.limit, 0, row.first, row.last, 0))
        refused = row.hits if row.kind == WOULD_REFUSE else 0
        spared[row.key, row.limit] = known._replace(
            refused=known.refused + refused,
            first=min(known.first, row.first),
            last=max(known.last, row.last),
            blocked=known.blocked + row.hits - refused,
        )
    return Shadow(since, now, [_rule(name, names.get(name), list(spared.values())) for name, spared in found.items()])


def _rule(name: str, is_shy: bool | None, spared: list[Spared]) -> ShadowRule:
    state = GONE if is_shy is None else IN_SHADOW if is_shy else IN_FORCE
    others = sum(one.refused for one in spared if one.limit == OF_OTHERS)
    ids = sorted((one for one in spared if one.limit != OF_OTHERS), key=lambda one: (-one.refused, one.key, one.limit))
    return ShadowRule(name, state, sum(one.refused for one in spared), sum(one.blocked for one in spared), ids, others)
