"""Administration of the store in Redis: see :mod:`policyd_rate_limit.storage.administration`.

Redis keeps no log: what is still known of a counter lies in its windows, a sum for each second.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from policyd_rate_limit.domain.counter import is_distinct
from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.storage.administration import MayNotList
from policyd_rate_limit.storage.audit_entries import entry_of, entry_of_override, entry_of_reset, entry_of_revocation
from policyd_rate_limit.storage.hit_history import added_up
from policyd_rate_limit.storage.redis.encoding import decoded, pairs
from policyd_rate_limit.storage.redis.keys import escaped, keys_of
from policyd_rate_limit.storage.redis.link import Link
from policyd_rate_limit.storage.redis.node import Command, NodeError, refusable, script
from policyd_rate_limit.storage.redis.tables import RedisTables, charges_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from policyd_rate_limit.storage.administration import (
        Actor,
        AuditEntry,
        Hits,
        HourOfHits,
        OriginalEntry,
        OriginalHits,
        Override,
    )
    from policyd_rate_limit.storage.heartbeat import Heartbeat

COUNTERS_PER_PAGE = 100
SLICE_SECONDS = 0.5  # of looking for what is new, after which whoever follows is told that there is nothing more yet

_logger = logging.getLogger(__name__)


class RedisAdministration:
    """What commands ask of Redis: :class:`policyd_rate_limit.storage.administration.Administration`, whose methods are
    described there.

    ``config`` is ``redis_config``. ``longest`` is the longest window in use (seconds), ``timeout`` (seconds) bounds
    each exchange. ``clock`` (Unix seconds) takes the place of the server's in tests.

    A key of more than :data:`policyd_rate_limit.storage.redis.keys.LONGEST_TAG` characters is found by its name, but
    has none where all are asked for: it comes as ``#`` and a digest then.

    :raises ConfigError: something in ``config`` is wrong.
    """

    def __init__(
        self, config: Mapping[str, Any], *, longest: int, timeout: float, clock: Callable[[], float] | None = None
    ) -> None:
        self._link = Link(config, timeout, clock)
        self.keys = keys_of(config)
        self.longest = longest
        self._tables = RedisTables(self.keys.prefix, self.run)

    def now(self) -> int:
        return int(self.run(()))

    def entries(self, keys: Collection[str] | None, since: int) -> Iterator[Entry]:
        """What was given back is no more there, nor what it was taken from."""
        for page in self._pages(keys):
            for entry in page:
                if entry.date >= since:
                    yield entry

    def follow(self, since: int) -> Iterator[Sequence[Entry]]:
        """All counters are looked at each time, but for the first time in slices, and nothing is given back."""
        is_first = True
        while True:
            now, begun = self.now(), time.monotonic()
            for page in self._pages(None):
                # Of a second that is not over, more may come.
                found = [entry for entry in page if since <= entry.date <= now]
                if found:
                    yield found
                if not is_first and time.monotonic() - begun > SLICE_SECONDS:
                    yield []  # whoever follows has something else to do as well
                    begun = time.monotonic()
            since, is_first = max(since, now + 1), False
            yield []

    def reset(self, key: str, by: Actor, note: str = "") -> int:
        """A daemon that has lost its server goes on with what it had counted."""
        # What daemons did to it last stays known.
        keys, kind = [self.keys.counter(key)], "reset"
        if is_distinct(key):
            keys, kind = [*keys, self.keys.values(key)], "reset values"
        # Entered first, for a Cluster may keep it elsewhere: nothing is changed of which the trail does not tell.
        trail, now = self._tables.audit, self.now()
        number = trail.enter(entry_of_reset(by, now, key, None, note))
        command = script(keys, ("", 0, self.longest, self._link.time, kind))
        self.run([command])
        taken_back = int(command.reply)
        trail.complete(number, entry_of_reset(by, now, key, taken_back, note))
        return taken_back

    def overrides(self) -> list[Override]:
        return self._tables.overrides(self.now())

    def set_override(self, override: Override, by: Actor | None) -> None:
        now = self.now()
        self._tables.set_override(override, now, None if by is None else entry_of_override(by, now, override))

    def remove_override(self, key: str, by: Actor | None, note: str = "") -> bool:
        now = self.now()
        had_one = self._tables.has_override(key, now)
        entry = None if by is None else entry_of_revocation(by, now, key, note, had_one=had_one)
        self._tables.remove_override(key, entry)
        return had_one

    def replace_override(self, override: Override, seen: Override | None, by: Actor) -> bool:
        now = self.now()
        return self._tables.replace_override(override, seen, now, entry_of_override(by, now, override))

    def end_override(self, seen: Override, by: Actor, note: str = "") -> bool:
        return self._tables.end_override(seen, entry_of_revocation(by, self.now(), seen.key, note, had_one=True))

    def hits(self) -> list[Hits]:
        return self._tables.hits()

    def add_hits(self, hits: Sequence[Hits]) -> None:
        self._tables.add_hits(hits)

    def copied(self) -> dict[tuple[str, int], int]:
        return self._tables.copied()

    def forget_hits(self, hits: Sequence[Hits]) -> None:
        self._tables.add_hits(hit._replace(hits=-hit.hits) for hit in hits)

    def hit_history(
        self, since: int, *, keys: Collection[str] | None = None, kinds: Collection[str] | None = None
    ) -> Iterator[HourOfHits]:
        for page in self._tables.history.pages(since, keys):
            for row in added_up(one.hits for one in page):
                if kinds is None or row.kind in kinds:
                    yield row

    def find_queue_id(self, queue_id: str) -> Iterator[HourOfHits]:
        return (row.hits for row in self._tables.history.with_queue_id(queue_id))

    def history_pages(self) -> Iterator[Sequence[OriginalHits]]:
        return self._tables.history.pages(0)

    def bring_history(self, page: Sequence[OriginalHits]) -> int:
        return self._tables.history.bring(page)

    def audit(
        self, since: int = 0, *, most: int = 100, before: int | None = None, subjects: Collection[str] | None = None
    ) -> list[AuditEntry]:
        return self._tables.audit.latest(since, most, before, subjects)

    def note(self, by: Actor, action: str, subject: str, detail: str = "", note: str = "") -> None:
        self._tables.audit.enter(entry_of(by, self.now(), action, subject, detail, note))

    def audit_pages(self) -> Iterator[Sequence[OriginalEntry]]:
        return self._tables.audit.pages()

    def bring_audit(self, page: Sequence[OriginalEntry]) -> int:
        return self._tables.audit.bring(page)

    def heartbeats(self) -> list[Heartbeat] | None:
        try:
            return self._tables.daemons.heartbeats()
        except NodeError as error:
            if error.code not in ("NOPERM", "WRONGTYPE"):
                raise
            return None

    def close(self) -> None:
        self._link.close()

    def _pages(self, keys: Collection[str] | None) -> Iterator[Iterable[Entry]]:
        """What lies in the counters ``keys``, None for all."""
        for counters in self.counters() if keys is None else [[(key, self.keys.counter(key)) for key in keys]]:
            of_values = [name for name, _ in counters if is_distinct(name)]
            yield [
                Entry(counter, amount, date, "", "")
                for counter, fields in self.read([one for one in counters if not is_distinct(one[0])])
                for date, amount in charges_of(fields)
                if amount
            ] + [
                Entry(counter, 1, date, "", value)
                for counter, values in self.values(of_values)
                for value, date in values.items()
            ]

    def counters(self) -> Iterator[list[tuple[str, bytes]]]:
        """Name and key of all counters, some at a time; each once, unless it is new."""
        pattern = escaped(self.keys.counters) + b"*"
        seen: set[int] = set()
        for node in self._link.connect(self._link.timeout).nodes:
            cursor = None
            while cursor != b"0":
                try:
                    cursor, keys = node.ask("SCAN", cursor or b"0", "MATCH", pattern, "COUNT", COUNTERS_PER_PAGE)
                except NodeError as error:
                    if error.code == "NOPERM":
                        raise MayNotList(f"{error}; grant +scan") from error
                    raise
                new = [key for key in keys if hash(key) not in seen]  # SCAN may tell one twice
                seen.update(map(hash, new))
                yield [(self.keys.name(key), key) for key in new]

    def read(self, counters: Sequence[tuple[str, bytes]]) -> list[tuple[str, Sequence[bytes]]]:
        """Name and content of ``counters``, as HGETALL has it; those of another type are left out, and named."""
        return self._ask_each(counters, lambda key: Command(key, "HGETALL", key))

    def _ask_each(
        self, counters: Sequence[tuple[str, bytes]], command_for: Callable[[bytes], Command]
    ) -> list[tuple[str, Sequence[bytes]]]:
        commands = [refusable(command_for(key)) for _, key in counters]
        self.run(commands)
        found = []
        for (name, _), command in zip(counters, commands, strict=True):
            if command.reply is not None:
                found.append((name, command.reply))
            elif command.failure is not None:
                _logger.warning("what is counted for %r cannot be read: %s", name, command.failure)
        if commands and not found and commands[0].failure is not None and commands[0].failure.code == "NOPERM":
            raise commands[0].failure  # nobody's may be read
        return found

    def values(self, counters: Sequence[str]) -> list[tuple[str, dict[str, int]]]:
        """Name and content of ``counters`` of different values: value -> second in which it came last.

        Those of another type are left out, and named.
        """
        keys = [(counter, self.keys.values(counter)) for counter in counters]
        found = self._ask_each(keys, lambda key: Command(key, "ZRANGE", key, 0, -1, "WITHSCORES"))
        return [(name, {decoded(value): int(float(date)) for value, date in pairs(reply)}) for name, reply in found]

    def run(self, commands: Sequence[Command]) -> float:
        """Have ``commands`` answered; the time of the servers (Unix seconds)."""
        return self._link.run(commands, self._link.end())
