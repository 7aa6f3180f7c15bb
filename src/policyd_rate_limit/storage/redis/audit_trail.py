"""The audit trail in Redis.

One key, which a Cluster keeps together with the overrides::

    policyd:{administration}:audit  hash: number -> name of the call that has entered it (16 hexadecimal digits), which
                                    is heeded once, and JSON: date, who, from_where, action, subject, detail, note,
                                    origin, original

In it, "" -> the number of the latest, "-" -> that of the oldest that is kept, "o<origin>" -> the number of the latest
that a copy has brought from there, in the database of that origin.
"""

from __future__ import annotations

import json
import logging
import random
from typing import TYPE_CHECKING, Any, Final

from policyd_rate_limit.storage.administration import AUDIT_DAYS, MOST_AUDIT_ENTRIES, AuditEntry, OriginalEntry
from policyd_rate_limit.storage.redis.node import Command, script

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from policyd_rate_limit.storage.redis.node import Argument

ENTRIES_PER_PAGE: Final = 200
PAGES_PER_CLEANING: Final = 10

_NAME = 16  # characters
_LATEST, _OLDEST = b"", b"-"

_logger = logging.getLogger(__name__)


class RedisAuditTrail:
    """The audit trail under ``prefix``; ``run`` has commands answered, or raises StoreError."""

    def __init__(self, prefix: str, run: Callable[[Sequence[Command]], object]) -> None:
        self._key = f"{prefix}:{{administration}}:audit".encode()
        self._run = run

    def enter(self, entry: AuditEntry, *, hash_key: bytes = b"", changes: Sequence[Argument] = ()) -> int:
        """Enter ``entry``, in one step with ``changes`` of the hash ``hash_key``; its number.

        ``changes``: field, value, field, value, ... The value "" has a field be removed.
        """
        keys = [self._key, hash_key] if hash_key else [self._key]
        command = script(keys, ["", 0, 0, "", "audit", _new_name() + _text(entry), *changes])
        self._run([command])
        return int(command.reply)

    def enter_if(
        self, entry: AuditEntry, hash_key: bytes, changes: Sequence[Argument], *, field: bytes, value: bytes
    ) -> bool:
        """The same where ``field`` has that ``value``, "": where it is missing; whether that was done."""
        command = script(
            [self._key, hash_key], ["", 0, 0, "", "audit if", _new_name() + _text(entry), field, value, *changes]
        )
        self._run([command])
        return int(command.reply) > 0

    def complete(self, number: int, entry: AuditEntry) -> None:
        """What was entered as ``number`` is done, and ``entry`` says more of it."""
        self._ask("HSET", number, _new_name() + _text(entry))

    def latest(self, since: int, most: int, before: int | None, subjects: Collection[str] | None) -> list[AuditEntry]:
        """``most`` of those since ``since`` (Unix second), latest first; see ``Administration.audit``."""
        found: list[AuditEntry] = []
        oldest, last = self._edges()
        if before is not None:
            last = min(last, before - 1)
        while last >= oldest and len(found) < most:
            page = self._read(range(last, max(oldest, last - ENTRIES_PER_PAGE + 1) - 1, -1))
            found += (
                one.entry
                for one in page
                if one.entry.date >= since and (subjects is None or one.entry.subject in subjects)
            )
            last -= ENTRIES_PER_PAGE
        return found[:most]

    def pages(self) -> Iterator[list[OriginalEntry]]:
        """All of it, oldest first."""
        oldest, last = self._edges()
        for first in range(oldest, last + 1, ENTRIES_PER_PAGE):
            yield self._read(range(first, min(first + ENTRIES_PER_PAGE, last + 1)))

    def bring(self, page: Sequence[OriginalEntry]) -> int:
        """Enter those of ``page`` that are not there yet; how many these were."""
        arguments: list[Argument] = ["", 0, 0, "", "bring audit"]
        for origin, number, entry in page:
            arguments += (b"o%x" % origin, number, _new_name() + _text(entry, origin, number))
        command = script([self._key], arguments)
        self._run([command])
        return int(command.reply)

    def clean(self, now: int) -> bool:
        """Delete some of the entries that are too old at ``now`` (Unix second), or too many; whether there are more.

        From the oldest on, up to the first that is kept.
        """
        oldest, last = self._edges()
        for _ in range(PAGES_PER_CLEANING):
            numbers = range(oldest, min(oldest + ENTRIES_PER_PAGE, last + 1))
            there = {one.entry.number: one.entry for one in self._read(numbers)}
            unwanted = []
            for number in numbers:
                is_wanted = number > last - MOST_AUDIT_ENTRIES
                if is_wanted and number in there and there[number].date >= now - AUDIT_DAYS * 86_400:
                    break
                unwanted.append(number)
            if not unwanted:
                return False
            oldest = unwanted[-1] + 1
            self._ask("HDEL", *unwanted)
            self._ask("HSET", _OLDEST, oldest)
            if len(unwanted) < ENTRIES_PER_PAGE:
                return False
        return True

    def _edges(self) -> tuple[int, int]:
        """The numbers of the oldest and of the latest."""
        latest, oldest = self._ask("HMGET", _LATEST, _OLDEST)
        return int(oldest or 1), int(latest or 0)

    def _read(self, numbers: range) -> list[OriginalEntry]:
        if not numbers:
            return []
        found = []
        for number, value in zip(numbers, self._ask("HMGET", *numbers), strict=True):
            if value is None:
                continue
            try:
                date, who, from_where, action, subject, detail, note, origin, original = json.loads(value[_NAME:])
                texts = map(str, (who, from_where, action, subject, detail, note))
                entry = AuditEntry(number, int(date), *texts)
                found.append(OriginalEntry(int(origin), int(original) if origin else number, entry))
            except (ValueError, TypeError) as error:
                _logger.error("entry %d of the audit trail cannot be understood and is left out: %s", number, error)
        return found

    def _ask(self, name: str, *arguments: Argument) -> Any:
        command = Command(self._key, name, self._key, *arguments)
        self._run([command])
        return command.reply


def _new_name() -> bytes:
    return b"%016x" % random.getrandbits(64)


def _text(entry: AuditEntry, origin: int = 0, original: int = 0) -> bytes:
    return json.dumps([*entry[1:], origin, original], separators=(",", ":")).encode("ascii")
