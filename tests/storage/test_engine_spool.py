"""While the database is away, and the spool is full, cannot be written or read, or is gone."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
from collections.abc import Callable, Sequence
from unittest import mock

import pytest

from policyd_rate_limit.domain.charge import Demand, Usage, Verdict
from policyd_rate_limit.domain.limits import Limits
from policyd_rate_limit.errors import StoreFull
from policyd_rate_limit.storage.administration import Hits, HourOfHits, Override
from policyd_rate_limit.storage.contract import CommitFailed
from policyd_rate_limit.storage.engine.spool_file import SpoolFile
from policyd_rate_limit.storage.heartbeat import Introduction
from policyd_rate_limit.storage.record import Record
from storage.daemon import LIMIT, Daemon, ask, found, spool_files
from storage.stores import HOUR, Clock, Database, SqliteDatabase, demand, usage
from support.outages import small_disk

NAME = "db.sqlite3"


def ask_until_full(daemon: Daemon) -> int:
    """How many mails of different users are admitted until the spool is full."""
    admitted = 0
    for number in range(1000):
        try:
            admitted += sum(daemon.ask(demand(f"user:{number}", 1000)))
        except StoreFull:
            return admitted
    raise AssertionError("never full")


def test_nothing_is_admitted_beyond_the_spool_file(
    database: Database, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is full once, said once, and what is in it survives; with the database everything goes on."""
    daemon = Daemon(database, clock, journal_size=4096)
    daemon.ask()
    with database.outage():
        kept = ask_until_full(daemon)
        for number in range(100):
            with pytest.raises(StoreFull):
                daemon.ask(demand(f"user:{number}"))
        assert 5 < kept < 100
        daemon.wait()
        with pytest.raises(StoreFull):
            daemon.ask(demand("user:x"))
        daemon.die()
        daemon = Daemon(database, clock, journal_size=4096)
        kept += ask_until_full(daemon)
    daemon.wait()
    keys = [f"user:{number}" for number in range(100)]
    assert sum(found(database, clock, *keys)) == kept
    assert daemon.ask(demand("user:x")) == [True]
    daemon.close()
    assert sum("full" in record.message for record in caplog.records) == 2


class CommitsThatFail:
    """A store that counts, and then cannot say whether it is stored."""

    def __init__(self, daemon: Daemon) -> None:
        self.memory = daemon.memory
        self.installation = daemon.store.installation
        self.reloads = 0

    def propose(self, installation: str) -> None:
        """It has one."""

    def prepare(self, demands: Sequence[Demand], patience: float) -> None:
        """Always in the thread."""

    def admit(self, demands: Sequence[Demand], pending: Sequence[Record], patience: float) -> list[Verdict]:
        """Decide, and fail."""
        self.memory.advance()
        verdicts, record = self.memory.decide(demands)
        raise CommitFailed("disk full", verdicts, record)

    def explain(self, demands: Sequence[Demand]) -> list[tuple[Usage, ...]]:
        """Nobody asks."""
        raise AssertionError

    def need(self, seconds: int) -> None:
        """Nobody asks."""
        raise AssertionError

    def look_back(self, seconds: int) -> None:
        """Nobody asks."""
        raise AssertionError

    def add_hits(self, hits: Sequence[Hits]) -> None:
        """Likewise."""
        raise AssertionError

    def add_history(self, rows: Sequence[HourOfHits]) -> None:
        """Likewise."""
        raise AssertionError

    def clean_trails(self) -> bool:
        """Likewise."""
        raise AssertionError

    def beat(self, who: Introduction, uptime: int, waiting: int) -> None:
        raise NotImplementedError

    def leave(self) -> None:
        raise NotImplementedError

    def block(self, blocks: Sequence[Override]) -> int:
        """Likewise."""
        raise AssertionError

    def overrides(self) -> list[Override] | None:
        """Likewise."""
        raise AssertionError

    @property
    def reach(self) -> int:
        """An hour."""
        return HOUR

    def offer(self, records: Sequence[Record], patience: float) -> None:
        """Nothing was refused."""
        raise AssertionError

    def clean(self, patience: float, limits_of: Callable[[str], Limits | None] | None = None) -> int:
        """A daemon does not."""
        raise AssertionError

    def probe(self, patience: float) -> None:
        """It is there, as far as anybody can see."""

    def reload(self) -> None:
        """Count the calls."""
        self.reloads += 1

    def maintain(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def test_failing_commits_fill_the_spool_file_and_lose_nothing(sqlite: SqliteDatabase, clock: Clock) -> None:
    """A disk that is full lets transactions begin: each try decides, and what does not fit into the spool is not
    admitted, and does not cost what is in it."""
    daemon = Daemon(sqlite, clock, journal_size=4096)
    daemon.ask()
    store = daemon.store
    daemon.engine._store = failing = CommitsThatFail(daemon)
    kept = 0
    for number in range(60):
        with contextlib.suppress(StoreFull):
            kept += sum(daemon.ask(demand(f"user:{number}")))
        daemon.monotonic.now += 10
        daemon.probed()
    assert 5 < kept < 60
    assert len(in_journal(daemon)) == kept
    assert failing.reloads > 0
    daemon.engine._store = store
    store.reload()
    daemon.wait()
    keys = [f"user:{number}" for number in range(60)]
    assert sum(found(sqlite, clock, *keys)) == kept == sum(usage(daemon.store, keys).values())
    daemon.close()


def in_journal(daemon: Daemon) -> list[Record]:
    """What is in the spool of ``daemon``."""
    file = daemon.engine._spool._file
    assert file is not None
    with contextlib.closing(SpoolFile(file.path, os.open(file.path, os.O_RDONLY), file.size)) as reader:
        return reader.read()


def test_giving_back_many_charges_at_once_does_not_cost_the_spool_file(sqlite: SqliteDatabase, clock: Clock) -> None:
    """One small demand that settles a mail makes as many entries as the mail had recipients."""
    daemon = Daemon(sqlite, clock, journal_size=6000)
    daemon.ask(*(demand("user:a", 1000, mail="m" * 60, part=f"{part:016}") for part in range(100)))
    with sqlite.outage():
        assert ask(daemon, "user:b", 3) == 3
        with pytest.raises(StoreFull):
            daemon.ask(demand("user:a", 1000, mail="m" * 60, settles=True, cost=1))
        with pytest.raises(StoreFull):
            daemon.ask(demand("user:c"))
        daemon.die()
        daemon = Daemon(sqlite, clock, journal_size=6000)
        assert daemon.used("user:b") == 3
    daemon.wait()
    store = sqlite.store(clock)
    assert usage(store, ["user:a", "user:b"], most=200) == {"user:a": 100, "user:b": 3}
    store.close()
    daemon.close()


def test_without_a_spool_file_memory_keeps_the_records(
    sqlite: SqliteDatabase, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """That is said once, and made up for as soon as a spool file can be written."""
    directory = sqlite.home / "journals"
    directory.write_text("in the way")
    daemon = Daemon(sqlite, clock, journal_directory=directory)
    daemon.ask()
    with sqlite.outage():
        assert ask(daemon, "user:a", 4) == 4
        daemon.wait()
        daemon.wait()
        assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR]
        directory.unlink()
        daemon.wait()
        assert ask(daemon, "user:a", 1) == 1
        daemon.die()
        daemon = Daemon(sqlite, clock, journal_directory=directory)
        assert daemon.used("user:a") == 5
    daemon.wait()
    assert found(sqlite, clock, "user:a") == [5]
    daemon.close()


def test_a_spool_file_that_somebody_removes_is_rebuilt(sqlite: SqliteDatabase, clock: Clock) -> None:
    """With all that was in it, before the next answer."""
    directory = sqlite.home / "journals"
    daemon = Daemon(sqlite, clock, journal_directory=directory)
    daemon.ask()
    with sqlite.outage():
        assert ask(daemon, "user:a", 3) == 3
        (directory / f"{NAME}-0.journal").unlink()
        directory.rmdir()
        assert ask(daemon, "user:a", 1) == 1
        daemon.die()
        daemon = Daemon(sqlite, clock, journal_directory=directory)
        assert daemon.used("user:a") == 4
        daemon.close()


def test_a_spool_file_that_cannot_be_written_keeps_what_it_has(sqlite: SqliteDatabase, clock: Clock) -> None:
    """Until the database has it; the spool that takes its place holds it as well, and it counts once."""
    daemon = Daemon(sqlite, clock)
    daemon.ask()
    with sqlite.outage():
        assert ask(daemon, "user:a", 3) == 3
        with mock.patch("os.fdatasync", side_effect=OSError(5, "Input/output error")):
            assert ask(daemon, "user:a", 1) == 1
            for _ in range(3):
                daemon.engine.maintain()
            assert len(spool_files(sqlite.home)) == 1
        for _ in range(3):
            daemon.engine.maintain()
        assert len(spool_files(sqlite.home)) == 2
        assert ask(daemon, "user:a", 1) == 1
        daemon.die()
        daemon = Daemon(sqlite, clock)
        assert daemon.used("user:a") == 5
    daemon.wait()
    assert found(sqlite, clock, "user:a") == [5]
    daemon.close()
    assert spool_files(sqlite.home) == []


def test_a_spool_file_that_cannot_be_read_is_left_for_later(
    sqlite: SqliteDatabase, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is broken holds up neither the others nor the daemon."""
    with sqlite.outage():
        first, second = Daemon(sqlite, clock), Daemon(sqlite, clock)
        assert [ask(first, "user:a", 3), ask(second, "user:b", 2)] == [3, 2]
        first.die()
        second.die()
    real = os.pread
    broken = (sqlite.home / f"{NAME}-0.journal").stat().st_ino

    def pread(descriptor: int, length: int, at: int) -> bytes:
        if os.fstat(descriptor).st_ino == broken:
            raise OSError(5, "Input/output error")
        return real(descriptor, length, at)

    with mock.patch("os.pread", pread):
        daemon = Daemon(sqlite, clock)
        daemon.wait()
        daemon.close()
    assert found(sqlite, clock, "user:a", "user:b") == [0, 2]
    assert spool_files(sqlite.home) == [f"{NAME}-0.journal"]
    assert "cannot be read" in caplog.text
    daemon = Daemon(sqlite, clock)
    daemon.wait()
    daemon.close()
    assert found(sqlite, clock, "user:a", "user:b") == [3, 2]
    assert spool_files(sqlite.home) == []


@pytest.mark.needs_root
def test_a_full_disk(tmp_path: pathlib.Path, clock: Clock) -> None:
    """The spool was there before: neither the database nor the spool loses anything, and the limit is exact."""
    with small_disk(tmp_path) as disk:
        database = SqliteDatabase(disk)
        daemon = Daemon(database, clock, journal_size=1 << 18)
        assert ask(daemon, "user:a", 3) == 3
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        keys = [f"user:{number}-{'x' * 200}" for number in range(50)]
        for key in keys:
            assert ask(daemon, key, 1) == 1
            daemon.wait()
        assert ask(daemon, "user:a", LIMIT) == LIMIT - 3
        daemon.die()
        daemon = Daemon(database, clock, journal_size=1 << 18)
        assert ask(daemon, keys[0], LIMIT) == LIMIT - 1
        filler.unlink()
        daemon.wait()
        assert found(database, clock, "user:a", *keys) == [LIMIT, LIMIT, *[1] * 49]
        daemon.close()


@pytest.mark.needs_root
def test_a_small_disk_gets_a_small_spool_file(tmp_path: pathlib.Path, clock: Clock) -> None:
    """A quarter of what is free at most: the database needs the rest."""
    with small_disk(tmp_path) as disk:
        daemon = Daemon(SqliteDatabase(disk), clock, journal_size=1 << 30)
        assert 0 < (disk / f"{NAME}-0.journal").stat().st_size <= 1 << 20
        assert ask(daemon, "user:a", 3) == 3
        daemon.close()
