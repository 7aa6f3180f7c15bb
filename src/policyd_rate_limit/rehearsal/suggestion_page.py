"""The page of a suggestion: what people send, which limits spare them, and who does not look like them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import tzinfo
from pathlib import Path
from typing import Final, NamedTuple

from policyd_rate_limit.domain.limits import Limit, spell_limit, spell_period
from policyd_rate_limit.plots.axes import Mark
from policyd_rate_limit.plots.curve import Curve, Line
from policyd_rate_limit.plots.histogram import Histogram
from policyd_rate_limit.plots.numbers import counted, moment
from policyd_rate_limit.plots.shares import Bar, Shares
from policyd_rate_limit.rehearsal import rendering
from policyd_rate_limit.rehearsal.suggestion import SuggestedRule, Suggestion, Window
from policyd_rate_limit.system.logs import one_line

MOST_BARS: Final = 15
"""Of the outliers of one rule that are drawn."""

_TEMPLATE: Final = "suggestion.html"


class _Drawn(NamedTuple):
    """One window with its plots."""

    window: Window
    period: str
    histogram: Histogram
    curve: Curve


class _Shown(NamedTuple):
    """One rule as the template needs it."""

    rule: SuggestedRule
    limits: str
    windows: tuple[_Drawn, ...]
    outliers: Shares | None


def write_page(
    path: Path,
    suggestion: Suggestion,
    configuration: str,
    zone: tzinfo,
    now: float,
    log: Mapping[str, int],
    damaged: Mapping[str, str],
) -> None:
    """Write the page about ``suggestion``, which is the text ``configuration`` as a file, to ``path``.

    ``zone``: of its times; ``now``: Unix seconds; ``log``: figures of what was read, ``damaged``: files that were not
    read to the end, and why. Raises SystemRefusal where that cannot be, or something else than a file has that name.
    """
    values = _values(suggestion, configuration, zone, log, damaged)
    rendering.write(path, _TEMPLATE, zone, now, **values)


def make_page(
    suggestion: Suggestion,
    configuration: str,
    zone: tzinfo,
    now: float,
    log: Mapping[str, int],
    damaged: Mapping[str, str],
) -> str:
    """The page about ``suggestion``."""
    return rendering.render(_TEMPLATE, zone, now, **_values(suggestion, configuration, zone, log, damaged))


def _values(
    suggestion: Suggestion, configuration: str, zone: tzinfo, log: Mapping[str, int], damaged: Mapping[str, str]
) -> dict[str, object]:
    spare = f"{float(suggestion.spare):g}"
    return {
        "suggestion": suggestion,
        "headline": _headline(suggestion),
        "lead": _lead(suggestion, zone),
        "rules": tuple(_shown(rule, spare) for rule in suggestion.rules),
        "outliers": sum(len(rule.outliers) for rule in suggestion.rules),
        "spare": spare,
        "room": f"{float(suggestion.room):g}",
        "configuration": rendering.verbatim(configuration),
        "log": log,
        "damaged": damaged,
        "limits": _limits,
    }


def _headline(suggestion: Suggestion) -> str:
    if not suggestion.rules:
        return "There are no mails in this log to learn limits from."
    number = len(suggestion.suspects)
    if number:
        return f"{counted(number, 'account looks', 'accounts look')} stolen; nobody else is refused."
    return "These limits refuse nobody of this log."


def _lead(suggestion: Suggestion, zone: tzinfo) -> str:
    if suggestion.began is None or suggestion.ended is None:
        return ""
    return (
        f"Learned from {counted(suggestion.mails, 'mail')} to {counted(suggestion.recipients, 'recipient')}, from "
        f"{moment(suggestion.began, zone)} to {moment(suggestion.ended, zone)}."
    )


def _shown(rule: SuggestedRule, spare: str) -> _Shown:
    return _Shown(
        rule,
        ", ".join(spell_limit(window.limit) for window in rule.windows),
        tuple(_drawn(rule, spare)),
        _outliers(rule),
    )


def _drawn(rule: SuggestedRule, spare: str) -> Iterator[_Drawn]:
    nouns = rule.subject.nouns
    for window in reversed(rule.windows):
        period = spell_period(window.seconds)
        name = f"{rule.subject.name}-{period}"
        marks = [Mark(window.spared, f"{spare} % stay within", is_soft=True), Mark(window.maximum, "suggested")]
        marks = [mark for mark in marks if mark.value >= 1]
        yield _Drawn(
            window,
            period,
            Histogram(
                f"peaks-{name}",
                f"The most that {nouns} sent in {period}",
                window.bins,
                across=f"most recipients in any {period}",
                upwards=nouns,
                marks=marks,
            ),
            Curve(
                f"curve-{name}",
                f"What each maximum in {period} would refuse",
                [
                    Line(nouns, [(maximum, ids) for maximum, ids, _ in window.curve]),
                    Line("mails, at most", [(maximum, mails) for maximum, _, mails in window.curve]),
                ],
                across=f"maximum in {period}",
                upwards="refused",
                marks=marks[-1:],
            ),
        )


def _outliers(rule: SuggestedRule) -> Shares | None:
    """The outliers against what is suggested for all, each in the window in which it goes furthest beyond."""
    bars = []
    for outlier in rule.outliers[:MOST_BARS]:
        peak, window = max(zip(outlier.peaks, rule.windows, strict=True), key=lambda pair: pair[0] / pair[1].maximum)
        bars.append(Bar(one_line(outlier.name), peak, window.maximum, f"in {spell_period(window.seconds)}"))
    if not bars:
        return None
    title = f"{rule.subject.nouns.capitalize()} that go beyond what is suggested for all"
    return Shares(f"outliers-{rule.subject.name}", title, bars, whose="who", what="recipients")


def _limits(limits: Sequence[Limit]) -> str:
    return ", ".join(map(spell_limit, limits))
