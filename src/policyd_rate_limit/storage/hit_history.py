"""The hit history as every store keeps it: rows of an hour are added up, and some go to the others of their rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.counter import prefix_and_key
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.storage.administration import HISTORY_DAYS, HOUR, OTHERS, HourOfHits

if TYPE_CHECKING:
    from collections.abc import Iterable

OF_OTHERS: Final = Limit(0, 0)
"""The limit of their rows: they have run into different ones."""

_HourAndWhose = tuple[int, str, Limit, str]


def hour_of(date: float) -> int:
    """The Unix second in which the hour of ``date`` (Unix seconds) began. Of UTC: no hour is missing or comes twice."""
    return int(date) // HOUR * HOUR


def oldest_hour(now: int) -> int:
    """The oldest hour that is kept at ``now`` (Unix second)."""
    return hour_of(now) - HISTORY_DAYS * 24 * HOUR


def place_of(row: HourOfHits) -> _HourAndWhose:
    """What tells ``row`` from all others: there is one row of it."""
    return row.hour, row.key, row.limit, row.kind


def is_of_others(row: HourOfHits) -> bool:
    """Whether ``row`` is that of all for whom there is no room."""
    return row.limit == OF_OTHERS


def to_others(row: HourOfHits) -> HourOfHits:
    """``row`` as one of those of its rule for whom there is no room."""
    return row._replace(key=f"{prefix_and_key(row.key)[0]}{OTHERS}:", limit=OF_OTHERS)


def added_up(rows: Iterable[HourOfHits]) -> list[HourOfHits]:
    """``rows`` with those of one place made one; the details are those of the latest."""
    found: dict[_HourAndWhose, HourOfHits] = {}
    for row in rows:
        place = place_of(row)
        known = found.get(place)
        found[place] = row if known is None else _sum(known, row)
    return list(found.values())


def _sum(one: HourOfHits, other: HourOfHits) -> HourOfHits:
    latest = other if other.last >= one.last else one
    return latest._replace(hits=one.hits + other.hits, first=min(one.first, other.first))
