"""With ``db_error_action`` nobody decides while the database is away."""

from __future__ import annotations

import sqlite3
from unittest import mock

import pytest

from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.log.sqlite.log import SqliteLog
from policyd_rate_limit.storage.log.store import LogStore
from storage.daemon import LIMIT, Daemon, ask, found, spool_files
from storage.stores import Clock, Database, SqliteDatabase, demand, usage


def test_with_db_error_action_nobody_decides_while_the_database_is_away(database: Database, clock: Clock) -> None:
    """And nothing is counted; from the first answer on after it, the limit is exact."""
    daemon = Daemon(database, clock, enforce=False)
    assert ask(daemon, "user:a", 4) == 4
    with database.outage():
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                daemon.engine.admit([demand("user:a")])
            daemon.wait()
    assert spool_files(database.home) == []
    daemon.wait()
    assert ask(daemon, "user:a", LIMIT) == LIMIT - 4
    assert found(database, clock, "user:a") == [LIMIT]
    daemon.close()


@pytest.mark.parametrize("enforce", [False, True])
def test_a_sign_that_somebody_mended_something_has_it_tried_at_once(
    database: Database, clock: Clock, enforce: bool
) -> None:
    """And no other: while nothing changes, the next try waits for its time."""
    signs = ["nobody may open it"]
    daemon = Daemon(database, clock, enforce=enforce, signs=lambda: signs[0])
    with mock.patch.object(daemon.store, "admit", side_effect=StoreUnavailable("away")) as admit:
        assert ask(daemon, "user:a", 3) == (3 if enforce else 0)
        assert admit.call_count == 1
        signs[0] = "another file, which is no better"
        assert ask(daemon, "user:a", 2) == (2 if enforce else 0)
        assert admit.call_count == 2
    signs[0] = "all may open it"
    assert ask(daemon, "user:a", LIMIT) == LIMIT - (5 if enforce else 0)
    assert found(database, clock, "user:a") == [LIMIT]
    daemon.close()


def test_with_db_error_action_what_others_count_meanwhile_counts(database: Database, clock: Clock) -> None:
    """The one that was cut off reads it first."""
    daemon, other = Daemon(database, clock, enforce=False), Daemon(database, clock)
    assert ask(daemon, "user:a", 4) == 4
    with mock.patch.object(daemon.store, "admit", side_effect=StoreUnavailable("away")):
        assert ask(daemon, "user:a", 3) == 0
    assert ask(other, "user:a", 3) == 3
    daemon.wait()
    assert ask(daemon, "user:a", LIMIT) == 3
    daemon.close()
    other.close()


def test_with_db_error_action_a_commit_that_failed_counts_only_if_it_is_there(
    sqlite: SqliteDatabase, clock: Clock
) -> None:
    """Nobody was told that the mail may pass: memory believes the database, whatever that says."""
    daemon = Daemon(sqlite, clock, enforce=False)
    assert ask(daemon, "user:a", 4) == 4
    assert isinstance(daemon.store, LogStore)
    log = daemon.store._log
    assert isinstance(log, SqliteLog)
    with mock.patch.object(log, "_execute", wraps=log._execute, side_effect=fail_at_commit):
        verdicts = daemon.ask(demand("user:a"))
    assert verdicts == []
    daemon.wait()
    assert usage(daemon.store, ["user:a"]) == {"user:a": 4}
    assert ask(daemon, "user:a", LIMIT) == LIMIT - 4
    daemon.close()


def fail_at_commit(statement: str, *_: object) -> object:
    """Let all statements but COMMIT be executed."""
    if statement == "COMMIT":
        error = sqlite3.OperationalError("disk full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error
    return mock.DEFAULT


def test_with_db_error_action_an_old_spool_file_is_still_taken_over(database: Database, clock: Clock) -> None:
    """Of the daemon before the setting was made."""
    with database.outage():
        before = Daemon(database, clock)
        assert ask(before, "user:a", 3) == 3
        before.close()
    daemon = Daemon(database, clock, enforce=False)
    assert ask(daemon, "user:a", LIMIT) == LIMIT - 3
    assert found(database, clock, "user:a") == [LIMIT]
    daemon.close()
    assert spool_files(database.home) == []
