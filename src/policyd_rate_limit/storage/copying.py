"""Copies one database into another: each count, override and hit once, however often that is done.

Both may be in use meanwhile. What a copy has brought is noted where it was brought to, so that the next one brings what
is new.

- **Counts** between two logs: the records themselves, under the writer and the number that they have. Everybody who
  reads a log heeds those once, and so does the copy.
- **Counts** where one of the two is Redis, which keeps no records: how much lies in each second of a counter is
  compared with what was brought of that second before; the difference is brought.
- **Overrides** that are new or were changed since the last copy, or have been revoked. One that was changed in the new
  database since then stays.
- **Hits** that are more than at the last copy.
- **The hit history** and **the audit trail**, under the number of the database that they come from: so it is known
  what was brought, also by way of another one, and what comes from the new database itself.

A database gets a random number at its first copy, by which the other one knows it; a restored backup has the same.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from policyd_rate_limit.errors import SystemRefusal
from policyd_rate_limit.storage.administration import HITS_AT_ONCE, Hits, longest_window
from policyd_rate_limit.storage.audit_entries import COPY_TO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from policyd_rate_limit.storage.administration import Actor, Administration, Override
    from policyd_rate_limit.storage.record import Record

SECONDS_AT_ONCE: Final = 500_000
"""The seconds with a count that are held in memory at a time: of more, as many parts are made as it takes."""

MOST_SKEW: Final = 5
"""Seconds that the clocks of the two may differ: with the other clock, counts leave their windows so much earlier."""

_IDENTITY: Final = "identity"
_OVERRIDE: Final = 0  # the "window" of notes about overrides; those about hits have that of the hits, below 0


What = int | str
"""Of which a copy compares how much there is: a second, or a value where different ones are counted."""


class Sums(NamedTuple):
    """What lies in the seconds of ``counter``: Unix second -> how much; or value -> second in which it came last.

    Of ``whole_since`` and later that is all there is, and so it is of ``reset`` and before: what was there is gone. Of
    the seconds between nothing is known but what ``amounts`` say.
    """

    counter: str
    amounts: Mapping[What, int]
    whole_since: int
    reset: int = 0


class Change(NamedTuple):
    """What is to be counted for ``counter`` at the second ``what`` (Unix): ``new`` in place of ``old``.

    Or the value ``what`` is to be there at the second ``new``, at ``old`` before; 0: it is not there.
    """

    counter: str
    what: What
    old: int
    new: int

    @property
    def date(self) -> int:
        """The second that it is about."""
        return (self.new or self.old) if isinstance(self.what, str) else self.what


class Copier(Protocol):
    """The counts of one database, as a copy reads and writes them. StoreError: it does not answer.

    As the source: ``records`` or, where there are none, ``sums``. As the target: ``begin``, then ``add_records`` or
    ``add_sums``. A database is known by its ``identity``. ``refused``: how many counters, or records, could not be
    read or written; the log says why.
    """

    refused: int

    def size(self) -> int:
        """How many seconds with a count :meth:`sums` would hold in memory, at the most."""

    def size_brought(self, source: int) -> int:
        """How many of those that came from ``source`` :meth:`begin` would."""

    def sums(self, target: int, takes: Callable[[str], bool]) -> Iterator[Sequence[Sums]]:
        """What lies in the counters that ``takes`` names, but not what a copy has brought from ``target``."""

    def begin(self, source: int, takes: Callable[[str], bool]) -> None:
        """What follows came from ``source``."""

    def add_sums(self, page: Sequence[Sums], keep: int) -> int:
        """Bring in what is not there yet, for windows of ``keep`` seconds at the least; how many seconds that were."""

    def nameless(self, counter: str) -> bool:
        """Whether ``counter`` cannot be brought in, since this database needs its whole name."""


class RecordCopier(Copier, Protocol):
    """Likewise, of a batch table."""

    def records(self) -> Iterator[Sequence[Record]]:
        """All of them, page by page, oldest first."""

    def add_records(self, page: Sequence[Record]) -> int:
        """Append those that are not there yet; how many entries that were."""


@dataclass
class Copied:
    """What a copy has done.

    ``counts``: entries, or seconds with a count, that were brought; ``history``: hits of the hit history; ``audit``:
    entries of the audit trail; ``skipped``: counters whose names nobody knows any
    more; ``refused``: counters or records that could not be read or written; ``kept``: keys whose override was left as
    it is in the new database.
    """

    counts: int = 0
    overrides: int = 0
    revoked: int = 0
    hits: int = 0
    history: int = 0
    audit: int = 0
    skipped: int = 0
    refused: int = 0
    kept: list[str] = field(default_factory=list)

    def amounts(self) -> dict[str, int]:
        """How much of each kind was brought."""
        return {
            "counts": self.counts,
            "overrides": self.overrides,
            "revoked": self.revoked,
            "hits": self.hits,
            "history": self.history,
            "audit": self.audit,
        }


def copy(
    source: Administration,
    target: Administration,
    copiers: tuple[Copier, Copier],
    by: Actor,
    source_name: str = "another database",
) -> Copied:
    """Bring into ``target`` what ``source`` holds; ``copiers`` know their counts.

    ``by`` asks for it, and is entered into the audit trail of ``target``, with ``source_name``.

    :raises StoreError: one of the two does not answer, or has no room; what was brought until then is there.
    :raises SystemRefusal: they are the same database, or their clocks differ by more than :data:`MOST_SKEW`.
    """
    now = source.now()
    skew = target.now() - now
    if abs(skew) > MOST_SKEW:
        raise SystemRefusal(
            f"the clock of the new database is {abs(skew)} s {'ahead of' if skew > 0 else 'behind'} that of the old one"
            f" (at most {MOST_SKEW} s): limits would not hold after the change; set the clocks first"
        )
    source_id, target_id = identity(source), identity(target)
    if source_id == target_id:
        raise SystemRefusal(
            "both configurations lead to the same database, or to one that was restored from a backup of the other"
        )
    copied = Copied()
    notes = target.copied()
    # First, so that nobody who is blocked sends through the new one, and counts are kept as long as overrides need.
    _copy_overrides(source, target, source_id, notes, copied)
    _copy_counts(*copiers, (source_id, target_id), _keep(source, target), copied)
    copied.refused = sum(copier.refused for copier in copiers)
    _copy_hits(source, target, source_id, notes, copied)
    _copy_trails(source, target, (source_id, target_id), copied)
    detail = ", ".join(f"{name} {number}" for name, number in copied.amounts().items())
    target.note(by, COPY_TO, f"from {source_name}", detail)
    return copied


def identity(store: Administration) -> int:
    """The number by which other databases know this one."""
    found = store.copied().get((_IDENTITY, 0))
    if found is None:
        # Exact in the doubles of Redis' scripts.
        store.add_hits([Hits(_IDENTITY, 0, random.getrandbits(50) + 1, store.now())])
        found = store.copied()[_IDENTITY, 0]
    return found


def changes(found: Sums, brought: Mapping[What, int]) -> list[Change]:
    """What is to be changed where ``brought`` of ``found`` is there already, oldest first."""
    changed = [
        Change(found.counter, what, brought.get(what, 0), amount)
        for what, amount in found.amounts.items()
        if amount != brought.get(what, 0)
    ]
    gone = [
        Change(found.counter, what, amount, 0)
        for what, amount in brought.items()
        if amount and what not in found.amounts
    ]
    changed += (one for one in gone if one.date >= found.whole_since or one.date <= found.reset)
    return sorted(changed, key=lambda change: (change.date, change))


def without_debts(amounts: Mapping[int, int]) -> dict[What, int]:
    """``amounts`` of seconds, where more may have been given back in a second than was counted in it: then it was taken
    from older ones, as :meth:`policyd_rate_limit.domain.windows.Windows.give_back` does.
    """
    found: dict[What, int] = {}
    debt = 0
    for date in sorted(amounts, reverse=True):
        left = amounts[date] - debt
        debt = max(0, -left)
        found[date] = max(0, left)
    return found


def _keep(source: Administration, target: Administration) -> int:
    """The longest window of an override, in seconds."""
    return longest_window((*source.overrides(), *target.overrides()))


def _copy_counts(source: Copier, target: Copier, identities: tuple[int, int], keep: int, copied: Copied) -> None:
    source_id, target_id = identities
    records = getattr(source, "records", None)
    add_records = getattr(target, "add_records", None)
    if records is not None and add_records is not None:
        target.begin(source_id, lambda _: False)
        for page in records():
            copied.counts += add_records(page)
        return
    parts = 1 + max(source.size(), target.size_brought(source_id)) // SECONDS_AT_ONCE
    for part in range(parts):

        def takes(counter: str, part: int = part) -> bool:
            return hash(counter) % parts == part

        target.begin(source_id, takes)
        for sums in source.sums(target_id, takes):
            known = [one for one in sums if not target.nameless(one.counter)]
            copied.skipped += len(sums) - len(known)
            copied.counts += target.add_sums(known, keep)


def _copy_overrides(
    source: Administration, target: Administration, source_id: int, notes: Mapping[tuple[str, int], int], copied: Copied
) -> None:
    now = target.now()
    there = {override.key: override for override in target.overrides()}
    here = {override.key: override for override in source.overrides()}
    for key, override in here.items():
        note, digest = _note(source_id, key), _digest_of(override)
        before = notes.get((note, _OVERRIDE), 0)
        if before == digest:
            continue
        if key not in there or _digest_of(there[key]) == before:
            target.set_override(override, None)
            copied.overrides += 1
        elif _digest_of(there[key]) != digest:
            copied.kept.append(key)
            continue
        target.add_hits([Hits(note, _OVERRIDE, digest - before, now)])
    for (note, kind), before in notes.items():
        number, _, key = note.partition(" ")
        if kind == _OVERRIDE and number == f"{source_id:x}" and before and key not in here:
            if key in there and _digest_of(there[key]) == before:
                target.remove_override(key, None)
                copied.revoked += 1
            target.add_hits([Hits(note, _OVERRIDE, -before, now)])


def _copy_hits(
    source: Administration, target: Administration, source_id: int, notes: Mapping[tuple[str, int], int], copied: Copied
) -> None:
    now = target.now()
    rows: list[Hits] = []
    seen: set[tuple[str, int]] = set()
    for key, seconds, hits, last in source.hits():
        note = _note(source_id, key)
        seen.add((note, -seconds))
        before = notes.get((note, -seconds), 0)
        # Fewer than before: the old database has had them reported since, and these are new.
        new = hits - before if hits >= before else hits
        if new:
            copied.hits += new
            # Side by side, so that they are counted in one step.
            rows += (Hits(key, seconds, new, last), Hits(note, -seconds, hits - before, now))
    for (note, kind), before in notes.items():
        if kind < 0 and before and (note, kind) not in seen and note.startswith(f"{source_id:x} "):
            rows.append(Hits(note, kind, -before, now))
    for first in range(0, len(rows), HITS_AT_ONCE - HITS_AT_ONCE % 2):
        target.add_hits(rows[first : first + HITS_AT_ONCE - HITS_AT_ONCE % 2])


def _copy_trails(source: Administration, target: Administration, identities: tuple[int, int], copied: Copied) -> None:
    source_id, target_id = identities
    for page in source.history_pages():
        # What the old database has from the new one is there.
        rows = [row._replace(origin=row.origin or source_id) for row in page if row.origin != target_id]
        copied.history += target.bring_history(rows)
    for entries in source.audit_pages():
        copied.audit += target.bring_audit(
            [entry._replace(origin=entry.origin or source_id) for entry in entries if entry.origin != target_id]
        )


def _note(source_id: int, key: str) -> str:
    return f"{source_id:x} {key}"


def _digest_of(override: Override) -> int:
    """A number that another override of the same key has not; never 0."""
    text = json.dumps([override.limits, override.until, override.note])
    return 1 + int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")
