"""Compares what a rehearsal refuses with what the daemons' rules in shadow would have refused, by rule and by id.

Both count requests: what is let pass in shadow at RCPT is asked about once more at DATA, and counts once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from policyd_rate_limit.domain.counter import prefix_and_key
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.rehearsal.result import ComparedRule, Counts, DifferingId, IdResult, ShadowComparison

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from policyd_rate_limit.rehearsal.ids import Ids, IdState
    from policyd_rate_limit.rehearsal.shadow_figures import ShadowFigures, ToldId, ToldRule


APART_SECONDS: Final = 3.0
"""So far the clocks may be apart, and what the log says of a mail and when the daemon was asked about it."""


class Compared(NamedTuple):
    """``comparison``, and by rule whom the rehearsal refuses and shadow would not have, ``newly``, and the reverse."""

    comparison: ShadowComparison
    newly: dict[str, list[IdState]]
    no_longer: dict[str, list[IdResult]]


def compare(
    figures: ShadowFigures,
    rules: Mapping[str, Ids],
    began: float | None,
    ended: float | None,
    tell: Callable[[str], None],
) -> Compared:
    """``rules``: what the rehearsal did with each id, of a log from ``began`` to ``ended`` (None: it has no mails).

    What is not compared is said with ``tell``, in a sentence without a full stop.
    """
    comparison = ShadowComparison(figures.file, figures.since, figures.until, None, None, ())
    found = Compared(comparison, {}, {})
    if began is None or ended is None or began > figures.until or ended < figures.since:
        return found
    period = max(began, figures.since), min(ended, figures.until)
    compared = []
    for name, told in figures.rules.items():
        if name in rules:
            compared.append(_compare(name, told, rules[name], period, found))
        else:
            tell(f"{figures.file} tells of a rule {name}, which there is not here: it is not compared")
    for rule in compared:
        if rule.unnamed:
            tell(
                f"{figures.file} does not name all ids of {rule.name}, and {quantity(rule.unnamed, 'id')} refused by it"
                " here may be among the others: `policyd-rate-limit shadow --json -n 10000` names more"
            )
    return found._replace(comparison=comparison._replace(began=period[0], ended=period[1], rules=tuple(compared)))


def _compare(name: str, told: ToldRule, ids: Ids, period: tuple[float, float], found: Compared) -> ComparedRule:
    """One rule; who is refused on one side alone is added to ``found``."""
    here = {prefix_and_key(one.counter)[1]: one for one in ids.states.values() if one.compared_requests}
    rehearsed = sum(one.compared_requests for one in here.values())
    differing: list[DifferingId] = []
    no_longer: list[IdResult] = []
    outside = 0
    for key, one in told.ids.items():
        state = here.pop(key, None)
        first, last = _is_within(one.first, period), _is_within(one.last, period)
        if not (first or last) or (state is None and _is_at_edge(one.first, one.last, period)):
            outside += 1
            continue
        if state is None and not ids.dropped:  # where some had to be forgotten, nobody knows of this one
            no_longer.append(_result(name, one))
        if first and last and (state is None or state.compared_requests != one.refused):
            differing.append(DifferingId(key, one.refused, 0 if state is None else state.compared_requests))
    of_figures = found.comparison.since, found.comparison.until
    unknown = [key for key, one in here.items() if _is_at_edge(one.compared_from, one.compared_to, of_figures)]
    for key in unknown:
        del here[key]
        outside += 1
    if no_longer:
        found.no_longer[name] = no_longer
    if here and told.is_whole:
        found.newly[name] = list(here.values())
        differing += [DifferingId(key, 0, state.compared_requests) for key, state in here.items()]
    differing.sort(key=lambda one: (-abs(one.told - one.rehearsed), one.key))
    return ComparedRule(name, told.refused, rehearsed, tuple(differing), 0 if told.is_whole else len(here), outside)


def _is_at_edge(first: float, last: float, period: tuple[float, float]) -> bool:
    """Whether all of it may as well be before the time that is compared, or after."""
    return last < period[0] + APART_SECONDS or first > period[1] - APART_SECONDS


def _is_within(second: int, period: tuple[float, float]) -> bool:
    return period[0] - APART_SECONDS <= second <= period[1] + APART_SECONDS


def _result(name: str, one: ToldId) -> IdResult:
    return IdResult(name, one.key, Counts(refused=one.refused), one.first, one.last, one.limit)
