"""Daemons that wait for each other at one SQLite file: a disk that is slow, and no worse, is no outage.

Time is the test's own here: it passes while the one that is tested sleeps.
"""

from __future__ import annotations

import contextlib
import fcntl
import pathlib
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from policyd_rate_limit.backends import backend_of
from policyd_rate_limit.config import Settings
from policyd_rate_limit.const import SQLITE_DB
from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.log.contract import LogError
from policyd_rate_limit.storage.log.sqlite import files, turn
from policyd_rate_limit.storage.log.sqlite import log as sqlite_module
from policyd_rate_limit.storage.log.sqlite.files import OPEN_PATIENCE
from policyd_rate_limit.storage.log.sqlite.log import SqliteLog
from policyd_rate_limit.storage.log.sqlite.turn import LONGEST_LOOK, LONGEST_QUEUE, TURNS
from storage.daemon import Daemon
from storage.stores import PATIENCE, Clock, SqliteDatabase, demand, new_memory
from support.policies import subjects

LOOK = 0.05  # seconds between two looks at the lock, at the most


class Time:
    """What stands for the module ``time``: sleeping takes no time, and ``happens`` is called after each sleep."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps: list[float] = []
        self.happens: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        """Seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """They pass."""
        self.sleeps.append(seconds)
        self.now += seconds
        self.happens()


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Time:
    """The time of whoever waits for an SQLite file."""
    times = Time()
    for module in (sqlite_module, files, turn):
        monkeypatch.setattr(module, "time", times)
    for module in (files, turn):
        monkeypatch.setattr(module, "LOCK_RETRY", (LOOK / 5, LOOK))
    return times


@contextlib.contextmanager
def log_of(path: pathlib.Path) -> Iterator[SqliteLog]:
    """A log that is made, and open."""
    with contextlib.closing(SqliteLog(path, time.time)) as log:
        log.begin(PATIENCE)
        log.prepare(lambda _: ())
        log.commit()
        yield log


class Others:
    """Other daemons, one of which always has the lock: ``turns`` times it is for ``seconds``, to write a row.

    ``goes_on``: the last one keeps the lock.
    """

    def __init__(self, path: pathlib.Path, passing: Time, seconds: float, turns: int, *, goes_on: bool = False) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("BEGIN IMMEDIATE")
        self._passing = passing
        self._seconds = seconds
        self._turns = turns
        self._goes_on = goes_on
        self._until = passing.now + seconds
        passing.happens = self

    def __call__(self) -> None:
        """Some time has passed."""
        if self._turns and self._passing.now >= self._until:
            self._turns -= 1
            self._until += self._seconds
            self._connection.execute("INSERT INTO policyd_batch VALUES (NULL, 1, 1, 1, 0, '[]')")
            self._connection.execute("COMMIT")
            if self._turns or self._goes_on:
                self._connection.execute("BEGIN IMMEDIATE")

    def close(self) -> None:
        """They are gone."""
        self._connection.close()


@pytest.mark.parametrize("turns", [1, 4, 9])
def test_a_daemon_waits_while_the_others_make_progress(tmp_path: pathlib.Path, passing: Time, turns: int) -> None:
    """Each of them takes nearly all of the patience, and the one that waits is the last: it gets its turn."""
    path = tmp_path / "db.sqlite3"
    with log_of(path) as log, contextlib.closing(Others(path, passing, 0.9, turns)):
        began = passing.now
        log.begin(1.0)
        assert passing.now - began == pytest.approx(0.9 * turns, abs=2 * LOOK)
        log.commit()


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_a_lock_that_is_kept_is_an_outage(tmp_path: pathlib.Path, passing: Time, turns: int) -> None:
    """From the time on when nobody makes progress any more: within the patience, or twice that."""
    path = tmp_path / "db.sqlite3"
    with log_of(path) as log, contextlib.closing(Others(path, passing, 0.9, turns, goes_on=True)):
        began = passing.now
        with pytest.raises(LogError, match="database is locked"):
            log.begin(1.0)
        assert 1.0 <= passing.now - began - 0.9 * turns < 2.0 + 2 * LOOK


@pytest.mark.parametrize(
    ("patience", "most"), [(1.0, TURNS * 1.0), (2.0, TURNS * 2.0), (10.0, 10.0 + LONGEST_QUEUE), (0.0, 0.0)]
)
def test_nobody_waits_for_ever(tmp_path: pathlib.Path, passing: Time, patience: float, most: float) -> None:
    """Whoever never gets a turn does without at some time, however busy the others are."""
    path = tmp_path / "db.sqlite3"
    with log_of(path) as log, contextlib.closing(Others(path, passing, 0.4 * patience, 1_000)):
        began = passing.now
        with pytest.raises(LogError, match="database is locked"):
            log.begin(patience)
        assert most <= passing.now - began < most + 2 * LOOK


def test_a_process_that_stood_still_has_not_waited(tmp_path: pathlib.Path, passing: Time) -> None:
    """It, or all of the machine, was stopped for minutes while another had the lock: that needs its time to go on."""
    path = tmp_path / "db.sqlite3"
    with log_of(path) as log, contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        def stop() -> None:
            if len(passing.sleeps) == 3:
                passing.now += 300
            if len(passing.sleeps) == 6:
                other.execute("ROLLBACK")

        passing.happens = stop
        log.begin(2 * LONGEST_LOOK + 6 * LOOK)
        assert len(passing.sleeps) == 6
        log.commit()


def test_who_has_waited_for_long_is_there_before_those_who_have_just_come(
    tmp_path: pathlib.Path, passing: Time
) -> None:
    """It looks ever more often; of others who look at random it would be as unlucky each time."""
    path = tmp_path / "db.sqlite3"
    with log_of(path) as log, contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LogError, match="database is locked"):
            log.begin(60.0)
    tenth = len(passing.sleeps) // 10
    assert statistics.mean(passing.sleeps[-tenth:]) < statistics.mean(passing.sleeps[:tenth]) / 4
    assert min(passing.sleeps) > 0


# --- Opening


@pytest.mark.parametrize("lock", ["EXCLUSIVE", "IMMEDIATE"])
@pytest.mark.parametrize(("seconds", "patience"), [(0.9 * OPEN_PATIENCE, 0.0), (20.0, 25.0)])
def test_opening_waits_for_who_makes_the_file(
    tmp_path: pathlib.Path, passing: Time, lock: str, seconds: float, patience: float
) -> None:
    """As long as the database may take: four daemons start at once on a new file, on a disk that takes its time."""
    path = tmp_path / "db.sqlite3"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(f"BEGIN {lock}")
        other.execute("CREATE TABLE t (x)")
        end = passing.now + seconds
        passing.happens = lambda: passing.now >= end and other.in_transaction and other.execute("COMMIT")
        with contextlib.closing(SqliteLog(path, time.time, patience)) as log:
            assert end <= passing.now < end + 2 * LOOK
            log.begin(0.0)


def test_opening_does_not_wait_for_ever(tmp_path: pathlib.Path, passing: Time) -> None:
    path = tmp_path / "db.sqlite3"
    began = passing.now
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LogError, match="database is locked"):
            SqliteLog(path, time.time, 5.0)
    assert 5.0 <= passing.now - began < 5.0 + 2 * LOOK


def test_opening_waits_for_its_turn_to_make_the_file(tmp_path: pathlib.Path, passing: Time) -> None:
    """Nobody makes or clears away anything beside a daemon that does."""
    path = tmp_path / "db.sqlite3"
    was_there: list[bool] = []
    with pathlib.Path(f"{path}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        end = passing.now + 20.0

        def let_go() -> None:
            if passing.now >= end and not was_there:
                was_there.append(path.exists())
                fcntl.flock(held, fcntl.LOCK_UN)

        passing.happens = let_go
        SqliteLog(path, time.time, 25.0).close()
    assert was_there == [False]


def test_the_daemon_opens_as_patiently_as_its_settings_say(tmp_path: pathlib.Path, passing: Time) -> None:
    settings = Settings(backend=SQLITE_DB, sqlite_config={"database": str(tmp_path / "db.sqlite3")}, db_timeout=45.0)
    began = passing.now
    with contextlib.closing(sqlite3.connect(tmp_path / "db.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        store = backend_of(settings).make_store(subjects(()), new_memory(time.time))
        with pytest.raises(StoreUnavailable, match="database is locked"):
            store.admit([demand()], (), 0.0)
    assert 45.0 <= passing.now - began < 45.0 + 2 * LOOK


# --- Coming back


def test_a_daemon_comes_back_to_a_disk_that_is_slow(sqlite: SqliteDatabase, clock: Clock) -> None:
    """Though it finds the lock taken nearly always, each time for longer than an answer is to be held up."""
    daemon = Daemon(sqlite, clock, patience=PATIENCE)
    daemon.ask(demand())
    enough = threading.Event()

    def be_busy() -> None:
        with contextlib.closing(sqlite3.connect(sqlite.path, timeout=PATIENCE, isolation_level=None)) as other:
            while not enough.wait(0.01):
                other.execute("BEGIN IMMEDIATE")
                other.execute("INSERT INTO policyd_batch VALUES (NULL, 1, 1, 1, 0, '[]')")
                enough.wait(0.3)
                other.execute("COMMIT")

    with sqlite.outage():
        daemon.engine._patience = 0.0
        assert daemon.ask(demand()) == [True]
        daemon.engine._patience = PATIENCE
        assert daemon.engine.waiting == 1
    others = threading.Thread(target=be_busy)
    others.start()
    try:
        daemon.wait()
        assert daemon.engine.waiting == 0
    finally:
        enough.set()
        others.join()
    daemon.close()
