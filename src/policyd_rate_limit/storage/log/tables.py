"""Overrides, hits and windows in use: small tables beside the batch table.

::

    policyd_override  id, counter, limits, expires, note, stamp
    policyd_hit       id, seconds, counter, hits, last
    policyd_window    id, seconds, expires

``id`` is a digest of the counter, which may be longer than any index takes. ``counter``, ``limits`` and ``note`` are
JSON in ASCII: a database holds them whatever its encoding, and whatever bytes a client has sent. ``stamp`` is random
and new with each change, so that the sum of all tells whether anything has changed.

Rows of policyd_hit whose ``seconds`` are 0 or less are notes of a copy, and no hits.

Each daemon announces in ``policyd_window`` how far back it looks, so that nobody's ``--clean`` deletes what others
need.

``limit_report`` of version 1.2.0 counts as well, as long as it has rows.
"""

from __future__ import annotations

import json
import logging
import random
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.limits import parse_limits
from policyd_rate_limit.errors import StoreFull
from policyd_rate_limit.storage.administration import MOST_BLOCKS, MOST_HITS, MOST_OVERRIDES, Hits, Override
from policyd_rate_limit.storage.log.columns import digest_of, json_of, text_of
from policyd_rate_limit.storage.log.contract import Statement

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from policyd_rate_limit.storage.log.contract import Log

INSERT_OVERRIDE = (
    "INSERT INTO policyd_override (id, counter, limits, expires, note, stamp) VALUES (%s, %s, %s, %s, %s, %s) "
)
_INSERT_BLOCKS = "INSERT INTO policyd_override (id, counter, limits, expires, note, stamp) VALUES "
_BLOCK = "(%s, %s, %s, %s, %s, %s)"
_BLOCKS_AT_ONCE = 100
_INSERT_WINDOW = "INSERT INTO policyd_window (id, seconds, expires) VALUES (%s, %s, %s) "
_INSERT_HIT = "INSERT INTO policyd_hit (id, seconds, counter, hits, last) VALUES "
_HIT = "(%s, %s, %s, %s, %s)"
_MOST_ROWS = 150  # of one statement: SQLite takes 999 parameters wherever it runs
_MOST_CHARACTERS = 1 << 17  # of the counters in one

_logger = logging.getLogger(__name__)


def overrides(log: Log, now: int) -> list[Override]:
    """Those in force ``now``, by key."""
    found = []
    rows = log.read(
        "SELECT counter, limits, expires, note FROM policyd_override WHERE expires > %s ORDER BY id LIMIT %s",
        now,
        MOST_OVERRIDES,
    )
    for row in rows:
        override = _override_of(row)
        if override is not None:
            found.append(override)
    return sorted(found)


def _override_of(row: Sequence[object]) -> Override | None:
    """What the first four columns of ``row`` say."""
    counter, limits, expires, note = row[:4]
    try:
        return Override(text_of(counter), parse_limits(json.loads(str(limits))), int(str(expires)), text_of(note))
    except ValueError as error:
        _logger.error("a row of policyd_override cannot be understood and does not count: %s", error)
        return None


def overrides_version(log: Log) -> Hashable:
    """Another one whenever somebody has changed an override."""
    return tuple(log.read("SELECT count(*), sum(stamp) FROM policyd_override")[0])


def set_override(log: Log, override: Override, now: int, patience: float, *beside: Statement) -> None:
    """Put ``override`` in force, in one transaction with what is ``beside``.

    :raises StoreFull: there are too many.
    """
    check_room(log, override.key, now)
    changed = dict.fromkeys(("counter", "limits", "expires", "note", "stamp"), "{new}")
    log.write([Statement(INSERT_OVERRIDE + log.on_conflict("id", changed), row_of(override)), *beside], patience)


def check_room(log: Log, key: str, now: int) -> None:
    """Raise StoreFull where there is no room for an override of ``key``."""
    count = "SELECT count(*) FROM policyd_override WHERE id <> %s AND expires > %s"
    others = log.read(count, digest_of(key), now)
    if int(others[0][0]) >= MOST_OVERRIDES:
        raise StoreFull(f"there are {MOST_OVERRIDES} overrides in force, and no room for more")


def block(log: Log, blocks: Iterable[Override], now: int, patience: float) -> int:
    """Put ``blocks`` in force where there is no override in force; for how many there was no room."""
    found = log.read("SELECT id FROM policyd_override WHERE expires > %s LIMIT %s", now, MOST_OVERRIDES)
    taken = {str(row[0]) for row in found}
    # In one order, or two daemons may wait for each other.
    rows = sorted(row for row in map(row_of, blocks) if int(row[3]) > now and row[0] not in taken)
    room = max(0, MOST_BLOCKS - len(taken))
    # Somebody may have put one in force meanwhile: that stays.
    change = unless_in_force("counter", "limits", "note", "stamp")
    statements = []
    for first in range(0, min(len(rows), room), _BLOCKS_AT_ONCE):
        some = rows[first : min(first + _BLOCKS_AT_ONCE, room)]
        text = f"{_INSERT_BLOCKS} {', '.join([_BLOCK] * len(some))} {log.on_conflict('id', change)}"
        statements.append(Statement(text, (*(value for row in some for value in row), *[now] * len(change))))
    if statements:
        log.write(statements, patience)
    return max(0, len(rows) - room)


def unless_in_force(*columns: str) -> dict[str, str]:
    """For :meth:`Log.on_conflict`: change ``columns`` and the end where no override is in force; each asks what is now.

    The end, by which that is told, is changed last, for MySQL makes one change after the other.
    """
    return {
        name: f"CASE WHEN policyd_override.expires > %s THEN policyd_override.{name} ELSE {{new}} END"
        for name in (*columns, "expires")
    }


def stamp_of(log: Log, override: Override) -> int | None:
    """The stamp of ``override``; None: there is another one of its key, or none."""
    found = log.read(
        "SELECT counter, limits, expires, note, stamp FROM policyd_override WHERE id = %s", digest_of(override.key)
    )
    return int(found[0][4]) if found and _override_of(found[0]) == override else None


def has_override(log: Log, key: str, now: int) -> bool:
    """Whether there is an override of ``key`` in force."""
    found = log.read("SELECT expires FROM policyd_override WHERE id = %s", digest_of(key))
    return bool(found) and int(found[0][0]) > now


def remove_override(log: Log, key: str, patience: float, *beside: Statement) -> None:
    """End the override of ``key``, if there is one, in one transaction with what is ``beside``."""
    delete = Statement("DELETE FROM policyd_override WHERE id = %s", (digest_of(key),))
    log.write([delete, *beside], patience)


def remove_expired(log: Log, now: int, patience: float) -> None:
    """Delete the overrides that have ended, and the windows of daemons that are long gone."""
    if int(log.read("SELECT count(*) FROM policyd_window WHERE expires <= %s", now)[0][0]):
        log.write([Statement("DELETE FROM policyd_window WHERE expires <= %s", (now,))], patience)
    if int(log.read("SELECT count(*) FROM policyd_override WHERE expires <= %s", now)[0][0]):
        log.write([Statement("DELETE FROM policyd_override WHERE expires <= %s", (now,))], patience)


def announce_window(log: Log, daemon: str, seconds: int, expires: int, patience: float) -> None:
    """``daemon`` (32 hexadecimal digits) judges by windows of up to ``seconds``, for all that is known until then."""
    changed = dict.fromkeys(("seconds", "expires"), "{new}")
    log.write([Statement(_INSERT_WINDOW + log.on_conflict("id", changed), (daemon, seconds, expires))], patience)


def longest_announced(log: Log, now: int) -> int:
    """The longest window (seconds) that any daemon judges by; 0: none has said so."""
    rows = log.read("SELECT coalesce(max(seconds), 0) FROM policyd_window WHERE expires > %s", now)
    return int(rows[0][0])


def add_hits(log: Log, hits: Iterable[Hits], patience: float) -> None:
    """Count ``hits``, of a key and a window at most once each, in one transaction."""
    added = log.on_conflict(
        "id, seconds",
        {
            "hits": "policyd_hit.hits + {new}",
            "last": "CASE WHEN policyd_hit.last > {new} THEN policyd_hit.last ELSE {new} END",
        },
    )
    # In one order, or two daemons may wait for each other.
    rows = sorted((digest_of(key), seconds, json_of(key), count, last) for key, seconds, count, last in hits)
    log.write(
        [
            Statement(
                f"{_INSERT_HIT} {', '.join([_HIT] * len(some))} {added}", tuple(value for row in some for value in row)
            )
            for some in _together(rows)
        ],
        patience,
    )


def _together(rows: Iterable[tuple[str, int, str, int, int]]) -> Iterator[list[tuple[str, int, str, int, int]]]:
    """``rows`` of hits, as many of them as one statement may have."""
    some: list[tuple[str, int, str, int, int]] = []
    characters = 0
    for row in rows:
        characters += len(row[2])
        if some and (len(some) == _MOST_ROWS or characters > _MOST_CHARACTERS):
            yield some
            some, characters = [], len(row[2])
        some.append(row)
    if some:
        yield some


def hits(log: Log, key_of_old_id: Callable[[str], str]) -> list[Hits]:
    """Those of the most hits first."""
    found: dict[tuple[str, int], Hits] = {}
    for counter, seconds, count, last in log.read(
        "SELECT counter, seconds, hits, last FROM policyd_hit WHERE seconds > 0 ORDER BY hits DESC LIMIT %s", MOST_HITS
    ):
        try:
            hit = Hits(text_of(counter), int(seconds), int(count), int(last))
        except ValueError as error:
            _logger.error("a row of policyd_hit cannot be understood and does not count: %s", error)
        else:
            found[hit.key, hit.seconds] = hit
    for old_id, seconds, count in _old_hits(log):
        key = key_of_old_id(old_id)
        known = found.get((key, seconds), Hits(key, seconds, 0, 0))
        found[key, seconds] = known._replace(hits=known.hits + count)
    return sorted(found.values(), key=lambda hit: (-hit.hits, hit.key, hit.seconds))[:MOST_HITS]


def copied(log: Log) -> dict[tuple[str, int], int]:
    rows = log.read("SELECT counter, seconds, hits FROM policyd_hit WHERE seconds <= 0")
    return {(text_of(counter), int(seconds)): int(count) for counter, seconds, count in rows}


def subtract_hits(log: Log, reported: Iterable[Hits], key_of_old_id: Callable[[str], str], patience: float) -> None:
    """Take ``reported`` off, in one transaction; what version 1.2.0 has counted goes first."""
    left = {(hit.key, hit.seconds): hit.hits for hit in reported}
    statements = []
    for old_id, seconds, count in _old_hits(log):
        key = key_of_old_id(old_id)
        if (key, seconds) in left:
            left[key, seconds] -= count
            statements.append(Statement("DELETE FROM limit_report WHERE id = %s AND delta = %s", (old_id, seconds)))
    for digest, seconds, count in sorted((digest_of(key), seconds, count) for (key, seconds), count in left.items()):
        if count > 0:
            statements += (
                Statement(
                    "DELETE FROM policyd_hit WHERE id = %s AND seconds = %s AND hits <= %s", (digest, seconds, count)
                ),
                Statement(
                    "UPDATE policyd_hit SET hits = hits - %s WHERE id = %s AND seconds = %s", (count, digest, seconds)
                ),
            )
    log.write(statements, patience)


def _old_hits(log: Log) -> Sequence[tuple[str, int, int]]:
    """Id, window (seconds) and hits, of version 1.2.0."""
    if not log.has_table("limit_report"):
        return []
    rows = log.read("SELECT id, delta, sum(hit) FROM limit_report GROUP BY id, delta")
    return [(str(old_id), int(delta), int(count)) for old_id, delta, count in rows]


def row_of(override: Override) -> tuple[str, str, str, int, str, int]:
    """The values of :data:`INSERT_OVERRIDE`, in which the stamp, the last, is new."""
    return (
        digest_of(override.key),
        json_of(override.key),
        json_of(override.limits),
        override.until,
        json_of(override.note),
        random.getrandbits(32),
    )
