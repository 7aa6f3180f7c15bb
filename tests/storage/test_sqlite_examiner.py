"""Damage to an SQLite file is found while a daemon still knows what was in it; what is no damage is left alone."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sqlite3
from collections.abc import Callable

import pytest

from policyd_rate_limit.storage.log.sqlite import examiner as sqlite_examiner
from policyd_rate_limit.storage.log.sqlite.checkpoint import CHECKPOINT_BYTES, Checkpointer
from policyd_rate_limit.storage.log.sqlite.examiner import Examiner
from storage.daemon import LIMIT, Daemon, ask, found
from storage.stores import Clock, SqliteDatabase, admitted, demand
from support.wait import wait_until

PAGE = 4096


@pytest.fixture
def filled(sqlite: SqliteDatabase, clock: Clock) -> SqliteDatabase:
    """Some hundred rows, all of them in the file."""
    with contextlib.closing(sqlite.store(clock)) as store:
        for number in range(200):
            admitted(store, demand(f"user:{number}-{'x' * 400}", LIMIT))
    return sqlite


def write_at(path: pathlib.Path, at: int, content: bytes) -> None:
    """Write over a part of the file."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def text_of_a_row(path: pathlib.Path) -> None:
    """Some bytes within the entries of one row, so that all pages are sound."""
    write_at(path, path.read_bytes().index(b"user:77-") + 8, bytes(30))


def a_page(path: pathlib.Path) -> None:
    """One in the middle."""
    write_at(path, path.stat().st_size // 2 // PAGE * PAGE, os.urandom(PAGE))


def the_first_page(path: pathlib.Path) -> None:
    """All of it."""
    write_at(path, 0, bytes(PAGE))


@pytest.mark.parametrize("harm", [text_of_a_row, a_page, the_first_page])
def test_what_was_overwritten_is_found(filled: SqliteDatabase, harm: Callable[[pathlib.Path], None]) -> None:
    examiner = Examiner(filled.path)
    examiner.examine(200)
    assert (examiner.damage, examiner.has_lost_rows) == ("", False)
    harm(filled.path)
    examiner.examine(200)
    assert examiner.damage


def test_rows_that_are_gone_are_found(filled: SqliteDatabase) -> None:
    examiner = Examiner(filled.path)
    with contextlib.closing(sqlite3.connect(filled.path)) as other, other:
        other.execute("DELETE FROM policyd_batch WHERE seq > 150")
    for look in (examiner.glance, examiner.examine):
        examiner.has_lost_rows = False
        look(200)
        assert (examiner.damage, examiner.has_lost_rows) == ("", True)
        look(150)
        assert not examiner.has_lost_rows


def test_a_row_that_was_odd_before_is_no_damage(filled: SqliteDatabase) -> None:
    with contextlib.closing(sqlite3.connect(filled.path)) as other, other:
        other.execute("UPDATE policyd_batch SET entries = '[[' WHERE seq = 3")
    examiner = Examiner(filled.path)
    for _ in range(2):
        examiner.examine(200)
        assert examiner.damage == ""
    text_of_a_row(filled.path)
    examiner.examine(200)
    assert examiner.damage == "1 row of policyd_batch was overwritten"


def test_what_is_not_there_is_not_made(tmp_path: pathlib.Path) -> None:
    """The store finds out by itself."""
    examiner = Examiner(tmp_path / "db.sqlite3")
    examiner.glance(1)
    examiner.examine(1)
    examiner.look(1)
    examiner.stop()
    assert examiner.damage == ""
    assert list(tmp_path.iterdir()) == []


def looked(examiner: Examiner) -> bool:
    """Whether a look has led to an examination."""
    examiner.look(1)
    has_begun = examiner._thread is not None
    examiner.stop()
    examiner._stopped = False
    return has_begun


def test_it_is_examined_where_there_is_a_reason(filled: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else has written to it, and not if that was our own doing; and never more than a share of the time."""
    monkeypatch.setattr(sqlite_examiner, "SOON", 0.0)
    monkeypatch.setattr(sqlite_examiner, "SHARE_SOON", 0)
    monkeypatch.setattr(sqlite_examiner, "SHARE_UNSURE", 1 << 40)
    examiner = Examiner(filled.path)
    examiner._took = 1.0
    examiner.explain()
    assert not looked(examiner)
    os.utime(filled.path)
    assert looked(examiner)
    assert not looked(examiner)
    os.utime(filled.path)
    examiner.explain()
    assert not looked(examiner)
    os.utime(filled.path)
    monkeypatch.setattr(sqlite_examiner, "SOON", 1_000.0)
    assert not looked(examiner)


def test_it_is_examined_now_and_then_where_it_grows(
    sqlite: SqliteDatabase, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any reason: as often as something was committed meanwhile, and no oftener."""
    monkeypatch.setattr(sqlite_examiner, "LATER", 0.0)
    monkeypatch.setattr(sqlite_examiner, "SHARE_LATER", 0)
    with contextlib.closing(sqlite.store(clock)) as store:
        admitted(store, demand("user:a"))
        examiner = Examiner(sqlite.path)
        examiner.explain()
        examiner._suspect_cuts()
        examiner._has_reason = False
        assert looked(examiner)
        assert not looked(examiner)
        admitted(store, demand("user:a"))
        assert looked(examiner)


def test_a_write_of_somebody_else_is_noticed_though_a_checkpoint_follows(
    filled: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is our own doing, and changes the file as well."""
    monkeypatch.setattr(sqlite_examiner, "SOON", 0.0)
    monkeypatch.setattr(sqlite_examiner, "SHARE_SOON", 0)
    examiner = Examiner(filled.path)
    checkpointer = Checkpointer(filled.path, examiner)
    for is_touched in (False, True):
        examiner.explain()
        if is_touched:
            os.utime(filled.path, (1, 1))
        checkpointer.written(CHECKPOINT_BYTES)
        wait_until(checkpointer.has_ended, "a checkpoint has ended")
        assert looked(examiner) == is_touched
    checkpointer.stop()


def test_what_is_overwritten_in_the_middle_of_a_checkpoint_is_noticed(
    filled: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks like the checkpoint, so that each is followed by an examination; for a share of the time as well."""
    monkeypatch.setattr(sqlite_examiner, "SOON", 0.0)
    monkeypatch.setattr(sqlite_examiner, "SHARE_UNSURE", 0)
    examiner = Examiner(filled.path)
    examiner.explain()
    assert not looked(examiner)  # it was only opened
    examiner.examine(1)
    examiner.suspect()
    text_of_a_row(filled.path)
    examiner.explain()
    monkeypatch.setattr(sqlite_examiner, "SHARE_UNSURE", 1 << 40)
    assert not looked(examiner)
    monkeypatch.setattr(sqlite_examiner, "SHARE_UNSURE", 0)
    assert looked(examiner)
    assert examiner.damage == "1 row of policyd_batch was overwritten"
    assert not looked(examiner)
    examiner.explain()
    assert not looked(examiner)


def test_what_is_cut_in_the_middle_of_a_checkpoint_is_noticed(
    sqlite: SqliteDatabase, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of the checkpoint makes the file longer and newer than it was: what is missing is a hole in it."""
    monkeypatch.setattr(sqlite_examiner, "SOON", 0.0)
    monkeypatch.setattr(sqlite_examiner, "SHARE_SOON", 0)
    with contextlib.closing(sqlite.store(clock)) as store:
        for number in range(200):
            admitted(store, demand(f"user:{number}-{'x' * 400}", LIMIT))
        examiner = Examiner(sqlite.path)
        assert looked(examiner)
        assert not looked(examiner)
        with contextlib.closing(sqlite3.connect(sqlite.path)) as other:
            other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        size = sqlite.path.stat().st_size
        assert size > 8 * PAGE
        os.truncate(sqlite.path, 2 * PAGE)
        with sqlite.path.open("r+b") as file:
            file.seek(size - PAGE)
            file.write(bytes(PAGE))
        examiner.explain()
        assert looked(examiner)
        assert examiner.damage


def log_overwritten(log: pathlib.Path) -> None:
    """Its beginning."""
    write_at(log, 0, b"garbage")


def log_cut(log: pathlib.Path) -> None:
    """In its beginning."""
    os.truncate(log, 10)


@pytest.mark.parametrize("harm", [log_overwritten, log_cut])
def test_a_log_that_the_next_start_would_ignore_is_damage(
    sqlite: SqliteDatabase, clock: Clock, harm: Callable[[pathlib.Path], None]
) -> None:
    """A daemon writes all that it knows to a new file."""
    daemon = Daemon(sqlite, clock)
    assert ask(daemon, "user:a", 3) == 3
    harm(sqlite.path.with_name(f"{sqlite.path.name}-wal"))
    daemon.wait()
    daemon.wait()
    assert ask(daemon, "user:a", 1) == 1
    assert len(list(sqlite.home.glob("*.damaged-*"))) >= 1
    daemon.close()
    assert found(sqlite, clock, "user:a") == [4]


@pytest.mark.parametrize("end", ["-wal", "-shm"])
def test_what_lies_beside_the_file_is_removed(sqlite: SqliteDatabase, clock: Clock, end: str) -> None:
    """All of it goes into the file, for other daemons and for the next start, and nothing is renamed."""
    one, two = Daemon(sqlite, clock), Daemon(sqlite, clock)
    assert [ask(one, "user:a", 2), ask(two, "user:a", 2)] == [2, 2]
    sqlite.path.with_name(f"{sqlite.path.name}{end}").unlink()
    for daemon in (one, two):
        daemon.wait()
        daemon.wait()
    assert [ask(one, "user:a", 1), ask(two, "user:a", 1)] == [1, 1]
    assert found(sqlite, clock, "user:a") == [6]
    assert list(sqlite.home.glob("*.damaged-*")) == []
    one.close()
    two.close()
    assert found(sqlite, clock, "user:a") == [6]
