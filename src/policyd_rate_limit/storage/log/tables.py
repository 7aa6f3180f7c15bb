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

import hashlib
import json
import logging
import random
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.limits import parse_limits
from policyd_rate_limit.errors import StoreFull
from policyd_rate_limit.storage.administration import MOST_HITS, MOST_OVERRIDES, Hits, Override

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from policyd_rate_limit.storage.log.contract import Log

ROWS_PER_STATEMENT = 500
CHARACTERS_PER_STATEMENT = 1 << 17

_logger = logging.getLogger(__name__)


def overrides(log: Log, now: int) -> list[Override]:
    """Those in force ``now``, by key."""
    found = []
    rows = log.read(
        "SELECT counter, limits, expires, note FROM policyd_override "  # noqa: S608 - numbers
        f"WHERE expires > {now} ORDER BY id LIMIT {MOST_OVERRIDES}"
    )
    for counter, limits, expires, note in rows:
        try:
            found.append(Override(_text(counter), parse_limits(json.loads(str(limits))), int(expires), _text(note)))
        except ValueError as error:
            _logger.error("a row of policyd_override cannot be understood and does not count: %s", error)
    return sorted(found)


def overrides_version(log: Log) -> Hashable:
    """Another one whenever somebody has changed an override."""
    return tuple(log.read("SELECT count(*), sum(stamp) FROM policyd_override")[0])


def set_override(log: Log, override: Override, now: int, patience: float) -> None:
    """Put ``override`` in force.

    :raises StoreFull: there are too many.
    """
    others = log.read(
        f"SELECT count(*) FROM policyd_override WHERE id <> '{_id(override.key)}' AND expires > {now}"  # noqa: S608 - no text
    )
    if int(others[0][0]) >= MOST_OVERRIDES:
        raise StoreFull(f"there are {MOST_OVERRIDES} overrides in force, and no room for more")
    row = (
        f"('{_id(override.key)}', {_literal(log, override.key)}, {_literal(log, override.limits)}, "
        f"{override.until}, {_literal(log, override.note)}, {random.getrandbits(32)})"
    )
    columns = ("counter", "limits", "expires", "note", "stamp")
    log.write(
        [
            f"INSERT INTO policyd_override (id, {', '.join(columns)}) VALUES {row} "  # noqa: S608 - quoted
            + log.on_conflict("id", dict.fromkeys(columns, "{new}"))
        ],
        patience,
    )


def remove_override(log: Log, key: str, now: int, patience: float) -> bool:
    """End the override of ``key``; whether there was one in force."""
    found = log.read(f"SELECT expires FROM policyd_override WHERE id = '{_id(key)}'")  # noqa: S608 - a digest
    if found:
        log.write([f"DELETE FROM policyd_override WHERE id = '{_id(key)}'"], patience)  # noqa: S608 - a digest
    return bool(found) and int(found[0][0]) > now


def remove_expired(log: Log, now: int, patience: float) -> None:
    """Delete the overrides that have ended, and the windows of daemons that are long gone."""
    if int(log.read(f"SELECT count(*) FROM policyd_window WHERE expires <= {now}")[0][0]):  # noqa: S608 - a number
        log.write([f"DELETE FROM policyd_window WHERE expires <= {now}"], patience)  # noqa: S608 - a number
    if int(log.read(f"SELECT count(*) FROM policyd_override WHERE expires <= {now}")[0][0]):  # noqa: S608 - a number
        log.write([f"DELETE FROM policyd_override WHERE expires <= {now}"], patience)  # noqa: S608 - a number


def announce_window(log: Log, daemon: str, seconds: int, expires: int, patience: float) -> None:
    """``daemon`` (32 hexadecimal digits) judges by windows of up to ``seconds``, for all that is known until then."""
    update = log.on_conflict("id", dict.fromkeys(("seconds", "expires"), "{new}"))
    log.write(
        [
            f"INSERT INTO policyd_window (id, seconds, expires) VALUES ('{daemon}', {seconds}, {expires}) {update}"  # noqa: S608 - digits
        ],
        patience,
    )


def longest_announced(log: Log, now: int) -> int:
    """The longest window (seconds) that any daemon judges by; 0: none has said so."""
    rows = log.read(f"SELECT coalesce(max(seconds), 0) FROM policyd_window WHERE expires > {now}")  # noqa: S608 - a number
    return int(rows[0][0])


def add_hits(log: Log, hits: Iterable[Hits], patience: float) -> None:
    """Count ``hits``, of a key and a window at most once each, in one transaction."""
    # In one order, or two daemons may wait for each other.
    rows = sorted(
        f"('{_id(key)}', {seconds}, {_literal(log, key)}, {count}, {last})" for key, seconds, count, last in hits
    )
    table = "policyd_hit"
    update = log.on_conflict(
        "id, seconds",
        {
            "hits": f"{table}.hits + {{new}}",
            "last": f"CASE WHEN {table}.last > {{new}} THEN {table}.last ELSE {{new}} END",
        },
    )
    log.write(
        [
            f"INSERT INTO {table} (id, seconds, counter, hits, last) VALUES {', '.join(some)} {update}"  # noqa: S608 - quoted
            for some in _in_parts(rows)
        ],
        patience,
    )


def hits(log: Log, key_of_old_id: Callable[[str], str]) -> list[Hits]:
    """Those of the most hits first."""
    found: dict[tuple[str, int], Hits] = {}
    for counter, seconds, count, last in log.read(
        f"SELECT counter, seconds, hits, last FROM policyd_hit WHERE seconds > 0 ORDER BY hits DESC LIMIT {MOST_HITS}"  # noqa: S608 - a number
    ):
        try:
            hit = Hits(_text(counter), int(seconds), int(count), int(last))
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
    """See :meth:`policyd_rate_limit.storage.administration.Administration.copied`."""
    rows = log.read("SELECT counter, seconds, hits FROM policyd_hit WHERE seconds <= 0")
    return {(_text(counter), int(seconds)): int(count) for counter, seconds, count in rows}


def subtract_hits(log: Log, reported: Iterable[Hits], key_of_old_id: Callable[[str], str], patience: float) -> None:
    """Take ``reported`` off, in one transaction; what version 1.2.0 has counted goes first."""
    left = {(hit.key, hit.seconds): hit.hits for hit in reported}
    statements = []
    for old_id, seconds, count in _old_hits(log):
        key = key_of_old_id(old_id)
        if (key, seconds) in left:
            left[key, seconds] -= count
            statements.append(
                f"DELETE FROM limit_report WHERE id = {log.literal(old_id)} AND delta = {seconds}"  # noqa: S608 - quoted
            )
    for digest, seconds, count in sorted((_id(key), seconds, count) for (key, seconds), count in left.items()):
        if count > 0:
            row = f"id = '{digest}' AND seconds = {seconds}"
            statements.append(f"DELETE FROM policyd_hit WHERE {row} AND hits <= {count}")  # noqa: S608 - no text
            statements.append(f"UPDATE policyd_hit SET hits = hits - {count} WHERE {row}")  # noqa: S608 - no text
    log.write(statements, patience)


def _old_hits(log: Log) -> Sequence[tuple[str, int, int]]:
    """Id, window (seconds) and hits, of version 1.2.0."""
    if not log.has_table("limit_report"):
        return []
    rows = log.read("SELECT id, delta, sum(hit) FROM limit_report GROUP BY id, delta")
    return [(str(old_id), int(delta), int(count)) for old_id, delta, count in rows]


def _id(counter: str) -> str:
    return hashlib.blake2b(counter.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _literal(log: Log, value: object) -> str:
    return log.literal(json.dumps(value, separators=(",", ":")))


def _text(value: object) -> str:
    """The text that JSON ``value`` holds. Raises ValueError."""
    text = json.loads(str(value))
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is no text")  # noqa: TRY004 - the data's fault, not the program's
    return text


def _in_parts(rows: Sequence[str]) -> Iterable[Sequence[str]]:
    part: list[str] = []
    characters = 0
    for row in rows:
        if part and (len(part) == ROWS_PER_STATEMENT or characters + len(row) > CHARACTERS_PER_STATEMENT):
            yield part
            part, characters = [], 0
        part.append(row)
        characters += len(row)
    if part:
        yield part
