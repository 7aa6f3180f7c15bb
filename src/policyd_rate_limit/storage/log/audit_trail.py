"""The audit trail in a database with SQL.

::

    policyd_audit  number, date, who, from_where, action, subject, detail, note, origin, original

The database gives each row its number. ``origin`` is 0, or the number by which copies know the database that an entry
was brought from, where its number is ``original``; null: it was made here. All text but ``action`` is JSON in ASCII.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.storage.administration import AUDIT_DAYS, MOST_AUDIT_ENTRIES, AuditEntry, OriginalEntry
from policyd_rate_limit.storage.log.columns import json_of, text_of
from policyd_rate_limit.storage.log.contract import Statement

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from policyd_rate_limit.storage.log.contract import Log

TABLE: Final = "policyd_audit"
ENTRIES_PER_PAGE: Final = 200
ENTRIES_PER_CLEANING: Final = 2_000

_SELECT = "SELECT number, date, who, from_where, action, subject, detail, note, origin, original FROM policyd_audit"
_INSERT = (
    "INSERT INTO policyd_audit (date, who, from_where, action, subject, detail, note, origin, original) "
    "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
)
_INSERT_OWN = (
    "INSERT INTO policyd_audit (date, who, from_where, action, subject, detail, note, origin) "
    "VALUES (%s, %s, %s, %s, %s, %s, %s, 0)"
)
_INSERT_BESIDE = (
    "INSERT INTO policyd_audit (date, who, from_where, action, subject, detail, note, origin) "
    "SELECT %s, %s, %s, %s, %s, %s, %s, 0 FROM policyd_override WHERE id = %s AND stamp = %s"
)

_logger = logging.getLogger(__name__)


def entering(entry: AuditEntry) -> Statement:
    """What enters ``entry``, whose number is not used."""
    return Statement(_INSERT_OWN, _values(entry))


def entering_beside(entry: AuditEntry, digest: str, stamp: int) -> Statement:
    """The same, if the override of that ``digest`` has that ``stamp``: it was changed just now."""
    return Statement(_INSERT_BESIDE, (*_values(entry), digest, stamp))


def latest(log: Log, since: int, most: int, before: int | None, subjects: Collection[str] | None) -> list[AuditEntry]:
    """``most`` of those since ``since`` (Unix second), latest first; see ``Administration.audit``."""
    condition, parameters = "date >= %s", [since]
    if before is not None:
        condition += " AND number < %s"
        parameters.append(before)
    texts: list[str] = []
    if subjects is not None:
        if not subjects:
            return []
        condition += f" AND subject IN ({', '.join(['%s'] * len(subjects))})"
        texts = [json_of(subject) for subject in subjects]
    rows = log.read(
        f"{_SELECT} WHERE {condition} ORDER BY number DESC LIMIT %s",
        *parameters,
        *texts,
        most,
    )
    return [one.entry for one in _understood(rows)]


def pages(log: Log) -> Iterator[list[OriginalEntry]]:
    """All of it, oldest first."""
    number = 0
    while rows := log.read(
        f"{_SELECT} WHERE number > %s ORDER BY number LIMIT %s",
        number,
        ENTRIES_PER_PAGE,
    ):
        number = int(rows[-1][0])
        yield list(_understood(rows))


def bring(log: Log, page: Sequence[OriginalEntry], patience: float) -> int:
    """Enter those of ``page`` that are not there yet; how many these were. A copy beside this one makes it fail."""
    newest = {
        int(origin): int(number)
        for origin, number in log.read(
            "SELECT origin, max(original) FROM policyd_audit WHERE origin <> 0 GROUP BY origin"
        )
    }
    missing = [one for one in page if one.number > newest.get(one.origin, 0)]
    if missing:
        log.write([Statement(_INSERT, (*_values(one.entry), one.origin, one.number)) for one in missing], patience)
    return len(missing)


def clean(log: Log, now: int, patience: float) -> bool:
    """Delete some of the entries that are too old, or too many; whether there are more of these."""
    edges = "SELECT coalesce(min(number), 0), coalesce(max(number), 0) FROM policyd_audit"
    first, newest = map(int, log.read(edges)[0])
    # Those that a copy has brought are older than their numbers say: it goes by both.
    rows = log.read(
        "SELECT number FROM policyd_audit WHERE date < %s ORDER BY number LIMIT %s",
        now - AUDIT_DAYS * 86_400,
        ENTRIES_PER_CLEANING,
    )
    statements = [Statement("DELETE FROM policyd_audit WHERE number = %s", (int(row[0]),)) for row in rows]
    if newest - first >= MOST_AUDIT_ENTRIES and (excess := _excess(log)):
        rest = "SELECT number FROM policyd_audit ORDER BY number LIMIT %s"
        last = int(log.read(rest, min(excess, ENTRIES_PER_CLEANING))[-1][0])
        statements.append(Statement("DELETE FROM policyd_audit WHERE number <= %s", (last,)))
    if statements:
        log.write(statements, patience)
    return len(rows) == ENTRIES_PER_CLEANING or _excess(log) > 0


def _excess(log: Log) -> int:
    return max(0, int(log.read("SELECT count(*) FROM policyd_audit")[0][0]) - MOST_AUDIT_ENTRIES)


def _values(entry: AuditEntry) -> tuple[int | str, ...]:
    return (
        entry.date,
        json_of(entry.who),
        json_of(entry.from_where),
        entry.action,
        json_of(entry.subject),
        json_of(entry.detail),
        json_of(entry.note),
    )


def _understood(rows: Sequence[Sequence[object]]) -> Iterator[OriginalEntry]:
    for number, date, who, from_where, action, subject, detail, note, origin, original in rows:
        try:
            numbers = [int(str(value)) for value in (number, date, origin, number if original is None else original)]
            texts = [text_of(value) for value in (who, from_where, subject, detail, note)]
        except ValueError as error:
            _logger.error("a row of %s cannot be understood and is left out: %s", TABLE, error)
        else:
            entry = AuditEntry(numbers[0], numbers[1], texts[0], texts[1], str(action), *texts[2:])
            yield OriginalEntry(numbers[2], numbers[3], entry)
