"""The threads and connections behind an SQLite file: none is left, and checkpoints come when they are due."""

from __future__ import annotations

import pathlib
import sqlite3
import threading
import time
from unittest import mock

import pytest

from policyd_rate_limit.storage.log.contract import LogError
from policyd_rate_limit.storage.log.sqlite.checkpoint import CHECKPOINT_BYTES, PAGE_BYTES
from policyd_rate_limit.storage.log.sqlite.cleaning import STEPS_PER_CHECKPOINT, Cleaning
from policyd_rate_limit.storage.log.sqlite.examiner import Examiner
from policyd_rate_limit.storage.log.sqlite.log import SqliteLog
from storage.daemon import open_descriptors
from storage.logs import append, record
from support.wait import wait_until
from support.work import statements_of_sqlite


def test_a_file_that_cannot_be_opened_leaves_nothing_open(tmp_path: pathlib.Path) -> None:
    """Neither a connection nor a thread."""
    path = tmp_path / "db.sqlite3"
    path.write_bytes(b"garbage" * 1000)
    before, threads = open_descriptors(), threading.active_count()
    with (
        mock.patch("policyd_rate_limit.storage.log.sqlite.log.set_aside", side_effect=OSError(13, "Permission denied")),
        pytest.raises(LogError, match="cannot be renamed"),
    ):
        SqliteLog(path, time.time)
    with (
        mock.patch("policyd_rate_limit.storage.log.sqlite.log.creation_lock", side_effect=ZeroDivisionError),
        pytest.raises(ZeroDivisionError),
    ):
        SqliteLog(path, time.time)
    with (
        mock.patch.object(Examiner, "explain", side_effect=ZeroDivisionError),
        mock.patch.object(SqliteLog, "close", autospec=True, side_effect=SqliteLog.close) as close,
        pytest.raises(ZeroDivisionError),
    ):
        SqliteLog(tmp_path / "another.sqlite3", time.time)
    close.assert_called_once()
    assert open_descriptors() == before
    assert threading.active_count() == threads


def test_a_checkpoint_is_followed_by_one(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, by the next maintenance; and closing ends the thread."""
    monkeypatch.setattr("policyd_rate_limit.storage.log.sqlite.checkpoint.CHECKPOINT_BYTES", 1)
    statements = statements_of_sqlite(monkeypatch)
    log = SqliteLog(tmp_path / "db.sqlite3", time.time)
    log.maintain()
    assert not [text for text in statements if "wal_checkpoint" in text]
    with mock.patch("policyd_rate_limit.storage.log.sqlite.checkpoint.CHECKPOINT_BYTES", CHECKPOINT_BYTES):
        append(log, record(1))  # too little for one
    assert not any(thread.name == "checkpoint" for thread in threading.enumerate())
    append(log, record(2))
    wait_until(log._checkpointer._copied.is_set, "a checkpoint has ended")
    with mock.patch("policyd_rate_limit.storage.log.sqlite.checkpoint.CHECKPOINT_BYTES", CHECKPOINT_BYTES):
        append(log, record(3))
    statements.clear()
    for _ in range(3):
        log.maintain()
    assert len([text for text in statements if "wal_checkpoint" in text]) == 1
    assert not log._examiner._has_reason  # that was our own doing
    assert any(thread.name == "checkpoint" for thread in threading.enumerate())
    log.close()
    assert not any(thread.name in ("checkpoint", "examiner") for thread in threading.enumerate())


def test_a_clean_up_checkpoints_now_and_then(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each of so many steps, and after no other."""
    monkeypatch.setattr("policyd_rate_limit.storage.log.sqlite.cleaning.STEP_OF_CLEAN", 0.0)
    monkeypatch.setattr("policyd_rate_limit.storage.log.sqlite.cleaning.ROWS_PER_CLEAN", 1)
    log = SqliteLog(tmp_path / "db.sqlite3", time.time)
    append(log, *(record(number, 1_000) for number in range(1, 3 * STEPS_PER_CHECKPOINT + 3)))
    with mock.patch.object(Cleaning, "_checkpoint") as checkpoint:
        assert log.clean(2_000, 10.0) == 3 * STEPS_PER_CHECKPOINT + 2
    assert checkpoint.call_count == 3
    log.close()


def test_a_checkpoint_of_clean_has_the_write_ahead_log_start_over(tmp_path: pathlib.Path) -> None:
    """Though a daemon appends to it all the time: beside it most is copied, and under the lock what is left."""
    path = tmp_path / "db.sqlite3"
    daemon, clean = SqliteLog(path, time.time), SqliteLog(path, time.time)
    append(daemon, record(1))
    cleaning = Cleaning(clean, clean._execute, 1.0)

    def copy(statement: str) -> sqlite3.Cursor:
        found = clean._execute(statement)
        if "PASSIVE" in statement:
            append(daemon, record(2))
        return found

    cleaning._execute = copy
    cleaning._checkpoint()
    before = (path.with_name(f"{path.name}-wal")).read_bytes()[:PAGE_BYTES]
    append(daemon, record(3))
    assert path.with_name(f"{path.name}-wal").read_bytes()[:PAGE_BYTES] != before
    daemon.close()
    clean.close()
