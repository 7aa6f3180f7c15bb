"""Overrides and hits in Redis, of all daemons, and what lies in a counter as an administrator sees it.

Three keys, which a Cluster keeps together::

    policyd:{administration}:override   hash: counter -> limits, end and note as JSON
    policyd:{administration}:hits       hash: window:counter -> hits and last as MessagePack;
                                        of windows of 0 and less: notes of a copy
    policyd:{administration}:installation  hash: "" -> what tells this installation from all others, made once

In the first two, "" -> what is random and new with each change.
"""

from __future__ import annotations

import json
import logging
import random
from typing import TYPE_CHECKING, Any

from policyd_rate_limit.domain.limits import parse_limits
from policyd_rate_limit.errors import StoreFull
from policyd_rate_limit.storage.administration import (
    HITS_AT_ONCE,
    MOST_BLOCKS,
    MOST_HITS,
    MOST_OVERRIDES,
    Hits,
    Override,
)
from policyd_rate_limit.storage.redis.audit_trail import RedisAuditTrail
from policyd_rate_limit.storage.redis.daemons import RedisDaemons
from policyd_rate_limit.storage.redis.encoding import decoded, encoded, pairs, unpacked
from policyd_rate_limit.storage.redis.hit_history import RedisHitHistory
from policyd_rate_limit.storage.redis.node import Command, script

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from policyd_rate_limit.storage.administration import AuditEntry
    from policyd_rate_limit.storage.redis.node import Argument

HITS_PER_SCRIPT = HITS_AT_ONCE
BLOCKS_PER_SCRIPT = 100

_STAMP = b""  # no counter has this name

_logger = logging.getLogger(__name__)


class RedisTables:
    """Overrides and hits under ``prefix``; ``run`` has commands answered, or raises StoreError."""

    def __init__(self, prefix: str, run: Callable[[Sequence[Command]], object]) -> None:
        self._override = f"{prefix}:{{administration}}:override".encode()
        self._hits = f"{prefix}:{{administration}}:hits".encode()
        self._installation = f"{prefix}:{{administration}}:installation".encode()
        self._run = run
        self.history = RedisHitHistory(prefix, run)
        self.audit = RedisAuditTrail(prefix, run)
        self.daemons = RedisDaemons(prefix, run)

    def clean_trails(self, now: int) -> bool:
        """Delete some of what is too old at ``now`` (Unix second) of both trails; whether there is more."""
        more_hits = self.history.clean(now)
        more_entries = self.audit.clean(now)
        return more_hits or more_entries

    def installation(self, proposed: str) -> str:
        """The identity of the installation, ``proposed`` where there is none yet."""
        self._ask(self._installation, "HSETNX", _STAMP, proposed)
        found = self._ask(self._installation, "HMGET", _STAMP)[0]
        return bytes(found or b"").decode("ascii", "replace")

    def overrides(self, now: int) -> list[Override]:
        """Those in force ``now``, by key."""
        return sorted(override for override in self._all_overrides() if override.until > now)

    def overrides_version(self) -> Hashable:
        """Another one whenever somebody has changed an override."""
        # HGET's "nothing" would pass for no answer.
        return tuple(self._ask(self._override, "HMGET", _STAMP))

    def set_override(self, override: Override, now: int, entry: AuditEntry | None = None) -> None:
        """Put ``override`` in force, in one step with ``entry`` of the audit trail.

        :raises StoreFull: there are too many.
        """
        self._check_room(override.key, now)
        changes = (encoded(override.key), _value(override), _STAMP, _stamp())
        if entry is None:
            self._ask(self._override, "HSET", *changes)
        else:
            self.audit.enter(entry, hash_key=self._override, changes=changes)

    def _check_room(self, key: str, now: int) -> None:
        others = [other for other in self._all_overrides() if other.until > now and other.key != key]
        if len(others) >= MOST_OVERRIDES:
            raise StoreFull(f"there are {MOST_OVERRIDES} overrides in force, and no room for more")

    def replace_override(self, override: Override, seen: Override | None, now: int, entry: AuditEntry) -> bool:
        """Put ``override`` in force in place of ``seen``, None: of none, in one step with ``entry``; whether it was so.

        :raises StoreFull: there are too many.
        """
        self._check_room(override.key, now)
        field = encoded(override.key)
        value = self._ask(self._override, "HMGET", field)[0] or b""
        found = _override_of(field, value) if value else None
        if (found if found is not None and found.until > now else None) != seen:
            return False
        changes = (field, _value(override), _STAMP, _stamp())
        return self.audit.enter_if(entry, self._override, changes, field=field, value=value)

    def end_override(self, seen: Override, entry: AuditEntry) -> bool:
        """End ``seen``, in one step with ``entry``; whether it was there."""
        field = encoded(seen.key)
        value = self._ask(self._override, "HMGET", field)[0] or b""
        if not value or _override_of(field, value) != seen:
            return False
        changes = (field, "", _STAMP, _stamp())
        return self.audit.enter_if(entry, self._override, changes, field=field, value=value)

    def block(self, blocks: Iterable[Override], now: int) -> int:
        """Put ``blocks`` in force where there is no override in force ``now``; for how many there was no room."""
        taken = {override.key for override in self._all_overrides() if override.until > now}
        new = sorted(block for block in blocks if block.until > now and block.key not in taken)
        room = max(0, MOST_BLOCKS - len(taken))
        for first in range(0, min(len(new), room), BLOCKS_PER_SCRIPT):
            arguments: list[Argument] = ["", 0, 0, "", "block", now, _stamp()]
            for block in new[first : min(first + BLOCKS_PER_SCRIPT, room)]:
                arguments += (encoded(block.key), _value(block))
            self._run([script([self._override], arguments)])
        return max(0, len(new) - room)

    def has_override(self, key: str, now: int) -> bool:
        """Whether there is an override of ``key`` in force ``now``."""
        return any(override.until > now for override in self._all_overrides() if override.key == key)

    def remove_override(self, key: str, entry: AuditEntry | None = None) -> None:
        """End the override of ``key``, if there is one, in one step with ``entry`` of the audit trail."""
        if entry is None:
            self._remove([key])
        else:
            self.audit.enter(entry, hash_key=self._override, changes=(encoded(key), "", _STAMP, _stamp()))

    def remove_expired(self, now: int) -> None:
        """Delete the overrides that have ended."""
        self._remove([override.key for override in self._all_overrides() if override.until <= now])

    def add_hits(self, hits: Iterable[Hits]) -> None:
        """Count ``hits``, fewer where they are negative."""
        rows = sorted(hits)
        for first in range(0, len(rows), HITS_PER_SCRIPT):
            arguments: list[Argument] = ["", 0, 0, "", "hits", _stamp()]
            for key, seconds, count, last in rows[first : first + HITS_PER_SCRIPT]:
                arguments += (f"{seconds}:".encode() + encoded(key), count, last)
            self._run([script([self._hits], arguments)])

    def hits(self) -> list[Hits]:
        """Those of the most hits first."""
        found = [hit for hit in self._all_hits() if hit.seconds > 0]
        return sorted(found, key=lambda hit: (-hit.hits, hit.key, hit.seconds))[:MOST_HITS]

    def copied(self) -> dict[tuple[str, int], int]:
        return {(hit.key, hit.seconds): hit.hits for hit in self._all_hits() if hit.seconds <= 0}

    def _all_hits(self) -> Iterator[Hits]:
        for field, value in pairs(self._ask(self._hits, "HGETALL")):
            if field != _STAMP:
                seconds, _, key = field.partition(b":")
                count, last = unpacked(value)
                yield Hits(decoded(key), int(seconds), count, last)

    def _all_overrides(self) -> Iterator[Override]:
        for field, value in pairs(self._ask(self._override, "HGETALL")):
            if field != _STAMP:
                override = _override_of(field, value)
                if override is not None:
                    yield override

    def _remove(self, keys: Sequence[str]) -> None:
        if keys:
            self._ask(self._override, "HDEL", *(encoded(key) for key in keys))
            self._ask(self._override, "HSET", _STAMP, _stamp())

    def _ask(self, key: bytes, name: str, *arguments: Argument) -> Any:
        command = Command(key, name, key, *arguments)
        self._run([command])
        return command.reply


def _override_of(field: bytes, value: bytes) -> Override | None:
    """What ``value`` says; None: it cannot be understood."""
    try:
        limits, until, note = json.loads(value)
        return Override(decoded(field), parse_limits(limits), int(until), str(note))
    except (ValueError, TypeError) as error:
        _logger.error("the override of %r cannot be understood and does not count: %s", field, error)
        return None


def _value(override: Override) -> str:
    return json.dumps([override.limits, override.until, override.note], separators=(",", ":"))


def charges_of(fields: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Date and amount of what lies in a counter; ``fields`` are those of its hash, with their values."""
    found = dict(pairs(fields))
    if b"m" in found:
        _, seen, first, count, age, newest, *_ = unpacked(found[b"m"])
        for number in range(first, first + count - 1):
            date, amount = unpacked(found[b"%d" % number])
            yield date, amount
        if count:
            yield seen - age, newest


def _stamp() -> bytes:
    return b"%x" % random.getrandbits(64)
