"""The storage of one daemon, with clocks that stand until they are moved."""

from __future__ import annotations

import collections
import contextlib
import json
import pathlib
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

from policyd_rate_limit.domain.charge import Demand
from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.contract import Store
from policyd_rate_limit.storage.engine.engine import Engine
from policyd_rate_limit.storage.engine.mailbox import Mailbox
from policyd_rate_limit.storage.record import Record
from policyd_rate_limit.storage.replica import Memory
from storage.stores import Clock, Database, demand, new_memory, usage
from support.wait import PATIENCE

LIMIT = 10


class Daemon:
    """An :class:`Engine` over a store of ``database``, opened."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        enforce: bool = True,
        journal_directory: pathlib.Path | None = None,
        journal_name: str = "db.sqlite3",
        former_journal_name: str = "",
        journal_size: int = 1 << 20,
        patience: float = 0.0,
        mailbox: Mailbox | None = None,
        signs: Callable[[], object] | None = None,
    ) -> None:
        self.monotonic = Clock(0.0)
        self.memory = new_memory(clock)
        self.store = database.store(clock, memory=self.memory)
        self.engine = Engine(
            self.store,
            self.memory,
            journal_directory=journal_directory or database.home,
            journal_name=journal_name,
            former_journal_name=former_journal_name,
            journal_size=journal_size,
            enforce=enforce,
            patience=patience,
            monotonic=self.monotonic,
            mailbox=mailbox,
            signs=signs,
        )
        self.charged: collections.Counter[str] = collections.Counter()
        self.engine.open()

    def ask(self, *demands: Demand) -> list[bool]:
        """Which of ``demands`` are admitted, empty while nobody decides; ``charged`` adds up what they cost."""
        with contextlib.suppress(StoreUnavailable):
            verdicts = self.engine.admit(demands)
            for asked, verdict in zip(demands, verdicts, strict=True):
                self.charged[asked.charges[0].counter] += sum(verdict.counted)
            return [verdict.admitted for verdict in verdicts]
        return []

    def used(self, key: str) -> int:
        """What lies in the window of ``key``, as the daemon knows it."""
        (used,) = self.memory.ledger.windows.usage(key, demand().charges[0].limits)
        return used

    def wait(self) -> None:
        """The time of the next try comes, and the database is tried.

        A try that has not ended may have begun before the database came back: it ends first.
        """
        self.probed()
        self.engine.maintain()
        self.monotonic.now += 10
        self.engine.maintain()
        self.probed()
        self.engine.maintain()

    def probed(self) -> None:
        probed(self.engine)

    def close(self) -> None:
        """The daemon ends in order."""
        self.engine.close()

    def die(self) -> None:
        die(self.store, self.engine)


def opened(store: Store, memory: Memory, directory: pathlib.Path, **options: Any) -> Engine:
    """What decides for a daemon over ``store``; its spool is in ``directory``, unless ``options`` say otherwise."""
    usual: dict[str, Any] = {
        "journal_directory": directory,
        "journal_name": "test",
        "journal_size": 1 << 20,
        "enforce": True,
        "patience": PATIENCE,
        "monotonic": time.monotonic,
    }
    engine = Engine(store, memory, **{**usual, **options})
    engine.open()
    return engine


def probed(engine: Engine) -> None:
    """Wait for the thread that probes the database to end, if there is one.

    Not by way of ``threading.enumerate()``: since Python 3.13 a thread that is no longer in it may still be alive.
    """
    engine._probe.join()


def die(store: Store, engine: Engine) -> None:
    """The process of a daemon is killed: the kernel closes what it had open."""
    store.close()
    engine._aside.close()
    for spool_file in engine._spool._held:
        spool_file.close()


def ask(daemon: Daemon, key: str, mails: int) -> int:
    """How many of ``mails`` mails, each in a batch of its own, are admitted within ``LIMIT``."""
    return sum(sum(daemon.ask(demand(key, LIMIT))) for _ in range(mails))


def found(database: Database, clock: Clock, *keys: str) -> list[int]:
    """What a daemon that starts now finds in the database for each of ``keys``."""
    store = database.store(clock)
    counts = usage(store, keys)
    store.close()
    return list(counts.values())


def spool_files(directory: pathlib.Path) -> list[str]:
    """The spool files in ``directory``."""
    return sorted(path.name for path in directory.glob("*.journal"))


def open_descriptors() -> list[str]:
    """What this process has open."""
    return sorted(path.name for path in pathlib.Path("/proc/self/fd").iterdir())


def write_former(path: pathlib.Path, records: list[Record], *, generation: int = 3, size: int = 1 << 16) -> bytes:
    """Write a spool file as the version before did; what is in it."""
    content = struct.pack("<8sQ", b"policyd1", generation)
    for one in records:
        text = f"{json.dumps(one[:-1])}\n{one.entries}".encode()
        content += struct.pack("<II", len(text), zlib.crc32(text, generation)) + text
    content = content.ljust(size, b"\0")
    path.write_bytes(content)
    return content
