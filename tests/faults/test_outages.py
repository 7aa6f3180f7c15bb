"""The database is away, and the daemon answers, holds the limits, and loses nothing.

``LIMIT`` mails of every id are admitted before, during and after an outage together: not one more, and, as
nothing is lost or counted twice, not one less.
"""

from __future__ import annotations

import contextlib
import pathlib
import random
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from support import outages
from support.daemon import Client, Daemon, mail
from support.load import BUSY, REFUSAL, SUCCESS, Background, admit_until_refused, answer_times, ask_all, left_for_all
from support.outages import Outage
from support.programs import require_root
from support.wait import wait_until

LIMIT = 20
LIMITS = [[LIMIT, 3600]]
ANSWER_SECONDS = 10.0
RECOVERY_SECONDS = 40.0

LOCKED = Outage("locked by another program", outages.lock)
FULL = Outage("disk full", outages.fill_disk)
REBUILT = (
    Outage("file deleted", outages.delete),
    Outage("garbage written over it", outages.corrupt),
    Outage("cut off", outages.truncate),
)
WHILE_RUNNING = (
    LOCKED,
    *REBUILT,
    Outage("directory deleted", outages.delete_directory),
    Outage("a directory in its place", outages.put_directory_in_place),
    pytest.param(FULL, marks=pytest.mark.needs_root),
)


@pytest.fixture
def home(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> Iterator[pathlib.Path]:
    """Where the database lies: a directory of its own, on a small disk for the tests that fill it."""
    if FULL in request.node.callspec.params.values():
        with outages.small_disk(tmp_path) as disk:
            yield disk
    else:
        (tmp_path / "home").mkdir()
        yield tmp_path / "home"


def named(outage: Outage) -> str:
    """The id of a test."""
    return outage.name


def daemon_on(tmp_path: pathlib.Path, home: pathlib.Path, **settings: Any) -> Daemon:
    """A daemon whose database lies in ``home`` and all its other files in ``tmp_path``."""
    settings.setdefault("limits", LIMITS)
    return Daemon(tmp_path / "daemon", sqlite_config={"database": str(home / "db.sqlite3")}, **settings)


def ask(daemon: Daemon, user: str, mails: int) -> int:
    """How many of ``mails`` of ``user`` are admitted, the others refused; each answered in time."""
    with Client(daemon.address, ANSWER_SECONDS) as client:
        answers = [client.ask(**mail(user)) for _ in range(mails)]
    assert all(answer == SUCCESS or answer.startswith(REFUSAL) for answer in answers), answers
    return answers.count(SUCCESS)


def wait_for_replay(daemon: Daemon, user: str) -> None:
    """Wait until what was admitted of ``user`` during the outage is in the database."""
    database = pathlib.Path(daemon.settings["sqlite_config"]["database"])
    wait_until(lambda: outages.mentions(database, user), f"{user} is in the database", RECOVERY_SECONDS)


@pytest.mark.parametrize("outage", WHILE_RUNNING, ids=named)
def test_limits_are_exact_through_an_outage(tmp_path: pathlib.Path, home: pathlib.Path, outage: Outage) -> None:
    """Before, during, after and after a restart: the sum of what is admitted is the limit."""
    with daemon_on(tmp_path, home) as daemon:
        database = home / "db.sqlite3"
        assert ask(daemon, "through", 5) == 5
        assert ask(daemon, "spent", LIMIT) == LIMIT
        mend = outage.begin(database)
        assert ask(daemon, "spent", 3) == 0
        assert ask(daemon, "through", 5) == 5
        assert ask(daemon, "during", LIMIT + 3) == LIMIT
        mend()
        assert ask(daemon, "through", 5) == 5
        assert ask(daemon, "spent", 1) == ask(daemon, "during", 1) == 0
        wait_for_replay(daemon, "during")
        assert ask(daemon, "spent", 1) == ask(daemon, "during", 1) == 0
        assert ask(daemon, "through", 1) == 1
        assert daemon.stop() == 0
        daemon.start()
        left = left_for_all(daemon.address, ["through", "spent", "during", "new"], LIMIT)
        assert left == {"through": LIMIT - 16, "spent": 0, "during": 0, "new": LIMIT}
        assert "Traceback" not in daemon.log_text()


@pytest.mark.parametrize("mended_first", [True, False], ids=["mended while dead", "mended after the start"])
@pytest.mark.parametrize("outage", WHILE_RUNNING, ids=named)
def test_kill_9_during_an_outage_keeps_what_was_admitted(
    tmp_path: pathlib.Path, home: pathlib.Path, outage: Outage, mended_first: bool
) -> None:
    """The spool outlives the daemon: after the restart every mail that was answered with success counts."""
    with daemon_on(tmp_path, home) as daemon:
        assert ask(daemon, "through", 5) == 5
        mend = outage.begin(home / "db.sqlite3")
        assert ask(daemon, "during", 5) == 5
        assert ask(daemon, "through", 5) == 5
        daemon.kill()
        if mended_first:
            mend()
        daemon.start()
        if not mended_first:
            assert ask(daemon, "during", 1) == 1
            mend()
        wait_for_replay(daemon, "during")
        daemon.kill()
        daemon.start()
        left = left_for_all(daemon.address, ["through", "during", "new"], LIMIT)
        assert left == {"through": 10, "during": 15 if mended_first else 14, "new": LIMIT}


def test_an_outage_under_load_counts_every_mail_once(tmp_path: pathlib.Path) -> None:
    """Three locks of a few seconds under load from 16 connections; kill -9 in the last one."""
    limit, users = 300, [f"user{number}" for number in range(60)]
    with daemon_on(tmp_path, tmp_path, limits=[[limit, 3600]]) as daemon:
        endless = iter(lambda: users[time.monotonic_ns() // 1000 % len(users)], None)
        with Background([daemon.address], endless, connections=16) as load:
            for last in (False, False, True):
                load.wait_for_answers(100)
                mend = outages.lock(tmp_path / "db.sqlite3")
                load.wait_for_answers(100)
                if last:
                    daemon.kill()
                mend()
            daemon.start()
        tally = load.tally
        assert not tally.others
        assert daemon.stop() == 0
        daemon.start()
        left = left_for_all(daemon.address, users, limit)
    for user in users:
        total = tally.admitted[user] + left[user]
        assert limit - tally.unanswered[user] <= total <= limit, user


def test_two_daemons_keep_what_each_admitted_while_the_database_was_locked(tmp_path: pathlib.Path) -> None:
    """Each has a spool file of its own: what both admitted during the outage counts for both afterwards."""
    shared = {"database": str(tmp_path / "db.sqlite3")}
    with (
        Daemon(tmp_path / "one", sqlite_config=shared, limits=LIMITS) as one,
        Daemon(tmp_path / "two", sqlite_config=shared, limits=LIMITS) as two,
    ):
        assert ask(one, "shared", 2) == ask(two, "shared", 2) == 2
        mend = outages.lock(tmp_path / "db.sqlite3")
        assert ask(one, "shared", 3) == ask(two, "shared", 3) == 3
        assert ask(one, "first", 2) == ask(two, "second", 2) == 2
        one.kill()
        mend()
        wait_for_replay(two, "second")
        one.start()
        wait_for_replay(one, "first")
        assert left_for_all(one.address, ["shared", "first", "second"], LIMIT) == {
            "shared": LIMIT - 10,
            "first": LIMIT - 2,
            "second": LIMIT - 2,
        }


@pytest.mark.long(20)
def test_kill_9_while_the_spool_file_is_replayed(tmp_path: pathlib.Path) -> None:
    """Five outages, after each the daemon is killed at a random moment of its recovery: nothing twice, nothing lost."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    limit, users = 200, [f"user{number}" for number in range(300)]
    admitted = Counter[str]()
    with daemon_on(tmp_path, tmp_path, limits=[[limit, 3600]]) as daemon:
        for _ in range(5):
            mend = outages.lock(tmp_path / "db.sqlite3")
            tally = ask_all([daemon.address], users * 5, connections=32)
            assert not tally.others
            admitted.update(tally.admitted)
            mend()
            time.sleep(chance.uniform(0, 1.5))
            daemon.kill()
            daemon.start()
        left = left_for_all(daemon.address, users, limit)
    assert {user: admitted[user] + left[user] for user in users} == dict.fromkeys(users, limit), f"seed {seed}"


@pytest.mark.parametrize("outage", REBUILT, ids=named)
def test_two_daemons_that_rebuild_the_database_count_nothing_twice(tmp_path: pathlib.Path, outage: Outage) -> None:
    """Both know all counts when the file is lost. Both go on, and what they knew is counted once, not once for each."""
    shared = {"database": str(tmp_path / "db.sqlite3")}
    with (
        Daemon(tmp_path / "one", sqlite_config=shared, limits=LIMITS) as one,
        Daemon(tmp_path / "two", sqlite_config=shared, limits=LIMITS) as two,
    ):
        assert [ask(daemon, "shared", 1) for daemon in (one, two) * 3] == [1] * 6
        outage.begin(tmp_path / "db.sqlite3")
        assert ask(one, "shared", 1) == ask(two, "shared", 1) == 1
        wait_for_replay(one, "shared")
        assert ask(one, "first", 1) == ask(two, "second", 1) == 1
        wait_for_replay(one, "first")
        wait_for_replay(two, "second")
        one.kill()
        one.start()
        assert left_for_all(one.address, ["shared", "first", "second"], LIMIT) == {
            "shared": LIMIT - 8,
            "first": LIMIT - 1,
            "second": LIMIT - 1,
        }
        assert ask(two, "shared", 1) == 0


def test_an_administrator_may_vacuum_and_read_the_database(tmp_path: pathlib.Path) -> None:
    """``VACUUM``, a backup and a long reading transaction by another program change no count and stop nobody."""
    database = tmp_path / "db.sqlite3"
    with daemon_on(tmp_path, tmp_path) as daemon:
        assert ask(daemon, "alice", 5) == 5
        with contextlib.closing(sqlite3.connect(database, timeout=10, isolation_level=None)) as other:
            other.execute("VACUUM")
            assert ask(daemon, "alice", 5) == 5
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM sqlite_master").fetchall()
            with contextlib.closing(sqlite3.connect(tmp_path / "backup.sqlite3")) as backup:
                other.backup(backup)
            assert ask(daemon, "alice", 5) == 5
            other.execute("COMMIT")
        daemon.kill()
        daemon.start()
        assert ask(daemon, "alice", LIMIT) == LIMIT - 15


@pytest.mark.parametrize("outage", [LOCKED, pytest.param(FULL, marks=pytest.mark.needs_root)], ids=named)
def test_each_change_of_state_is_logged_once(tmp_path: pathlib.Path, home: pathlib.Path, outage: Outage) -> None:
    """200 requests during the outage, one line when it begins and one when it ends."""
    with daemon_on(tmp_path, home, limits=[[1000, 3600]]) as daemon:
        assert ask(daemon, "alice", 10) == 10
        daemon.logged("ready")  # it may answer before a thread has written that
        before = len(daemon.log_text().splitlines())
        mend = outage.begin(home / "db.sqlite3")
        ask(daemon, "during", 200)
        wait_until(lambda: daemon.log_text().splitlines()[before:], "the line about the beginning")
        during = daemon.log_text().splitlines()[before:]
        mend()
        wait_for_replay(daemon, "during")
        ask(daemon, "alice", 200)
        wait_until(lambda: daemon.log_text().splitlines()[before + len(during) :], "the line about the end")
        after = daemon.log_text().splitlines()[before + len(during) :]
    assert len(during) == 1, during
    assert len(after) == 1, after


def test_a_lock_held_for_ten_seconds_holds_nobody_up(tmp_path: pathlib.Path) -> None:
    """Ten seconds of another program's lock: the daemon answers all the while, most answers at once."""
    other = tmp_path / "other"
    other.mkdir()
    with (
        daemon_on(tmp_path, tmp_path, limits=[[10**6, 3600]]) as daemon,
        daemon_on(other, other, limits=[[10**6, 3600]]) as calm,
    ):
        assert ask(daemon, "alice", 10) == 10
        mend = outages.lock(tmp_path / "db.sqlite3")
        seconds, usual = answer_times((daemon, calm), 10)
        mend()
    assert seconds[-1] < max(5, BUSY * usual[-1])
    most = len(seconds) * 9 // 10
    assert seconds[most] < max(0.1, BUSY * usual[most])


def test_db_error_action_is_the_answer_while_the_database_is_away(tmp_path: pathlib.Path) -> None:
    """Set, as in every file of 1.2.0: it is answered to all, counts nothing, and ends with the outage."""
    action = "defer_if_permit Database is away"
    with daemon_on(tmp_path, tmp_path, db_error_action=action) as daemon:
        assert ask(daemon, "alice", 5) == 5
        mend = outages.lock(tmp_path / "db.sqlite3")
        with Client(daemon.address) as client:
            assert [client.ask(**mail(user)) for user in ("alice", "bob") * 10] == [action] * 20
            mend()

            def answered() -> bool:
                return client.ask(**mail("carol")) == SUCCESS

            wait_until(answered, "a normal answer", RECOVERY_SECONDS)
        assert admit_until_refused(daemon.address, "alice", LIMIT) == LIMIT - 5
        assert admit_until_refused(daemon.address, "bob", LIMIT) == LIMIT


def no_directory(database: pathlib.Path) -> outages.Mend:
    """The directory is not there, and cannot be made before it is mended: a file stands in its way."""
    database.parent.rmdir()
    database.parent.write_text("in the way")

    def mend() -> None:
        database.parent.unlink()
        database.parent.mkdir()

    return mend


def garbage_file(database: pathlib.Path) -> outages.Mend:
    """A file that never was a database."""
    database.write_bytes(b"this is not a database\n" * 1000)
    return lambda: None


def locked_file(database: pathlib.Path) -> outages.Mend:
    """A database that another program has created and holds locked."""
    with contextlib.closing(sqlite3.connect(database)) as other:
        other.execute("CREATE TABLE other (a)")
    return outages.lock(database)


AT_START = (
    Outage("no directory", no_directory),
    Outage("a directory in its place", outages.put_directory_in_place),
    Outage("garbage", garbage_file),
    Outage("locked by another program", locked_file),
)


@pytest.mark.parametrize("outage", AT_START, ids=named)
def test_start_does_not_need_the_database(tmp_path: pathlib.Path, home: pathlib.Path, outage: Outage) -> None:
    """The daemon starts, warns, holds the limits from memory, and connects later by itself."""
    mend = outage.begin(home / "db.sqlite3")
    with daemon_on(tmp_path, home) as daemon:
        assert ask(daemon, "early", LIMIT + 3) == LIMIT
        assert ask(daemon, "through", 5) == 5
        wait_until(daemon.log_text, "a warning")
        mend()
        wait_for_replay(daemon, "early")
        assert ask(daemon, "early", 3) == 0
        daemon.kill()
        daemon.start()
        left = left_for_all(daemon.address, ["early", "through", "new"], LIMIT)
        assert left == {"early": 0, "through": LIMIT - 5, "new": LIMIT}


@pytest.mark.parametrize("outage", [pytest.param(FULL, marks=pytest.mark.needs_root)], ids=named)
def test_without_room_at_the_start_nothing_is_admitted_until_there_is(
    tmp_path: pathlib.Path, home: pathlib.Path, outage: Outage
) -> None:
    """Neither the database nor a spool file can be made: what is admitted would be known nowhere after a crash."""
    mend = outage.begin(home / "db.sqlite3")
    with daemon_on(tmp_path, home) as daemon:
        assert ask(daemon, "early", 3) == 0
        wait_until(daemon.log_text, "a warning")
        mend()
        wait_until(lambda: ask(daemon, "early", 1) == 1, "there is room", RECOVERY_SECONDS)
        assert ask(daemon, "early", LIMIT + 3) == LIMIT - 1


def test_a_missing_directory_is_made(tmp_path: pathlib.Path) -> None:
    """The directory of the database need not be there before the first start."""
    with daemon_on(tmp_path, tmp_path / "var" / "lib") as daemon:
        assert ask(daemon, "alice", 5) == 5
        wait_for_replay(daemon, "alice")


@pytest.mark.needs_root
def test_a_database_that_may_not_be_read_is_used_once_it_may(tmp_path: pathlib.Path) -> None:
    """A file of root's, mode 600, for a daemon that has become nobody; its counts count when it is handed over."""
    require_root()
    with daemon_on(tmp_path, tmp_path) as before:
        assert ask(before, "old", 5) == 5
    # Not below tmp_path: nobody may not look into that.
    with tempfile.TemporaryDirectory(prefix="policyd-unreadable-") as name:
        home = pathlib.Path(name)
        home.chmod(0o777)
        database = home / "db.sqlite3"
        database.write_bytes((tmp_path / "db.sqlite3").read_bytes())
        database.chmod(0o600)
        settings: dict[str, Any] = {"user": "nobody", "group": "nogroup", "sqlite_config": {"database": str(database)}}
        with Daemon(home / "daemon", limits=LIMITS, **settings) as daemon:
            assert ask(daemon, "early", LIMIT + 3) == LIMIT
            database.chmod(0o666)
            wait_for_replay(daemon, "early")
            left = left_for_all(daemon.address, ["early", "old", "new"], LIMIT)
            assert left == {"early": 0, "old": 15, "new": LIMIT}
