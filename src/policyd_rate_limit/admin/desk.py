"""The limits in force for an id: an override, the table of ``sql_limits_by_id``, or the configuration."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.domain.identity import canonical_id, id_of_key
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.errors import StoreError
from policyd_rate_limit.storage.administration import longest_window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from policyd_rate_limit.domain.charge import Entry
    from policyd_rate_limit.domain.identity import Subjects
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.storage.administration import Administration, Override


class InForce(NamedTuple):
    """The ``limits`` of a key and where they come from: ``override``, or the name of a setting."""

    limits: Limits
    source: str
    override: Override | None = None


class NotAnId(ValueError):
    """A name stands for no key: what is wrong with it is in the message."""


class Desk:
    """What an administrator has before them: ``store``, and the ``subjects`` whom the daemons charge.

    ``longest`` is the longest window of the configuration (seconds). ``table`` gives the limits that
    ``sql_limits_by_id`` has for the first of some ids that it knows, None when it knows none of them; it is None where
    that is not set. ``max_ids`` bounds the memory. Whatever asks the store raises StoreError when it does not answer.
    """

    def __init__(
        self,
        store: Administration,
        subjects: Subjects,
        *,
        longest: int,
        table: Callable[[Sequence[str]], Limits | None] | None,
        max_ids: int,
    ) -> None:
        self.store = store
        self.subjects = subjects
        self.table = table
        self.max_ids = max_ids
        self._longest = longest

    def keys(self, name: str) -> tuple[str, ...]:
        """The keys that ``name`` stands for, as :meth:`Subjects.keys_of_id` has it. Raises NotAnId."""
        try:
            return self.subjects.keys_of_id(name)
        except ValueError as error:
            raise NotAnId(str(error)) from error

    def overrides(self) -> dict[str, Override]:
        """Those in force, by key."""
        return {override.key: override for override in self.store.overrides()}

    def longest(self, overrides: Mapping[str, Override]) -> int:
        """The longest window in use, in seconds."""
        return max(self._longest, longest_window(overrides.values()))

    def in_force(self, key: str, override: Override | None, from_table: Limits | None) -> InForce:
        """The limits of ``key``, given what an override and the table of ``sql_limits_by_id`` say."""
        if override is not None:
            return InForce(override.limits, "override", override)
        if from_table is not None:
            return InForce(from_table, "sql_limits_by_id")
        return InForce(*self.subjects.limits_and_setting(key))

    def from_table(self, key: str, name: str | None = None) -> Limits | None:
        """The limits that the table of ``sql_limits_by_id`` has for ``key``, which an administrator calls ``name``."""
        return self.table(_spellings(key, name)) if self.table else None

    def limits(self, keys: Iterable[str]) -> dict[str, Limits]:
        """The limits of each of ``keys``, without those that the table of ``sql_limits_by_id`` gives no answer for."""
        overrides = self.overrides()
        found = {}
        for key in keys:
            with contextlib.suppress(StoreError):
                found[key] = self.in_force(key, overrides.get(key), self.from_table(key)).limits
        return found

    def ledger(self, now: int) -> Ledger:
        """An empty one, as of ``now`` (Unix second)."""
        ledger = Ledger(self.max_ids)
        ledger.advance(now)
        return ledger


def credible(entries: Iterable[Entry], now: int) -> Iterator[Entry]:
    """``entries``, dated no later than one that is counted ``now``, and no earlier than any clock."""
    for entry in entries:
        yield entry if 0 <= entry.date <= now + 1 else replace(entry, date=min(max(entry.date, 0), now + 1))


def _spellings(key: str, name: str | None = None) -> tuple[str, ...]:
    """The ids by which a table may know ``key``, which an administrator calls ``name``; the first known one counts."""
    of_key = id_of_key(key)
    if name is None:
        return (of_key,)
    given = name.removeprefix(key.partition(":")[0] + ":")
    return tuple(dict.fromkeys((canonical_id(given), of_key, given)))
