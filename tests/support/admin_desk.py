"""A desk whose store is in memory, for tests of what administrators see."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from policyd_rate_limit.admin.desk import Desk
from policyd_rate_limit.domain.counter import DEFAULT
from policyd_rate_limit.domain.counting import stages
from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.domain.limits import Limit, Limits
from policyd_rate_limit.policy import Rule
from policyd_rate_limit.storage.administration import (
    HOUR,
    Actor,
    AuditEntry,
    Hits,
    HourOfHits,
    OriginalEntry,
    OriginalHits,
    Override,
)
from policyd_rate_limit.storage.heartbeat import Heartbeat
from support.policies import subjects

NOW = 1_000_000
USUAL = (Limit(5, 60), Limit(8, 600))


class Store:
    """What lies in a store, as one in memory says it."""

    def __init__(self, entries: Sequence[Entry] = (), now: int = NOW) -> None:
        self.all = list(entries)
        self.time = now
        self.in_force: list[Override] = []
        self.counted: list[Hits] = []
        self.past: list[HourOfHits] = []
        self.beats: list[Heartbeat] | None = None

    def now(self) -> int:
        return self.time

    def entries(self, keys: Collection[str] | None, since: int) -> Iterator[Entry]:
        return (one for one in list(self.all) if one.date >= since and (keys is None or one.counter in keys))

    def follow(self, since: int) -> Iterator[Sequence[Entry]]:
        read = 0
        while True:
            page = self.all[read : read + 3]
            read += len(page)
            found = [entry for entry in page if entry.date >= since]
            if found or not page:  # an empty page: there is nothing more yet
                yield found

    def overrides(self) -> list[Override]:
        return [one for one in self.in_force if one.until > self.time]

    def hits(self) -> list[Hits]:
        return self.counted

    def reset(self, key: str, by: Actor, note: str = "") -> int:
        raise NotImplementedError

    def set_override(self, override: Override, by: Actor | None) -> None:
        raise NotImplementedError

    def remove_override(self, key: str, by: Actor | None, note: str = "") -> bool:
        raise NotImplementedError

    def replace_override(self, override: Override, seen: Override | None, by: Actor) -> bool:
        raise NotImplementedError

    def end_override(self, seen: Override, by: Actor, note: str = "") -> bool:
        raise NotImplementedError

    def add_hits(self, hits: Sequence[Hits]) -> None:
        raise NotImplementedError

    def copied(self) -> dict[tuple[str, int], int]:
        raise NotImplementedError

    def forget_hits(self, hits: Sequence[Hits]) -> None:
        raise NotImplementedError

    def hit_history(
        self, since: int, *, keys: Collection[str] | None = None, kinds: Collection[str] | None = None
    ) -> Iterator[HourOfHits]:
        for one in self.past:
            if one.hour + HOUR > since and (keys is None or one.key in keys) and (kinds is None or one.kind in kinds):
                yield one

    def find_queue_id(self, queue_id: str) -> Iterator[HourOfHits]:
        return (one for one in self.past if one.details.queue_id == queue_id)

    def audit(
        self, since: int = 0, *, most: int = 100, before: int | None = None, subjects: Collection[str] | None = None
    ) -> list[AuditEntry]:
        raise NotImplementedError

    def note(self, by: Actor, action: str, subject: str, detail: str = "", note: str = "") -> None:
        raise NotImplementedError

    def history_pages(self) -> Iterator[Sequence[OriginalHits]]:
        raise NotImplementedError

    def bring_history(self, page: Sequence[OriginalHits]) -> int:
        raise NotImplementedError

    def audit_pages(self) -> Iterator[Sequence[OriginalEntry]]:
        raise NotImplementedError

    def bring_audit(self, page: Sequence[OriginalEntry]) -> int:
        raise NotImplementedError

    def heartbeats(self) -> list[Heartbeat] | None:
        return self.beats

    def close(self) -> None:
        raise NotImplementedError


class Table:
    """The table of ``sql_limits_by_id``, and what was looked up there."""

    def __init__(self, **limits: Limits) -> None:
        self.limits = limits
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, ids: Sequence[str]) -> Limits | None:
        self.asked.append(tuple(ids))
        return next((self.limits[one] for one in ids if one in self.limits), None)


def desk(store: Store, table: Table | None = None, *, sender: bool = False, **by_id: Limits) -> Desk:
    everybody = subjects(
        USUAL,
        limits_by_id=by_id,
        limit_by_sender=sender,
        limit_by_ip=True,
        limited_networks=["0.0.0.0/0", "::/0"],
    )
    return Desk(store, everybody, [Rule(DEFAULT, everybody, stages(None))], longest=600, table=table, max_ids=1_000)


def charge(name: str, date: int = NOW, amount: int = 1, mail: str = "") -> Entry:
    return Entry(f"user:{name}", amount, date, mail, "")
