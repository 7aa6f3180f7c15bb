"""The hit history in Redis.

Keys that a Cluster keeps together with the overrides::

    policyd:{administration}:history         hash: hour (Unix second of its beginning) -> how many rows are kept of it
    policyd:{administration}:history:<hour>  hash: origin:kind:maximum:seconds:counter -> hits, first, last and details
                                             as MessagePack, the details in it as JSON

In the latter, "" -> the name of the last call, which is heeded once. ``origin`` is 0, or hexadecimal digits of the
number by which copies know the database that a row was brought from.
"""

from __future__ import annotations

import itertools
import json
import logging
import random
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.storage.administration import (
    HISTORY_DAYS,
    HISTORY_ROWS_PER_HOUR,
    HOUR,
    MOST_HISTORY_ROWS,
    HitDetails,
    HourOfHits,
    OriginalHits,
)
from policyd_rate_limit.storage.hit_history import hour_of, is_of_others, oldest_hour, to_others
from policyd_rate_limit.storage.redis.encoding import decoded, encoded, pairs, unpacked_values
from policyd_rate_limit.storage.redis.node import Command, script

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from policyd_rate_limit.storage.redis.node import Argument

ROWS_PER_SCRIPT: Final = 100  # half a millisecond, in which the server serves nobody else
HOURS_PER_EXCHANGE: Final = 24
HOURS_PER_CLEANING: Final = 24
KEPT_SECONDS: Final = (HISTORY_DAYS + 1) * 24 * HOUR

_logger = logging.getLogger(__name__)


class RedisHitHistory:
    """The hit history under ``prefix``; ``run`` has commands answered, or raises StoreError."""

    def __init__(self, prefix: str, run: Callable[[Sequence[Command]], object]) -> None:
        self._hours = f"{prefix}:{{administration}}:history".encode()
        self._run = run

    def add(self, rows: Iterable[HourOfHits]) -> None:
        """Add ``rows``. For whom there is no room is added to the others of the rule."""
        self._write((OriginalHits(0, row) for row in rows), "history")

    def bring(self, page: Iterable[OriginalHits]) -> int:
        """Have of each origin at the least what ``page`` says; how many hits are new by that."""
        return self._write(page, "bring history")

    def pages(self, since: int, keys: Collection[str] | None = None) -> Iterator[list[OriginalHits]]:
        """What is kept of the hour of ``since`` (Unix second) and later, hour by hour; of ``keys``, None: of all."""
        hours = sorted(hour for hour, _ in self._rows_by_hour() if hour >= hour_of(since))
        yield from self._read(hours, keys)

    def with_queue_id(self, queue_id: str) -> Iterator[OriginalHits]:
        """Those whose last request was of the mail ``queue_id``, latest hour first."""
        hours = sorted((hour for hour, _ in self._rows_by_hour()), reverse=True)
        return (row for page in self._read(hours, None) for row in page if row.hits.details.queue_id == queue_id)

    def clean(self, now: int) -> bool:
        """Delete some of the hours that are too old at ``now`` (Unix second), or too many; whether there are more."""
        rows = sorted(self._rows_by_hour())
        excess = sum(count for _, count in rows) - MOST_HISTORY_ROWS
        unwanted = []
        for hour, count in rows:
            if hour >= oldest_hour(now) and excess <= 0:
                break
            unwanted.append(hour)
            excess -= count
        for hour in unwanted[:HOURS_PER_CLEANING]:
            key = self._key(hour)
            self._run([Command(key, "DEL", key), Command(self._hours, "HDEL", self._hours, hour)])
        return len(unwanted) > HOURS_PER_CLEANING

    def _key(self, hour: int) -> bytes:
        return b"%s:%d" % (self._hours, hour)

    def _rows_by_hour(self) -> list[tuple[int, int]]:
        command = Command(self._hours, "HGETALL", self._hours)
        self._run([command])
        return [(int(hour), int(count)) for hour, count in pairs(command.reply)]

    def _read(self, hours: Sequence[int], keys: Collection[str] | None) -> Iterator[list[OriginalHits]]:
        for first in range(0, len(hours), HOURS_PER_EXCHANGE):
            some = hours[first : first + HOURS_PER_EXCHANGE]
            commands = [Command(key, "HGETALL", key) for key in map(self._key, some)]
            self._run(commands)
            for hour, command in zip(some, commands, strict=True):
                page = list(_understood(hour, pairs(command.reply), keys))
                if page:
                    yield page

    def _write(self, rows: Iterable[OriginalHits], kind: str) -> int:
        new = 0
        in_order = sorted(rows, key=lambda row: (row.hits.hour, row))
        for hour, of_hour in itertools.groupby(in_order, key=lambda row: row.hits.hour):
            while some := list(itertools.islice(of_hour, ROWS_PER_SCRIPT)):
                name = b"%x" % random.getrandbits(64)
                arguments: list[Argument] = ["", 0, 0, "", kind, name, hour, KEPT_SECONDS, HISTORY_ROWS_PER_HOUR]
                for origin, hits in some:
                    of_others = b"" if is_of_others(hits) else _field(origin, to_others(hits))
                    arguments += (_field(origin, hits), of_others, hits.hits, hits.first, hits.last)
                    arguments.append(json.dumps(hits.details, separators=(",", ":")))
                command = script([self._key(hour), self._hours], arguments)
                self._run([command])
                new += int(command.reply)
        return new


def _field(origin: int, row: HourOfHits) -> bytes:
    return b"%x:%s:%d:%d:%s" % (origin, row.kind.encode(), row.limit.maximum, row.limit.seconds, encoded(row.key))


def _understood(
    hour: int, fields: Iterable[tuple[bytes, bytes]], keys: Collection[str] | None
) -> Iterator[OriginalHits]:
    for field, value in fields:
        if not field:
            continue
        try:
            origin, kind, maximum, seconds, name = field.split(b":", 4)
            key = decoded(name)
            if keys is not None and key not in keys:
                continue
            told = unpacked_values(value)
            hits, first, last = (int(number) for number in told[:3])
            details = HitDetails(*(str(text) for text in json.loads(told[3])))
            limit = Limit(int(maximum), int(seconds))
            yield OriginalHits(
                int(origin, 16), HourOfHits(hour, key, limit, kind.decode("ascii"), hits, first, last, details)
            )
        except (ValueError, TypeError, IndexError) as error:
            _logger.error("the hits of %r cannot be understood and do not count: %s", field, error)
