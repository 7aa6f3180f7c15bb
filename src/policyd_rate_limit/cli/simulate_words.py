"""What ``simulate`` writes for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from policyd_rate_limit.cli.layout import Cell, Column, Table
from policyd_rate_limit.cli.output import dated, duration
from policyd_rate_limit.domain.limits import spell_limit
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.rehearsal.result import why_incomparable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from policyd_rate_limit.cli.output import Page
    from policyd_rate_limit.rehearsal.result import IdResult, Rehearsal, RuleResult, ShadowComparison

MOST_SHOWN: Final = 20
"""The most ids of one rule that people are shown; JSON has more."""

_RULES: Final = (
    Column("RULE"),
    Column("MAILS", True),
    Column("REFUSED", True),
    Column("RECIPIENTS", True),
    Column("HELD", True),
    Column("MARKED", True, spare=True),
    Column("WARNED", True),
    Column("IDS", True),
)
_COMPARED: Final = (Column("RULE"), Column("SHADOW", True), Column("HERE", True), Column("IDS THAT DIFFER", True))
_DIFFERING: Final = (Column("ID", name=True), Column("SHADOW", True), Column("HERE", True))
_IDS: Final = (
    Column("ID", name=True),
    Column("MAILS", True),
    Column("REFUSED", True),
    Column("RECIPIENTS", True, spare=True),
    Column("SINCE"),
    Column("LIMIT"),
    Column("LONGEST WAIT", True),
    Column("FREE"),
)


def page_of(result: Rehearsal, why_alone: str) -> Page:
    """``result``; ``why_alone``: why there is no other configuration, where there is none."""
    return [*_summary(result, why_alone), *_by_rule(result), *_changes(result), *_unknown(result), *_of_log(result)]


def _summary(result: Rehearsal, why_alone: str) -> Iterator[Cell]:
    if result.began is None or result.ended is None:
        yield Cell("the log tells of no mail about which Postfix asks a policy server", "bold")
        return
    recipients = quantity(result.recipients, "recipient")
    yield Cell(
        f"{quantity(result.mails, 'mail')} to {recipients}, from {dated(int(result.began))} to"
        f" {dated(int(result.ended))}; Postfix is taken to ask at {', '.join(result.stages)}, {result.stages_from}"
    )
    new, old = result.new, result.old
    yield Cell(
        f"{new.file or 'the defaults'} refuses {quantity(new.refused, 'mail')}"
        f" ({quantity(new.refused_recipients, 'recipient')})",
        "bold",
    )
    if result.shadow is not None:
        yield Cell(
            f"compared with what rules in shadow would have refused, as {result.shadow.file} tells, from"
            f" {dated(result.shadow.since)} to {dated(result.shadow.until)}"
        )
        yield Cell(f"in the past rate limits refused {quantity(result.refused_before, 'mail')}")
    elif old is None:
        yield Cell(f"compared with what was refused in the past, since {why_alone}")
        yield Cell(f"in the past rate limits refused {quantity(result.refused_before, 'mail')}")
    else:
        yield Cell(
            f"{old.file or 'the defaults'} refuses {quantity(old.refused, 'mail')}"
            f" ({quantity(old.refused_recipients, 'recipient')})"
        )
    yield Cell(
        f"{quantity(result.newly_refused, 'mail')} would be refused that went before,"
        f" {quantity(result.no_longer_refused, 'mail would go that was', 'mails would go that were')} refused before"
    )


def _by_rule(result: Rehearsal) -> Iterator[Cell | Table]:
    rows = [_row(rule) for rule in result.new.rules]
    yield Cell("")
    yield Table(_RULES, rows)
    if result.new.unlimited:
        yield Cell(f"{quantity(result.new.unlimited, 'mail')} charged by no rule")
    for rule in result.new.rules:
        if rule.ids:
            yield Cell("")
            shadow = ", in shadow: it would refuse" if rule.shadow else ""
            yield Cell(f"{rule.name}{shadow}", "bold")
            yield from _ids(rule.ids, rule.other_ids)


def _row(rule: RuleResult) -> Sequence[Cell]:
    counts = rule.counts
    style = "bold red" if counts.refused and not rule.shadow else ""
    return (
        Cell(f"{rule.name} (shadow)" if rule.shadow else rule.name),
        Cell(str(counts.mails)),
        Cell(str(counts.refused), style),
        Cell(str(counts.refused_recipients)),
        Cell(str(counts.held)),
        Cell(str(counts.marked)),
        Cell(str(counts.warned)),
        Cell(str(len(rule.ids) + rule.other_ids)),
    )


def _ids(ids: Sequence[IdResult], others: int = 0) -> Iterator[Cell | Table]:
    yield Table(_IDS, [_id_row(one) for one in ids[:MOST_SHOWN]])
    left = len(ids) - MOST_SHOWN + others
    if left > 0:
        yield Cell(f"and {quantity(left, 'more id')}; --json names up to 1000 of a rule")


def _id_row(one: IdResult) -> Sequence[Cell]:
    counts = one.counts
    return (
        Cell(one.key),
        Cell(str(counts.mails)),
        Cell(str(counts.refused) if counts.refused else ""),
        Cell(str(counts.refused_recipients) if counts.refused else ""),
        Cell("" if one.since is None else dated(int(one.since))),
        Cell("" if one.limit is None else spell_limit(one.limit)),
        Cell("" if one.longest_wait is None else duration(one.longest_wait)),
        Cell(_free(one)),
    )


def _free(one: IdResult) -> str:
    if one.last is None:
        return ""
    return "never by waiting" if one.free_at is None else dated(one.free_at)


def _shadow(compared: ShadowComparison) -> Iterator[Cell | Table]:
    yield Cell("")
    if compared.began is None or compared.ended is None:
        yield Cell("the log has no mail of the time of which shadow tells: nothing is compared with it", "bold red")
        return
    yield Cell(
        f"requests refused from {dated(int(compared.began))} to {dated(int(compared.ended))}, by shadow and here",
        "bold",
    )
    yield Table(
        _COMPARED,
        [
            [Cell(rule.name), Cell(str(rule.told)), Cell(str(rule.rehearsed)), Cell(str(len(rule.differing)))]
            for rule in compared.rules
        ],
    )
    for rule in compared.rules:
        if rule.differing:
            yield Cell("")
            yield Cell(f"{rule.name}: who differs", "bold")
            shown = rule.differing[:MOST_SHOWN]
            yield Table(_DIFFERING, [[Cell(one.key), Cell(str(one.told)), Cell(str(one.rehearsed))] for one in shown])
            if len(rule.differing) > MOST_SHOWN:
                yield Cell(f"and {quantity(len(rule.differing) - MOST_SHOWN, 'more id')}")


def _changes(result: Rehearsal) -> Iterator[Cell | Table]:
    if result.shadow is not None:
        yield from _shadow(result.shadow)
    yield Cell("")
    if not result.newly_hit:
        yield Cell("nobody is refused who was not before", "bold")
    yield from _changed(result.newly_hit, "refused now, and not before")
    yield from _changed(result.no_longer_hit, "no longer refused")
    if result.incomparable:
        yield Cell(f"{quantity(result.incomparable, 'id')} could not be compared, since {why_incomparable(result)}")


def _changed(by_rule: Mapping[str, Sequence[IdResult]], what: str) -> Iterator[Cell | Table]:
    for name, ids in by_rule.items():
        shown = ", ".join(f"{one.key} ({one.counts.refused})" for one in ids[:MOST_SHOWN])
        more = f" and {len(ids) - MOST_SHOWN} more" if len(ids) > MOST_SHOWN else ""
        yield Cell(f"{what} by {name}: {shown}{more}", "bold")


def _unknown(result: Rehearsal) -> Iterator[Cell]:
    told = [f"{rule.name}: {why}" for rule in result.new.rules for why in rule.cannot]
    if told:
        yield Cell("")
        yield Cell("what the log does not tell", "bold")
        yield from map(Cell, told)
    yield from (Cell(f"note: {remark}") for remark in result.remarks)


_FIGURES: Final = {
    "of_others": ("", "of other programs"),
    "not_understood": ("", "not in any form of a mail log"),
    "nobody_asks": ("mail", "about which Postfix asks nobody (local, bounces, handed back by a filter)"),
    "rejected": ("refused command", ""),
    "refused_otherwise": ("", "of these for other reasons than a rate limit"),
    "refused_elsewhere": ("", "of these by a rate limit where nothing counts"),
    "refused_for_content": ("", "of these for their content (rehearsed, with one recipient)"),
    "not_asked": ("mail", "about which the daemon was not asked"),
    "known_from_decisions": ("mail", "known from the daemon's own lines"),
    "unfinished": ("mail", "without an end"),
    "again": ("line", "about mails from before"),
    "backwards": ("step", "back of the clock"),
}
"""Each figure of a log: what it counts, where that is not said before, and what of that."""


def _figure(number: int, noun: str, what: str) -> str:
    return " ".join(filter(None, (quantity(number, noun) if noun else str(number), what)))


def _of_log(result: Rehearsal) -> Iterator[Cell]:
    yield Cell("")
    figures = [_figure(result.log[name], *words) for name, words in _FIGURES.items() if result.log.get(name)]
    yield Cell(f"read {quantity(result.log['lines'], 'line')}{': ' if figures else ''}{'; '.join(figures)}")
    for name, what in result.damaged:
        yield Cell(f"{name}: {what}; what came before was read", "bold red")
