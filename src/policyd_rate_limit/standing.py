"""How ids stand: which limits are in force for whom, what lies in their windows, who sends most.

What commands show beside the running daemons. What is counted, and what a window is, is what the daemons say.
"""

from __future__ import annotations

import contextlib
import difflib
import heapq
import itertools
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.domain.charge import Charge, Demand, Usage
from policyd_rate_limit.domain.history import Bucket, buckets
from policyd_rate_limit.domain.identity import canonical_id, id_of_key
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.domain.limits import LARGEST, Limit, Limits
from policyd_rate_limit.errors import StoreError
from policyd_rate_limit.storage.administration import MayNotList, longest_window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import tzinfo

    from policyd_rate_limit.domain.charge import Entry
    from policyd_rate_limit.domain.history import Step
    from policyd_rate_limit.domain.identity import Rules
    from policyd_rate_limit.storage.administration import Administration, Hits, Override

MOST_LOOKUPS = 1_000
"""The most ids whose limits :class:`Senders` looks up in the table of ``sql_limits_by_id``: those who send most."""

MOST_COMPARED = 20_000
"""The most ids that :meth:`Desk.stranger` compares with a name, which takes a fraction of a second."""

MOST_READ = 500_000
"""The most entries that it reads for that, which takes a second or two."""

MOST_NEAREST = 3
"""The most of them that it tells."""

LOOKS_PER_LOOKUP = 30
"""How often :class:`Senders` looks before it has those limits looked up again."""

LEAST_ALIKE = 0.66  # of difflib's ratio: "bbo" and "bob" have 0.67

MOST_WATCHED = 1_024  # different limits that are kept ready


class InForce(NamedTuple):
    """The ``limits`` of a key and where they come from: ``override``, or the name of a setting."""

    limits: Limits
    source: str
    override: Override | None = None


class Standing(NamedTuple):
    """How a key stands. ``usages``: of each of its limits, for a mail to one recipient more."""

    key: str
    in_force: InForce
    usages: tuple[Usage, ...]
    hits: tuple[Hits, ...]


class Sender(NamedTuple):
    """One of those who send. ``mails``: what was counted in the window that was asked for."""

    key: str
    mails: int
    in_force: InForce
    usages: tuple[Usage, ...]

    @property
    def tightest(self) -> Usage | None:
        """The limit of which most is used up; None: there is none."""
        return max(self.usages, key=lambda usage: share(usage.used, usage.limit), default=None)


class Event(NamedTuple):
    """``amount`` was counted on ``key`` at ``date`` (Unix second), for the mail of ``instance`` where that is known.

    A negative amount was given back, of what was counted at ``date``.
    """

    date: int
    key: str
    amount: int
    instance: str


class History(NamedTuple):
    """What was counted for ``keys``: by minutes, hours or days, and the ``last`` of it, both oldest first."""

    keys: tuple[str, ...]
    buckets: list[Bucket]
    last: list[Event]


class Stranger(NamedTuple):
    """An id of which nothing is on record; ``nearest``: the keys of ids that are, and are written much like it."""

    keys: tuple[str, ...]
    nearest: tuple[str, ...]


class Counted(NamedTuple):
    """How much is on record in the last ``seconds``: ``entries``, of so many ``ids``."""

    seconds: int
    entries: int
    ids: int


def share(used: int, limit: Limit) -> float:
    """How much of ``limit`` is used up; 1 is all. One that lets nothing pass always is."""
    return used / limit.maximum if limit.maximum else 1.0


class Desk:
    """What a command has before it: ``store``, and the ``rules`` by which the daemons charge.

    ``longest`` is the longest window of the configuration (seconds). ``table`` gives the limits that
    ``sql_limits_by_id`` has for the first of some ids that it knows, None when it knows none of them; it is None where
    that is not set. ``max_ids`` bounds the memory.
    """

    def __init__(
        self,
        store: Administration,
        rules: Rules,
        *,
        longest: int,
        table: Callable[[Sequence[str]], Limits | None] | None,
        max_ids: int,
    ) -> None:
        self.store = store
        self.rules = rules
        self.table = table
        self.max_ids = max_ids
        self._longest = longest

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
        return InForce(*self.rules.limits_of_key(key))

    def limits(self, keys: Iterable[str]) -> dict[str, Limits]:
        """The limits of each of ``keys``, without those that the table of ``sql_limits_by_id`` gives no answer for."""
        overrides = self.overrides()
        found = {}
        for key in keys:
            with contextlib.suppress(StoreError):
                from_table = self.table(_spellings(key)) if self.table else None
                found[key] = self.in_force(key, overrides.get(key), from_table).limits
        return found

    def standings(self, name: str) -> list[Standing]:
        """How each of the keys stands that ``name`` stands for. Raises ValueError when it stands for none."""
        keys = self.rules.keys_of_id(name)
        overrides = self.overrides()
        all_hits = self.store.hits()
        in_force = {
            key: self.in_force(key, overrides.get(key), self.table(_spellings(key, name)) if self.table else None)
            for key in keys
        }
        now = self.store.now()
        ledger = self._ledger(now)
        longest = max((limit.seconds for one in in_force.values() for limit in one.limits), default=1)
        for entry in self.store.entries(keys, max(0, now - longest)):
            ledger.apply(_credible(entry, now))
        return [
            Standing(key, one, _usages(ledger, key, one.limits), tuple(hits for hits in all_hits if hits.key == key))
            for key, one in in_force.items()
        ]

    def history(self, name: str, step: Step, last: int, zone: tzinfo | None = None) -> History:
        """What was counted for ``name``, as far back as the store keeps it, and the ``last`` events of it.

        Raises ValueError when ``name`` stands for no key.
        """
        keys = self.rules.keys_of_id(name)
        now = self.store.now()
        ledger = self._ledger(now)
        newest: list[tuple[int, int, Event]] = []
        for number, found in enumerate(self.store.entries(keys, 0)):
            entry = _credible(found, now)
            if not entry.amount:
                continue  # what a reset means for daemons; what it gave back stands beside it
            ledger.apply(entry)
            event = Event(entry.date, entry.counter, entry.amount, entry.mail)
            heapq.heappush(newest, (event.date, number, event))
            if len(newest) > last:
                heapq.heappop(newest)
        charges = ((date, amount) for _, date, amount in ledger.windows.charges())
        return History(keys, buckets(charges, step, zone), [event for *_, event in sorted(newest)])

    def stranger(self, name: str, overrides: Mapping[str, Override] | None = None) -> Stranger | None:
        """Whether ``name`` may be a slip of the pen: neither the configuration nor the store knows any of its keys.

        As far back as the store keeps what was counted. ``overrides``: those that count for it, if not all in force.
        Raises ValueError when it stands for no key.
        """
        keys = self.rules.keys_of_id(name)
        if overrides is None:
            overrides = self.overrides()
        if any(self.in_force(key, overrides.get(key), None).source != "limits" for key in keys):
            return None
        if self.table is not None and any(self.table(_spellings(key, name)) is not None for key in keys):
            return None
        hits = {hit.key for hit in self.store.hits()}
        if hits & set(keys) or next(iter(self.store.entries(keys, 0)), None) is not None:
            return None
        known = {*hits, *overrides, *self.rules.named_keys()}
        with contextlib.suppress(MayNotList):
            for entry in itertools.islice(self.store.entries(None, 0), MOST_READ):
                known.add(entry.counter)
                if len(known) >= MOST_COMPARED:
                    break
        return Stranger(keys, _nearest(keys[0], known))

    def counted(self) -> Counted:
        """How much is on record in the longest window in use."""
        seconds = self.longest(self.overrides())
        ids: set[str] = set()
        entries = 0
        for entry in self.store.entries(None, max(0, self.store.now() - seconds)):
            entries += 1
            if len(ids) < self.max_ids:
                ids.add(entry.counter)
        return Counted(seconds, entries, len(ids))

    def _ledger(self, now: int) -> Ledger:
        ledger = Ledger(self.max_ids)
        ledger.advance(now)
        return ledger


class Senders:
    """All who send, followed from one look to the next.

    ``window`` (seconds) is the one whose mails are told.
    """

    def __init__(self, desk: Desk, window: int) -> None:
        self._desk = desk
        self.window = window
        self._longest = 0
        self._overrides: Mapping[str, Override] = {}
        self._from_table: dict[str, Limits | None] = {}
        self._looks = 0

    def look(self) -> int:
        """Read what is new; the time (Unix second, of the store) as of which :meth:`heaviest` then tells."""
        store = self._desk.store
        now = store.now()
        self._overrides = self._desk.overrides()
        longest = max(self.window, self._desk.longest(self._overrides))
        if longest > self._longest:
            self._begin(now, longest)
        self._ledger.advance(now)
        for page in self._pages:
            if not page:
                break
            for entry in page:
                self._ledger.apply(_credible(entry, now))
        self._ledger.windows.sweep(self._longest)
        if self._looks % LOOKS_PER_LOOKUP == 0:
            self._from_table.clear()
        self._looks += 1
        return now

    def heaviest(self, most: int, *, by_share: bool) -> list[Sender]:
        """The ``most`` that have used up the greatest share of a limit, else those with the most mails; those first."""
        if self._desk.table is not None:
            for _, _, key in heapq.nsmallest(MOST_LOOKUPS, self._ranks(by_share=False)):
                if key not in self._from_table:
                    self._from_table[key] = self._desk.table(_spellings(key))
        return [self._sender(key) for _, _, key in heapq.nsmallest(most, self._ranks(by_share=by_share))]

    def _begin(self, now: int, longest: int) -> None:
        """Read all of the ``longest`` window, in seconds."""
        self._longest = longest
        self._ledger = Ledger(self._desk.max_ids)
        self._pages = iter(self._desk.store.follow(max(0, now - longest)))
        # With the window that was asked for; and with the longest one, as the windows forget what no limit needs.
        self._watched = lru_cache(MOST_WATCHED)(
            lambda limits: (Limit(LARGEST, self.window), *limits, Limit(LARGEST, longest))
        )

    def _ranks(self, *, by_share: bool) -> Iterator[tuple[float, float, str]]:
        """All who send, such that the heaviest are the smallest."""
        for key in self._ledger.windows:
            mails, used_up = self._weight(key)
            if mails or used_up:
                yield (-used_up, -mails, key) if by_share else (-mails, -used_up, key)

    def _weight(self, key: str) -> tuple[int, float]:
        """The mails of ``key``, and the greatest share of a limit."""
        override = self._overrides.get(key)
        limits = self._desk.in_force(key, override, self._from_table.get(key)).limits
        outlook = self._ledger.windows.outlook(key, 1, self._watched(limits))
        shares = (share(used, limit) for limit, (used, _) in zip(limits, outlook[1:-1], strict=True))
        return outlook[0][0], max(shares, default=0.0)

    def _sender(self, key: str) -> Sender:
        in_force = self._desk.in_force(key, self._overrides.get(key), self._from_table.get(key))
        mails, *used, _ = self._ledger.windows.outlook(key, 1, self._watched(in_force.limits))
        usages = (Usage(key, limit, *one) for limit, one in zip(in_force.limits, used, strict=True))
        return Sender(key, mails[0], in_force, tuple(usages))


def _nearest(key: str, known: Iterable[str]) -> tuple[str, ...]:
    """Those of ``known`` whose names are much like that of ``key``, the most alike first."""
    by_name: dict[str, list[str]] = {}
    by_user: dict[str, list[str]] = {}  # for whoever leaves out the domain, or gives one too many
    for other in sorted(known):
        name = id_of_key(other)
        by_name.setdefault(name, []).append(other)
        by_user.setdefault(name.partition("@")[0], []).append(other)
    name = id_of_key(key)
    alike = [
        other
        for found, wanted in ((by_name, name), (by_user, name.partition("@")[0]))
        for one in difflib.get_close_matches(wanted, found, MOST_NEAREST, LEAST_ALIKE)
        for other in found[one]
    ]
    return tuple(dict.fromkeys(alike))[:MOST_NEAREST]


def _usages(ledger: Ledger, key: str, limits: Limits) -> tuple[Usage, ...]:
    return ledger.explain(Demand((Charge(key, 1, limits),)))


def _credible(entry: Entry, now: int) -> Entry:
    """``entry``, dated no later than one that is counted ``now``, and no earlier than any clock."""
    return entry if 0 <= entry.date <= now + 1 else replace(entry, date=min(max(entry.date, 0), now + 1))


def _spellings(key: str, name: str | None = None) -> tuple[str, ...]:
    """The ids by which a table may know ``key``, which an administrator calls ``name``; the first known one counts."""
    of_key = id_of_key(key)
    if name is None:
        return (of_key,)
    given = name.removeprefix(key.partition(":")[0] + ":")
    return tuple(dict.fromkeys((canonical_id(given), of_key, given)))
