"""The stores that the tests of the contract run on, and what those tests ask of them.

A database that joins is one more row of ``DATABASES`` in conftest.py.
"""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from policyd_rate_limit.domain.charge import Charge, Demand, Verdict
from policyd_rate_limit.domain.counting import digest
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.storage.contract import Store
from policyd_rate_limit.storage.log.sqlite.log import SqliteLog
from policyd_rate_limit.storage.log.store import LogStore
from policyd_rate_limit.storage.record import Record
from policyd_rate_limit.storage.replica import Memory

HOUR = 3600
START = 1_700_000_000.25  # in the middle of a second: a charge is dated at its end
PATIENCE = 10.0  # seconds that a store may wait for others, on a machine that is busy
MOST_IDS = 10_000


class Clock:
    """A clock (Unix seconds) that stands until it is set."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Database(Protocol):
    """An empty database for one test. It can be sent to another process."""

    home: pathlib.Path
    """A directory for the daemons of the test."""

    expires: bool
    """Counts vanish by themselves: --clean finds none to delete."""

    def store(
        self,
        clock: Callable[[], float],
        *,
        memory: Memory | None = None,
        longest: int = HOUR,
        counters_of_old_id: Callable[[str], Sequence[str]] = ...,
    ) -> Store:
        """A store of a daemon with this clock, over the memory that is given or one of its own."""

    def outage(self) -> contextlib.AbstractContextManager[None]:
        """Nobody reaches the database inside the ``with`` block; what is in it stays."""

    def usage(self, now: float) -> dict[str, int]:
        """What lies in the last hour for each counter, as an administrator reads it from the database."""


class PreparingStore(LogStore):
    """Decides as the daemon has it done: without waiting where that is possible."""

    def admit(self, demands: Sequence[Demand], pending: Sequence[Record], patience: float) -> list[Verdict]:
        batch = None if pending else self.prepare(demands, patience)
        if batch is None:
            return super().admit(demands, pending, patience)
        return list(batch.verdicts) if batch.is_done else batch.finish()


class SqliteDatabase:
    """A file ``db.sqlite3`` in an empty directory."""

    expires = False
    kind_of_store: type[LogStore] = PreparingStore

    def __init__(self, directory: pathlib.Path) -> None:
        self.home = directory
        self.path = directory / "db.sqlite3"

    def store(
        self,
        clock: Callable[[], float],
        *,
        memory: Memory | None = None,
        longest: int = HOUR,
        counters_of_old_id: Callable[[str], Sequence[str]] = lambda old_id: (f"user:{old_id}",),
    ) -> LogStore:
        return self.kind_of_store(
            lambda: SqliteLog(self.path, clock),
            memory or new_memory(clock),
            longest=longest,
            counters_of_old_id=counters_of_old_id,
        )

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Another program holds the lock."""
        with contextlib.closing(sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)) as other:
            other.execute("PRAGMA journal_mode=WAL")
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")

    def usage(self, now: float) -> dict[str, int]:
        with contextlib.closing(sqlite3.connect(self.path)) as reader:
            return dict(
                reader.execute(
                    "SELECT counter, sum(amount) FROM policyd_entry WHERE date > ? GROUP BY counter", (now - HOUR,)
                )
            )


class WaitingSqliteDatabase(SqliteDatabase):
    """The same, by a daemon that does all of it where it may wait."""

    kind_of_store = LogStore


def new_memory(clock: Callable[[], float]) -> Memory:
    """The empty memory of one daemon."""
    return Memory(Ledger(MOST_IDS), clock)


def demand(
    key: str = "user:a",
    maximum: int = 10,
    *,
    cost: int = 1,
    seconds: int = HOUR,
    mail: str = "",
    part: str = "",
    settles: bool = False,
) -> Demand:
    """A mail of ``cost`` recipients of one key with one limit."""
    return Demand((Charge(key, cost, (Limit(maximum, seconds),), part, settles),), mail)


PLACES = "places/distinct-client_address|user:a"
"""A counter of different values."""


def seen(
    value: str, maximum: int = 3, *others: Charge, key: str = PLACES, seconds: int = HOUR, mail: str = ""
) -> Demand:
    """A mail with ``value``, of which so many different ones may come; ``others`` are charges of other rules."""
    return Demand((Charge(key, 0, (Limit(maximum, seconds),), digest(value)), *others), mail)


def values_in(store: Store, *keys: str) -> list[int]:
    """How many different values lie in the last hour of each of ``keys``."""
    store.admit((), (), PATIENCE)  # so that it knows what others have counted
    usages = store.explain([seen("one more", 1, key=key) for key in keys or (PLACES,)])
    return [usage.used for (usage,) in usages]


def usage(
    store: Store, keys: Iterable[str], *, most: int = 30, seconds: int = HOUR, longest: int = HOUR
) -> dict[str, int]:
    """What lies in the window of each of ``keys``, up to ``most``; nothing is counted by asking.

    ``longest``: the longest window of these keys, which a store need not remember longer than it is asked for.
    """
    keys = list(keys)
    never = Charge("never", 1, (Limit(0, seconds),))
    probes = [
        Demand((Charge(key, 1, (Limit(maximum, seconds), Limit(2**53 - 1, longest))), never))
        for key in keys
        for maximum in range(1, most + 1)
    ]
    verdicts = store.admit(probes, (), PATIENCE)
    counts = dict.fromkeys(keys, 0)
    for probe, verdict in zip(probes, verdicts, strict=True):
        counts[probe.charges[0].counter] += len(verdict.exceeded) - 1
    return counts


def admitted(store: Store, *demands: Demand) -> list[bool]:
    """Which of ``demands``, asked in one batch, are admitted."""
    return [verdict.admitted for verdict in store.admit(demands, (), PATIENCE)]


def date_in(seconds: int = HOUR) -> int:
    """The date (Unix seconds) that will be in so many seconds."""
    return int(time.time()) + seconds


def in_memory() -> str | None:
    """A directory on no disk, where there is such a thing."""
    return "/dev/shm" if pathlib.Path("/dev/shm").is_dir() else None


def ask_for(database: Database, limit: int, batches: int, batch: int) -> int:
    """Another daemon: how many of its mails of one user are admitted."""
    store = database.store(time.time)
    total = 0
    for _ in range(batches):
        total += sum(admitted(store, *(demand("user:hot", limit) for _ in range(batch))))
    store.close()
    return total
