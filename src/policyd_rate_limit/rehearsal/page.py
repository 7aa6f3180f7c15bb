"""The page of a rehearsal: what limits would have done, for whoever decides about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import tzinfo
from pathlib import Path
from typing import Final, NamedTuple

from policyd_rate_limit.domain.limits import Limit, shown_limit, spell_period
from policyd_rate_limit.plots.numbers import counted, grouped, moment, share
from policyd_rate_limit.plots.over_time import Look, OverTime, Panel, Series
from policyd_rate_limit.plots.shares import Bar, Shares
from policyd_rate_limit.rehearsal import rendering
from policyd_rate_limit.rehearsal.result import IdResult, Peak, Rehearsal, RuleResult, Side, why_incomparable
from policyd_rate_limit.system.logs import one_line

MOST_BARS: Final = 15
"""Of the ids of one rule that are drawn."""

MOST_LISTED: Final = 200
"""Of the ids of one rule that the page lists: the JSON has all of them."""

_TEMPLATE: Final = "rehearsal.html"


class _Listed(NamedTuple):
    """Ids of one rule, and how many more there are."""

    rule: str
    ids: Sequence[IdResult]
    rest: int


class _Hit(NamedTuple):
    rule: RuleResult
    ids: Sequence[IdResult]
    rest: int


class _Page(NamedTuple):
    """What the template needs beside the result."""

    headline: str
    is_bad: bool
    lead: Sequence[str]
    before: str
    newly_hit: Sequence[_Listed]
    no_longer_hit: Sequence[_Listed]
    over_time: OverTime
    sides: Sequence[tuple[Side, str]]
    hit: Sequence[_Hit]
    heaviest: Sequence[tuple[RuleResult, Shares]]
    why_incomparable: str
    cannot: Sequence[tuple[str, str]]


def write_page(path: Path, result: Rehearsal, zone: tzinfo, now: float) -> None:
    """Write the page about ``result`` to ``path``, with times of ``zone``; ``now``: Unix seconds.

    Raises SystemRefusal where that cannot be, or something else than a file has that name.
    """
    rendering.write(path, _TEMPLATE, zone, now, **_values(result, zone))


def make_page(result: Rehearsal, zone: tzinfo, now: float) -> str:
    """The page about ``result``."""
    return rendering.render(_TEMPLATE, zone, now, **_values(result, zone))


def _values(result: Rehearsal, zone: tzinfo) -> dict[str, object]:
    before = "by the limits before" if result.old else "in the past"
    page = _Page(
        headline=_headline(result),
        is_bad=bool(result.newly_hit),
        lead=tuple(_lead(result, zone)),
        before=before,
        newly_hit=_listed(result.newly_hit),
        no_longer_hit=_listed(result.no_longer_hit),
        over_time=_over_time(result, zone),
        sides=tuple(_sides(result)),
        hit=tuple(_hit(result.new.rules)),
        heaviest=tuple(_heaviest(result.new.rules)),
        why_incomparable=why_incomparable(result),
        cannot=tuple((rule.name, why) for rule in result.new.rules for why in rule.cannot),
    )
    return {"result": result, "page": page, "limit": _limit, "wait": _wait}


def _headline(result: Rehearsal) -> str:
    hit = len({one.key for ids in result.newly_hit.values() for one in ids})
    if not result.mails:
        return "There are no mails in this log to rehearse."
    if hit:
        return f"{counted(hit, 'sender')} would be refused who {'was' if hit == 1 else 'were'} not before."
    return "Nobody would be refused who was not before."


def _lead(result: Rehearsal, zone: tzinfo) -> Iterator[str]:
    if result.began is not None and result.ended is not None:
        newly, no_longer = result.newly_refused, result.no_longer_refused
        mails = f"{'was' if result.mails == 1 else 'were'} {counted(result.mails, 'mail')}"
        yield (
            f"From {moment(result.began, zone)} to {moment(result.ended, zone)} there {mails} that Postfix asks about; "
            f"{grouped(newly)} of them, {share(newly, result.mails)}, would be newly refused, and "
            f"{grouped(no_longer)} would no longer be."
        )
    file = result.new.file or "the defaults"
    yield f"The limits are those of {file}, compared with {_against(result, zone)}."


def _against(result: Rehearsal, zone: tzinfo) -> str:
    shadow = result.shadow
    if shadow is None:
        return f"the limits of {result.old.file or 'the defaults'}" if result.old else "what really happened"
    return (
        f"what rules in shadow would have refused from {moment(shadow.since, zone)} to {moment(shadow.until, zone)}, as"
        f" {shadow.file} tells"
    )


def _over_time(result: Rehearsal, zone: tzinfo) -> OverTime:
    series = result.series
    refused = Series("new", series.refused, Look.HATCHED)
    before = Series("before", series.refused_before, Look.DASHED)
    panels = [Panel("mails", (Series("mails", series.mails),)), Panel("refused", (refused, before))]
    return OverTime(
        "over-time-plot", "Mails and refusals over time", panels, begin=series.begin, step=series.seconds, zone=zone
    )


def _sides(result: Rehearsal) -> Iterator[tuple[Side, str]]:
    yield result.new, f"By the limits of {result.new.file or 'the defaults'}"
    if result.old:
        yield result.old, f"Before, by the limits of {result.old.file or 'the defaults'}"


def _listed(by_rule: Mapping[str, Sequence[IdResult]]) -> tuple[_Listed, ...]:
    return tuple(
        _Listed(rule, ids[:MOST_LISTED], max(0, len(ids) - MOST_LISTED)) for rule, ids in by_rule.items() if ids
    )


def _hit(rules: Sequence[RuleResult]) -> Iterator[_Hit]:
    for rule in rules:
        if rule.ids:
            listed = rule.ids[:MOST_LISTED]
            yield _Hit(rule, listed, len(rule.ids) + rule.other_ids - len(listed))


def _heaviest(rules: Sequence[RuleResult]) -> Iterator[tuple[RuleResult, Shares]]:
    for number, rule in enumerate(rules):
        bars = [
            Bar(one_line(one.id), peak.used, peak.limit.maximum, _span(peak.limit))
            for one in rule.heaviest[:MOST_BARS]
            for peak in _largest(one.peaks)
        ]
        if bars:
            title = f"The heaviest ids of {rule.name} against their limits"
            yield rule, Shares(f"heaviest-{number}", title, bars, whose="who", what=rule.unit)


def _largest(peaks: Sequence[Peak]) -> Sequence[Peak]:
    """That of ``peaks`` which is the largest share of its limit."""
    return [max(peaks, key=lambda peak: peak.share)] if peaks else []


def _span(limit: Limit) -> str:
    return "for one mail" if limit.is_per_mail else f"in {spell_period(limit.seconds)}"


def _limit(limit: Limit | None) -> str:
    return "–" if limit is None else shown_limit(limit)


def _wait(one: IdResult) -> str:
    if one.since is None or not one.counts.mails:  # of whom shadow tells alone, that is not known
        return "–"
    return "for ever" if one.longest_wait is None else _duration(one.longest_wait)


def _duration(seconds: int) -> str:
    """``seconds`` in its two largest units."""
    parts = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        number, seconds = divmod(seconds, length)
        if number:
            parts.append(f"{number} {unit}")
        elif parts:
            break
    return " ".join(parts[:2]) or "0 s"
