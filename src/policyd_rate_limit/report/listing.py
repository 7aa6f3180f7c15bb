"""The report: who ran into which limit, and how often, since the last one."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.domain.limits import Limit, spell_limit, spell_period
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.mail.wording import counted_of, local_time, name_and_kind, rule_of

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_ROWS = 1_000
"""The most rows of a report: it is read by a person. How many more there are is said below them."""


class Row(NamedTuple):
    """``hits`` of the counter ``key`` against its limit of ``seconds``; ``last``: the Unix second of the newest, or 0
    when it is not known. ``maximum``: the mails that the limit admits today, None where there is none of that
    window any more.
    """

    key: str
    seconds: int
    hits: int
    last: int
    maximum: int | None = None


def as_text(rows: Sequence[Row], host: str) -> str:
    """The report in plain text, most hits first."""
    shown, below = sorted_by_hits(rows)
    lines = [_summary(rows, host)]
    if shown:
        # The id is the last column, since nobody knows how long it is.
        lines += ["", f"{'hits':>9}  {'limit':>12}  {'last':25}  id"]
        lines += [f"{row.hits:>9}  {_limit(row):>12}  {_last(row):25}  {_who(row.key)}".rstrip() for row in shown]
    if below:
        lines += ["", below]
    return "\n".join((*lines, ""))


def as_html(rows: Sequence[Row], host: str) -> str:
    """The same in HTML."""
    shown, below = sorted_by_hits(rows)
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>policyd-rate-limit report</title></head><body>',
        f"<p>{escape(_summary(rows, host))}</p>",
    ]
    if shown:
        lines += [
            '<table border="1" cellpadding="4" style="border-collapse: collapse">',
            "<thead><tr><th>id</th><th>limit</th><th>hits</th><th>last</th></tr></thead>",
            "<tbody>",
        ]
        lines += [
            f"<tr><td>{escape(_who(row.key))}</td><td>{_limit(row)}</td>"
            f'<td align="right">{row.hits}</td><td>{escape(_last(row))}</td></tr>'
            for row in shown
        ]
        lines += ["</tbody>", "</table>"]
    if below:
        lines.append(f"<p>{escape(below)}</p>")
    return "\n".join((*lines, "</body></html>", ""))


def sorted_by_hits(rows: Sequence[Row]) -> tuple[list[Row], str]:
    """The rows to show, :data:`MOST_ROWS` at the most, and what is to be said of the others."""
    by_hits = sorted(rows, key=lambda row: (-row.hits, row.key, row.seconds))
    shown, others = by_hits[:MOST_ROWS], by_hits[MOST_ROWS:]
    hits = quantity(sum(row.hits for row in others), "hit")
    verb = "is" if len(others) == 1 else "are"
    below = f"{len(others)} more, with {hits} in all, {verb} not shown." if others else ""
    return shown, below


def _summary(rows: Sequence[Row], host: str) -> str:
    if not rows:
        return f"Nobody ran into a limit on {host} since the last report."
    ids, hits = len({row.key for row in rows}), sum(row.hits for row in rows)
    return f"{quantity(ids, 'id')} ran into a limit on {host} since the last report, {quantity(hits, 'time')} in all."


def _who(key: str) -> str:
    name, kind = name_and_kind(key)
    rule = rule_of(key)
    about = ", ".join(filter(None, (kind, f"rule {rule}" if rule else "", counted_of(key))))
    return f"{name} ({about})" if about else name


def _limit(row: Row) -> str:
    return spell_period(row.seconds) if row.maximum is None else spell_limit(Limit(row.maximum, row.seconds))


def _last(row: Row) -> str:
    return local_time(row.last) if row.last else ""
