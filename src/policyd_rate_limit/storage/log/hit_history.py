"""The hit history in a database with SQL.

::

    policyd_hit_history  hour, origin, id, seconds, maximum, kind, counter, hits, first, last, queue_id, details

The first six tell a row from all others; (id, hour) is indexed as well. ``origin`` is 0, or the number by which copies
know the database that a row was brought from. ``id``, ``counter`` and the like are as in the other tables, see
:mod:`policyd_rate_limit.storage.log.tables`.
"""

from __future__ import annotations

import itertools
import json
import logging
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.storage.administration import (
    HISTORY_ROWS_PER_HOUR,
    MOST_HISTORY_ROWS,
    HitDetails,
    HourOfHits,
    OriginalHits,
)
from policyd_rate_limit.storage.hit_history import added_up, hour_of, is_of_others, oldest_hour, to_others
from policyd_rate_limit.storage.log.columns import digest_of, json_of, text_of
from policyd_rate_limit.storage.log.contract import Statement

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from policyd_rate_limit.storage.log.contract import Log

TABLE: Final = "policyd_hit_history"
HOURS_PER_CLEANING: Final = 4  # some milliseconds, in which no batch has a turn

_COLUMNS = "hour, origin, id, seconds, maximum, kind, counter, hits, first, last, queue_id, details"
_SELECT = f"SELECT {_COLUMNS} FROM"
_INSERT = f"INSERT INTO {TABLE} ({_COLUMNS}) VALUES"
_KEY = "hour, origin, id, seconds, maximum, kind"
_ROW = "(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
_ROWS_AT_ONCE = 80  # of one statement: SQLite takes 999 parameters wherever it runs
_KEYS_AT_ONCE = 100

# What is told of the last one changes before the second of that does: MySQL makes one change after the other.
_OF_LAST = f"CASE WHEN {TABLE}.last > {{news[last]}} THEN {TABLE}.{{column}} ELSE {{new}} END"
_TIMES = {
    "first": f"CASE WHEN {TABLE}.first < {{new}} THEN {TABLE}.first ELSE {{new}} END",
    "queue_id": _OF_LAST,
    "details": _OF_LAST,
    "last": f"CASE WHEN {TABLE}.last > {{new}} THEN {TABLE}.last ELSE {{new}} END",
}
_ADDED = {"hits": f"{TABLE}.hits + {{new}}", **_TIMES}
_AT_LEAST = {"hits": f"CASE WHEN {TABLE}.hits > {{new}} THEN {TABLE}.hits ELSE {{new}} END", **_TIMES}

_Values = tuple[int, int, str, int, int, str, str, int, int, int, str, str]

_logger = logging.getLogger(__name__)


def add(log: Log, rows: Iterable[HourOfHits], patience: float) -> None:
    """Add ``rows``, in one transaction. For whom there is no room is added to the others of the rule.

    Two daemons that do so at the same moment may go over :data:`HISTORY_ROWS_PER_HOUR` by what they write then.
    """
    kept: list[HourOfHits] = []
    for hour, of_hour in itertools.groupby(sorted(rows), key=lambda row: row.hour):
        kept += _with_room(log, hour, list(of_hour))
    _write(log, (OriginalHits(0, row) for row in kept), _ADDED, patience)


def bring(log: Log, page: Iterable[OriginalHits], patience: float) -> None:
    """Have of each origin at the least what ``page`` says."""
    _write(log, page, _AT_LEAST, patience)


def pages(log: Log, since: int, keys: Collection[str] | None = None) -> Iterator[list[OriginalHits]]:
    """What is kept of the hour of ``since`` (Unix second) and later, hour by hour; of ``keys`` alone, None: of all."""
    if keys is not None:
        yield from _pages_of(log, since, keys)
        return
    hour = hour_of(since) - 1
    next_hour = "WHERE hour = (SELECT min(hour) FROM policyd_hit_history WHERE hour > %s)"
    while rows := log.read(f"{_SELECT} {TABLE} {next_hour}", hour):
        hour = int(rows[0][0])
        yield list(_understood(rows))


def of_hour(log: Log, hour: int) -> list[OriginalHits]:
    """What is kept of ``hour``."""
    return list(_understood(log.read(f"{_SELECT} {TABLE} WHERE hour = %s", hour)))


def with_queue_id(log: Log, queue_id: str) -> Iterator[OriginalHits]:
    """Those whose last request was of the mail ``queue_id``, latest hour first."""
    found = log.read(
        f"{_SELECT} {TABLE} WHERE queue_id = %s ORDER BY hour DESC LIMIT %s",
        json_of(queue_id),
        HISTORY_ROWS_PER_HOUR,
    )
    yield from _understood(found)


def clean(log: Log, now: int, patience: float) -> bool:
    """Delete some of the hours that are too old, or too many; whether there are more of these."""
    first = log.read("SELECT min(hour), count(*) FROM policyd_hit_history")[0]
    if first[0] is None or (int(first[0]) >= oldest_hour(now) and int(first[1]) <= MOST_HISTORY_ROWS):
        return False
    hours = log.read("SELECT hour, count(*) FROM policyd_hit_history GROUP BY hour ORDER BY hour")
    excess = int(first[1]) - MOST_HISTORY_ROWS
    unwanted = []
    for hour, count in hours:
        if int(hour) >= oldest_hour(now) and excess <= 0:
            break
        unwanted.append(int(hour))
        excess -= int(count)
    for hour in unwanted[:HOURS_PER_CLEANING]:
        log.write([Statement("DELETE FROM policyd_hit_history WHERE hour = %s", (hour,))], patience)
    return len(unwanted) > HOURS_PER_CLEANING


def _with_room(log: Log, hour: int, rows: Sequence[HourOfHits]) -> list[HourOfHits]:
    """``rows`` of ``hour`` as they are kept."""
    count = "SELECT count(*) FROM policyd_hit_history WHERE hour = %s AND origin = 0 AND maximum + seconds > 0"
    room = HISTORY_ROWS_PER_HOUR - int(log.read(count, hour)[0][0])
    if len(rows) <= room:
        return list(rows)
    names = "SELECT id, seconds, maximum, kind FROM policyd_hit_history WHERE hour = %s AND origin = 0"
    rows_there = log.read(names, hour)
    there = {(str(name), int(seconds), int(maximum), str(kind)) for name, seconds, maximum, kind in rows_there}
    kept: list[HourOfHits] = []
    for row in rows:
        if is_of_others(row) or (digest_of(row.key), row.limit.seconds, row.limit.maximum, row.kind) in there:
            kept.append(row)
        elif room > 0:
            room -= 1
            kept.append(row)
        else:
            kept.append(to_others(row))
    return added_up(kept)


def _write(log: Log, rows: Iterable[OriginalHits], changes: dict[str, str], patience: float) -> None:
    added = log.on_conflict(_KEY, changes)
    values = sorted(map(_values, rows))  # in one order, or two daemons may wait for each other
    statements = [
        Statement(
            f"{_INSERT} {', '.join([_ROW] * len(some))} {added}",
            tuple(value for row in some for value in row),
        )
        for first in range(0, len(values), _ROWS_AT_ONCE)
        if (some := values[first : first + _ROWS_AT_ONCE])
    ]
    if statements:
        log.write(statements, patience)


def _pages_of(log: Log, since: int, keys: Collection[str]) -> Iterator[list[OriginalHits]]:
    rows: list[Sequence[object]] = []
    wanted = sorted(set(keys))
    for first in range(0, len(wanted), _KEYS_AT_ONCE):
        some = wanted[first : first + _KEYS_AT_ONCE]
        places = ", ".join(["%s"] * len(some))
        rows += log.read(
            f"{_SELECT} {TABLE} WHERE id IN ({places}) AND hour >= %s ORDER BY hour",
            *map(digest_of, some),
            hour_of(since),
        )
    found = sorted(_understood(rows), key=lambda row: row.hits.hour)
    for _, page in itertools.groupby(found, key=lambda row: row.hits.hour):
        yield list(page)


def _values(row: OriginalHits) -> _Values:
    hits = row.hits
    return (
        hits.hour,
        row.origin,
        digest_of(hits.key),
        hits.limit.seconds,
        hits.limit.maximum,
        hits.kind,
        json_of(hits.key),
        hits.hits,
        hits.first,
        hits.last,
        json_of(hits.details.queue_id),
        json_of(hits.details),
    )


def _understood(rows: Iterable[Sequence[object]]) -> Iterator[OriginalHits]:
    for hour, origin, _, seconds, maximum, kind, counter, hits, first, last, _, details in rows:
        try:
            numbers = [int(str(value)) for value in (hour, origin, seconds, maximum, hits, first, last)]
            texts = [str(text) for text in json.loads(str(details))]
            key, told = text_of(counter), HitDetails(*texts)
        except (ValueError, TypeError) as error:
            _logger.error("a row of %s cannot be understood and does not count: %s", TABLE, error)
        else:
            limit = Limit(numbers[3], numbers[2])
            yield OriginalHits(
                numbers[1], HourOfHits(numbers[0], key, limit, str(kind), numbers[4], numbers[5], numbers[6], told)
            )
