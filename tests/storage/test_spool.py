"""What waits, where the spool fails at one point or another."""

from __future__ import annotations

import errno
import logging
import pathlib
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.domain.charge import Charge
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.storage.engine.backlog import _most_bytes
from policyd_rate_limit.storage.engine.spool import Spool
from policyd_rate_limit.storage.engine.spool_file import SpoolFile, waiting
from policyd_rate_limit.storage.record import OVERHEAD
from storage.daemon import LIMIT, Daemon, ask, found, open_descriptors, spool_files
from storage.logs import record
from storage.stores import HOUR, Clock, SqliteDatabase, new_memory
from support.demands import demand_of

EIO = OSError(5, "Input/output error")


def test_a_directory_that_cannot_be_read_holds_nobody_up(
    sqlite: SqliteDatabase, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """What is in it waits for the next start."""
    with mock.patch.object(pathlib.Path, "iterdir", side_effect=EIO):
        daemon = Daemon(sqlite, clock)
    assert ask(daemon, "user:a", 1) == 1
    assert [entry.levelno for entry in caplog.records] == [logging.WARNING]
    assert "Input/output error" in caplog.text
    daemon.close()


def test_a_spool_file_that_cannot_take_what_waits_is_not_left(sqlite: SqliteDatabase, clock: Clock) -> None:
    """Nor are its descriptors; what waits is in memory, and in the next spool file that can be written."""
    directory = sqlite.home / "journals"
    directory.write_text("in the way")
    daemon = Daemon(sqlite, clock, journal_directory=directory)
    daemon.ask()
    with sqlite.outage():
        assert ask(daemon, "user:a", 3) == 3
        directory.unlink()
        before = open_descriptors()
        with mock.patch.object(SpoolFile, "extend", side_effect=EIO):
            daemon.engine.maintain()
        assert spool_files(directory) == []
        assert open_descriptors() == before
        daemon.wait()
        daemon.die()
        daemon = Daemon(sqlite, clock, journal_directory=directory)
        assert daemon.used("user:a") == 3
    daemon.wait()
    daemon.close()
    assert found(sqlite, clock, "user:a") == [3]


def test_what_waits_in_memory_is_kept_in_a_spool_file_that_was_left(sqlite: SqliteDatabase, clock: Clock) -> None:
    """As soon as the own one has failed: whoever dies then has lost nothing."""
    with sqlite.outage():
        earlier = Daemon(sqlite, clock), Daemon(sqlite, clock)
        for daemon in earlier:
            assert ask(daemon, "user:a", 2) == 2
        for daemon in earlier:
            daemon.die()
        daemon = Daemon(sqlite, clock)
        with mock.patch("policyd_rate_limit.storage.engine.spool_file._write_at", side_effect=EIO):
            assert ask(daemon, "user:a", 1) == 1
        daemon.engine.maintain()
        assert len(spool_files(sqlite.home)) == 2
        daemon.die()
        daemon = Daemon(sqlite, clock)
        assert daemon.used("user:a") == 5
    daemon.wait()
    daemon.close()
    assert found(sqlite, clock, "user:a") == [5]


def test_a_daemon_that_ends_while_the_database_is_away_loses_nothing(sqlite: SqliteDatabase, clock: Clock) -> None:
    """Neither what it has kept itself nor what it has adopted, in whichever files that is."""
    with sqlite.outage():
        earlier = Daemon(sqlite, clock), Daemon(sqlite, clock)
        for daemon, key in zip(earlier, ("user:a", "user:b"), strict=True):
            assert ask(daemon, key, 2) == 2
        for daemon in earlier:
            daemon.close()
        daemon = Daemon(sqlite, clock)
        assert ask(daemon, "user:c", 1) == 1
        daemon.close()
    daemon = Daemon(sqlite, clock)
    daemon.wait()
    daemon.close()
    assert found(sqlite, clock, "user:a", "user:b", "user:c") == [2, 2, 1]
    assert spool_files(sqlite.home) == []


def test_what_could_be_kept_nowhere_is_said_to_be_lost(
    sqlite: SqliteDatabase, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the daemon ends before the database is back."""
    directory = sqlite.home / "journals"
    directory.write_text("in the way")
    daemon = Daemon(sqlite, clock, journal_directory=directory)
    daemon.ask()
    with sqlite.outage():
        assert ask(daemon, "user:a", 2) == 2
        daemon.close()
    assert caplog.messages[-1] == "lost, since no spool file could be written: 2 batches"


def test_a_spool_file_that_cannot_be_emptied_is_removed(
    sqlite: SqliteDatabase, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """All that was in it is in the database; another one takes its place."""
    daemon = Daemon(sqlite, clock)
    daemon.ask()
    with sqlite.outage():
        assert ask(daemon, "user:a", 3) == 3
    with mock.patch.object(SpoolFile, "clear", side_effect=EIO):
        daemon.wait()
    assert daemon.engine.waiting == daemon.engine.waiting_bytes == 0
    assert "no spool file in" in caplog.text
    daemon.wait()
    with sqlite.outage():
        assert ask(daemon, "user:a", 1) == 1
        assert len(spool_files(sqlite.home)) == 1
    daemon.wait()
    daemon.close()
    assert found(sqlite, clock, "user:a") == [4]


def test_a_spool_file_is_empty_again_after_an_outage(sqlite: SqliteDatabase, clock: Clock) -> None:
    """As often as there is one: it is never full of what is in the database."""
    daemon = Daemon(sqlite, clock, journal_size=4096)
    daemon.ask()
    for number in range(20):
        with sqlite.outage():
            assert ask(daemon, f"user:{number}", LIMIT) == LIMIT
            assert daemon.engine.waiting == LIMIT
            assert daemon.engine.waiting_bytes > LIMIT * len("user:0")
        daemon.wait()
        assert daemon.engine.waiting == daemon.engine.waiting_bytes == 0
    daemon.close()


def test_a_probe_that_fails_as_nobody_foresaw(
    sqlite: SqliteDatabase, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said with where it happened; memory decides, and the database is retried."""
    daemon = Daemon(sqlite, clock)
    daemon.ask()
    with sqlite.outage():
        assert ask(daemon, "user:a", 1) == 1
    with mock.patch.object(daemon.store, "probe", side_effect=ZeroDivisionError):
        daemon.wait()
        daemon.wait()
        assert ask(daemon, "user:a", 2) == 2
        assert daemon.engine.waiting == 3
    assert any(entry.exc_info for entry in caplog.records)
    daemon.wait()
    assert daemon.engine.waiting == 0
    assert found(sqlite, clock, "user:a") == [3]
    daemon.close()


OURS, THEIRS = "a" * 32, "b" * 32


def left_behind(directory: pathlib.Path, installation: str = "") -> None:
    """A small spool file of a daemon that died, with a record."""
    spool_file = SpoolFile.create(directory, "db", 4096, installation)
    spool_file.append(record(1, 1_700_000_000))
    spool_file.close()


def test_a_spool_file_that_could_not_be_claimed_is_written_to_no_more(tmp_path: pathlib.Path) -> None:
    spool = Spool(tmp_path, "db", 1 << 16)
    assert spool.open("")
    with mock.patch.object(SpoolFile, "claim", side_effect=EIO):
        spool.claim(OURS)
    assert spool.open(OURS)
    spool.keep(record(1, 1_700_000_000))
    spool.close(keeps_file=False)
    assert spool_files(tmp_path) == ["db-1.journal"]


def test_what_was_left_stays_where_it_is_beside_a_new_spool_file(tmp_path: pathlib.Path) -> None:
    """Written twice it would take room from what comes."""
    left_behind(tmp_path)
    spool = Spool(tmp_path, "db", 1 << 16)
    assert spool.adopt("") == [record(1, 1_700_000_000)]
    assert spool.open("")
    spool.keep(record(2, 1_700_000_000))
    spool.close(keeps_file=False)
    assert [records for _, records in waiting(tmp_path, "db")] == [
        [record(1, 1_700_000_000)],
        [record(2, 1_700_000_000)],
    ]


def left_with(directory: pathlib.Path, size: int, room: int) -> int:
    """A spool file that was left, of ``size`` bytes, with records until less than ``room`` is left; their number."""
    spool_file = SpoolFile.create(directory, "db", size, OURS)
    number = 0
    while spool_file.room >= room:
        number += 1
        spool_file.append(record(number, 1_700_000_000, writer=size))
    spool_file.close()
    return number


def test_a_spool_file_that_was_left_full_is_not_written_to(tmp_path: pathlib.Path) -> None:
    """There is room on the disk for a new one: whoever took the full one would admit nobody."""
    most = left_with(tmp_path, 2048, OVERHEAD)
    spool = Spool(tmp_path, "db", 2048)
    assert len(spool.adopt(OURS)) == most
    assert spool.open(OURS)
    assert spool.room >= OVERHEAD
    spool.keep(record(1, 1_700_000_000))
    spool.close(keeps_file=False)
    assert [len(records) for _, records in waiting(tmp_path, "db")] == [most, 1]


def test_of_what_was_left_the_spool_file_with_the_most_room_is_written_to(tmp_path: pathlib.Path) -> None:
    """The disk is full: whatever room there is lasts longest there."""
    for size in (4096, 8192, 6144):
        left_with(tmp_path, size, size - 500)
    spool = Spool(tmp_path, "db", 1 << 16)
    with mock.patch.object(SpoolFile, "create", side_effect=OSError(errno.ENOSPC, "No space left on device")):
        assert spool.adopt(OURS)
        assert spool.open(OURS)
    assert spool.room > 6144
    spool.close(keeps_file=False)


def test_what_is_of_another_database_is_said_once(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    """However often it is found while it is not known which database is ours."""
    left_behind(tmp_path, THEIRS)
    spool = Spool(tmp_path, "db", 1 << 16)
    for _ in range(2):
        assert len(spool.adopt("")) == 1
        assert spool.sort_out(OURS)
    assert caplog.text.count("for another database") == 1
    assert spool_files(tmp_path) == ["db-0.journal"]


text = st.text(max_size=40)


@given(st.lists(st.tuples(text, text, text, st.integers(1, 10**6)), min_size=1, max_size=8))
def test_a_record_is_never_longer_than_it_may_become(
    tmp_path_factory: pytest.TempPathFactory, mails: list[tuple[str, str, str, int]]
) -> None:
    """What is asked before it is decided: so much room is needed, whatever is in the names."""
    demands = [demand_of((Charge(key, cost, (Limit(10**9, HOUR),)),), mail, part) for key, mail, part, cost in mails]
    memory = new_memory(Clock())
    memory.advance()
    _, decided = memory.decide(demands)
    assert decided is not None
    spool_file = SpoolFile.create(tmp_path_factory.mktemp("journal"), "db", 1 << 16)
    before = spool_file.room
    spool_file.append(decided)
    taken = before - spool_file.room
    spool_file.remove()
    assert taken <= _most_bytes(demands)
