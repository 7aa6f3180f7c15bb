"""``--clean``, as cron calls it: what it deletes, what it leaves, and that daemons serve on beside it."""

from __future__ import annotations

import itertools
import pathlib
import random
import re
import subprocess
import time
from typing import Any

import pytest

from support.commands import call
from support.daemon import COMMAND, Client, Daemon, mail
from support.faketime import Clock
from support.load import SUCCESS, Background, admit_until_refused, ask_all, left_for_all

HOUR, DAY = 3600, 86400


@pytest.fixture
def clock(tmp_path: pathlib.Path) -> Clock:
    """The daemon's and ``--clean``'s clock."""
    return Clock(tmp_path)


def clean(daemon: Daemon) -> int:
    """Run ``--clean`` with the daemon's configuration and clock; how many records it says it deleted."""
    done = call(daemon.path, "--clean", env=daemon.environment)
    assert done.returncode == 0, done.stderr
    match = re.fullmatch(r"(\d+) records deleted\n", done.stdout)
    assert match, done.stdout
    return int(match[1])


def admit(daemon: Daemon, *users: str) -> None:
    """One mail of each of ``users``."""
    with Client(daemon.address) as client:
        for user in users:
            assert client.ask(**mail(user)) == SUCCESS


@pytest.mark.parametrize("running", [True, False], ids=["beside the daemon", "alone"])
def test_clean_deletes_what_is_older_than_twice_the_longest_window(
    tmp_path: pathlib.Path, clock: Clock, running: bool
) -> None:
    """Two hours for windows of an hour: nothing at two hours less a minute, all a minute after."""
    daemon = Daemon(tmp_path, environment=clock.environment, limits=[[10, 60], [20, HOUR]])
    with daemon:
        admit(daemon, "a", "b", "c")
        clock.forward(HOUR)
        admit(daemon, "d", "e")
        clock.forward(HOUR - 60)
        if not running:
            assert daemon.stop() == 0
        assert clean(daemon) == 0
        clock.forward(120)
        assert clean(daemon) == 3
        assert clean(daemon) == 0
        clock.forward(HOUR)
        assert clean(daemon) == 2


def test_clean_respects_the_longest_window_of_any_id(tmp_path: pathlib.Path, clock: Clock) -> None:
    """The month of one id keeps everything for two months, and its counts go on counting after a restart."""
    by_id = {"slow": [[5, 30 * DAY]], "free": []}
    with Daemon(tmp_path, environment=clock.environment, limits=[[10, 60]], limits_by_id=by_id) as daemon:
        admit(daemon, "slow", "slow", "slow", "other")
        clock.forward(29 * DAY)
        assert clean(daemon) == 0
        daemon.kill()
        daemon.start()
        assert admit_until_refused(daemon.address, "slow", 5) == 2
        clock.forward(31 * DAY + 60)
        assert clean(daemon) > 0
        assert admit_until_refused(daemon.address, "slow", 5) == 5


def test_clean_does_not_change_what_a_serving_daemon_counts(tmp_path: pathlib.Path, clock: Clock) -> None:
    """What the daemon remembers and what is left in the database agree after ``--clean``, in any order."""
    with Daemon(tmp_path, environment=clock.environment, limits=[[5, HOUR]]) as daemon:
        admit(daemon, "alice", "alice", "bob")
        clock.forward(2 * HOUR + 60)
        admit(daemon, "alice", "alice")
        clean(daemon)
        assert left_for_all(daemon.address, ["alice", "bob"], 5) == {"alice": 3, "bob": 5}
        daemon.kill()
        daemon.start()
        assert left_for_all(daemon.address, ["alice", "bob"], 5) == {"alice": 0, "bob": 0}


def test_clean_works_while_daemons_serve(tmp_path: pathlib.Path) -> None:
    """Five runs beside two daemons under load: no error on either side, and every limit exact."""
    limit = 300
    users = [f"user{number}" for number in range(100)]
    shared = {"database": str(tmp_path / "db.sqlite3")}
    settings: dict[str, Any] = {"sqlite_config": shared, "limits": [[limit, HOUR]]}
    with Daemon(tmp_path / "one", **settings) as one, Daemon(tmp_path / "two", **settings) as two:
        with Background([one.address, two.address], itertools.cycle(users), connections=16) as load:
            for _ in range(5):
                load.wait_for_answers(50)
                assert clean(one) == 0
        tally = load.tally
        left = left_for_all(two.address, users, limit)
        assert not tally.others
        assert {user: tally.admitted[user] + left[user] for user in users} == dict.fromkeys(users, limit)
        assert "Traceback" not in one.log_text() + two.log_text()


def test_clean_fails_with_8_when_the_database_cannot_be_opened(tmp_path: pathlib.Path) -> None:
    """Exit status 8, one line on stderr, nothing on stdout."""
    (tmp_path / "db.sqlite3").mkdir()
    daemon = Daemon(tmp_path)
    done = call(daemon.path, "--clean")
    assert (done.returncode, done.stdout) == (8, "")
    assert done.stderr
    assert "Traceback" not in done.stderr


def fill_and_age(daemon: Daemon, clock: Clock, users: list[str], seconds: int) -> None:
    """A mail of each of ``users``; then the daemon is down, and its clock is ``seconds`` ahead.

    The daemon gets its clock only then: with libfaketime it is slower by an order of magnitude.
    """
    with daemon:
        ask_all([daemon.address], users)
    daemon.environment |= clock.environment
    clock.forward(seconds)


def test_clean_shrinks_the_file(tmp_path: pathlib.Path, clock: Clock) -> None:
    """The space of deleted records goes back to the file system."""
    users = [f"user{number}-" + "x" * 200 for number in range(3000)]
    daemon = Daemon(tmp_path, limits=[[5, 60]])
    fill_and_age(daemon, clock, users, HOUR)
    before = (tmp_path / "db.sqlite3").stat().st_size
    assert clean(daemon) == len(users)
    assert (tmp_path / "db.sqlite3").stat().st_size < before / 4


@pytest.mark.long(8)
def test_clean_may_be_killed_at_any_moment(tmp_path: pathlib.Path, clock: Clock) -> None:
    """Eight runs killed at random moments and one that ends: what is in a window counts, what is old goes."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    users = [f"user{number}" for number in range(100)]
    daemon = Daemon(tmp_path, limits=[[40, HOUR]])
    fill_and_age(daemon, clock, users * 40, 2 * HOUR + 60)
    with daemon:
        ask_all([daemon.address], users * 2)
        for _ in range(8):
            run = subprocess.Popen([str(COMMAND), "--clean", "-f", str(daemon.path)], env=daemon.environment)
            time.sleep(chance.uniform(0.2, 1.2))
            run.kill()
            run.wait()
        clean(daemon)
        assert clean(daemon) == 0
        assert daemon.stop() == 0
    daemon = Daemon(tmp_path, limits=[[40, 4 * HOUR]])  # in true time the last mails are from the future
    with daemon:
        assert left_for_all(daemon.address, users, 40) == dict.fromkeys(users, 38), f"seed {seed}"
