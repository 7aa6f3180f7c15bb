"""A spool file is brought into the database that it was written for, and into no other one."""

from __future__ import annotations

import contextlib
import logging
import pathlib
from typing import NamedTuple

import pytest
from redis import Redis

from policyd_rate_limit.storage.engine.backlog import ADOPTION_SECONDS
from policyd_rate_limit.storage.engine.spool_file import SpoolFile
from storage.daemon import LIMIT, Daemon, ask, found, spool_files, write_former
from storage.redis_database import RedisDatabase
from storage.stores import Clock, Database, SqliteDatabase

PLACE = "place"  # what the configuration of both daemons says


class Pair(NamedTuple):
    """Two databases, and the directory that their daemons share for spool files."""

    one: Database
    two: Database
    directory: pathlib.Path

    def daemon(self, database: Database, clock: Clock, place: str = PLACE) -> Daemon:
        """A daemon of one of them."""
        return Daemon(database, clock, journal_directory=self.directory, journal_name=place)


@pytest.fixture(params=["sqlite", "redis"])
def pair(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Pair:
    """Two databases that are in use."""
    if request.param == "sqlite":
        homes = [tmp_path / "one", tmp_path / "two"]
        for home in homes:
            home.mkdir()
        one, two = (SqliteDatabase(home) for home in homes)
        return Pair(one, two, tmp_path)
    url = request.getfixturevalue("redis_url")
    return Pair(RedisDatabase(tmp_path, url), RedisDatabase(tmp_path, url), tmp_path)


def use(pair: Pair, clock: Clock) -> None:
    """Both databases have been used by a daemon."""
    for number, database in enumerate((pair.one, pair.two)):
        daemon = pair.daemon(database, clock, f"other-place-{number}")
        daemon.ask()
        daemon.close()


def left_by_one(pair: Pair, clock: Clock) -> None:
    """A daemon of the first dies while its database is away, and leaves three mails of a user."""
    daemon = pair.daemon(pair.one, clock)
    daemon.ask()
    with pair.one.outage():
        assert ask(daemon, "user:a", 3) == 3
        daemon.die()


def test_a_daemon_leaves_what_is_of_another_database(
    pair: Pair, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Though its configuration says the same of the place; the daemon of that database finds it."""
    use(pair, clock)
    left_by_one(pair, clock)
    caplog.clear()
    two = pair.daemon(pair.two, clock)
    assert ask(two, "user:a", 1) == 1
    two.wait()
    two.close()
    assert [record.levelno for record in caplog.records if record.levelno >= logging.WARNING] == [logging.WARNING]
    assert "for another database" in caplog.text
    assert found(pair.two, clock, "user:a") == [1]
    one = pair.daemon(pair.one, clock)
    one.wait()
    one.close()
    assert found(pair.one, clock, "user:a") == [3]
    assert found(pair.two, clock, "user:a") == [1]
    assert spool_files(pair.directory) == []


def test_a_database_that_is_away_at_the_start(pair: Pair, clock: Clock) -> None:
    """Until it is there nobody knows whose the spool is: it counts meanwhile, and is not lost to the other one."""
    use(pair, clock)
    left_by_one(pair, clock)
    with pair.two.outage():
        two = pair.daemon(pair.two, clock)
        assert ask(two, "user:a", LIMIT) == LIMIT - 3
        assert ask(two, "user:b", 2) == 2
    two.wait()
    assert ask(two, "user:a", LIMIT) == 3
    two.wait()
    two.close()
    assert found(pair.two, clock, "user:a", "user:b") == [LIMIT, 2]
    one = pair.daemon(pair.one, clock)
    one.wait()
    one.close()
    assert found(pair.one, clock, "user:a", "user:b") == [3, 0]
    assert spool_files(pair.directory) == []


def test_the_right_daemon_gets_it_from_the_wrong_one(pair: Pair, clock: Clock) -> None:
    """Which had it while it did not know better: whoever runs looks again within a minute."""
    use(pair, clock)
    left_by_one(pair, clock)
    with pair.two.outage():
        two = pair.daemon(pair.two, clock)
        one = pair.daemon(pair.one, clock)
        one.wait()
        assert found(pair.one, clock, "user:a") == [0]
    two.wait()
    one.monotonic.now += ADOPTION_SECONDS
    one.wait()
    assert found(pair.one, clock, "user:a") == [3]
    one.close()
    two.close()
    assert spool_files(pair.directory) == []


def test_the_place_is_spelled_otherwise(pair: Pair, clock: Clock) -> None:
    """By another name of the host, say: the identity tells that it is the same database."""
    use(pair, clock)
    left_by_one(pair, clock)
    daemon = pair.daemon(pair.one, clock, "elsewhere")
    daemon.wait()
    daemon.wait()
    daemon.close()
    assert found(pair.one, clock, "user:a") == [3]
    assert spool_files(pair.directory) == []


def test_it_is_said_when_a_daemon_that_died_has_left_something(
    sqlite: SqliteDatabase, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """And only then, however often it is looked for."""
    dead, daemon = Daemon(sqlite, clock), Daemon(sqlite, clock)
    dead.ask()
    daemon.wait()
    with sqlite.outage():
        assert ask(dead, "user:a", 2) == 2
        dead.die()
    caplog.clear()
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            daemon.monotonic.now += ADOPTION_SECONDS
            daemon.wait()
    assert caplog.messages == ["adopted the spool of a daemon that died: 2 batches"]
    assert found(sqlite, clock, "user:a") == [2]
    daemon.close()


@pytest.mark.parametrize("place", [PLACE, "elsewhere"])
def test_a_spool_file_from_before_the_database_was_known(pair: Pair, clock: Clock, place: str) -> None:
    """The database has been away since the start: what the configuration says of the place decides."""
    use(pair, clock)
    with pair.one.outage():
        dead = pair.daemon(pair.one, clock)
        assert ask(dead, "user:a", 3) == 3
        dead.die()
    daemon = pair.daemon(pair.two, clock, place)
    daemon.wait()
    daemon.close()
    assert found(pair.two, clock, "user:a") == [3 if place == PLACE else 0]
    assert len(spool_files(pair.directory)) == (0 if place == PLACE else 1)


def test_a_spool_file_of_the_version_before(pair: Pair, clock: Clock) -> None:
    """It has no identity, and another name."""
    use(pair, clock)
    left_by_one(pair, clock)
    (path,) = pair.directory.glob("*.journal")
    (spool_file,) = SpoolFile.adopt(pair.directory, PLACE)
    records = spool_file.read()
    spool_file.close()
    path.unlink()
    write_former(pair.directory / "former-0.journal", records)
    other = pair.daemon(pair.two, clock)
    other.wait()
    other.close()
    assert spool_files(pair.directory) == ["former-0.journal"]
    daemon = Daemon(pair.one, clock, journal_directory=pair.directory, journal_name=PLACE, former_journal_name="former")
    daemon.wait()
    daemon.close()
    assert found(pair.one, clock, "user:a") == [3]
    assert spool_files(pair.directory) == []


def test_a_database_that_is_rebuilt_is_the_same_one(sqlite: SqliteDatabase, clock: Clock) -> None:
    """What waits beside it was written for it."""
    daemon = Daemon(sqlite, clock)
    daemon.ask()
    before = daemon.store.installation
    assert before is not None
    assert len(bytes.fromhex(before)) == 16
    with sqlite.outage():
        assert ask(daemon, "user:a", 3) == 3
        daemon.die()
    sqlite.path.unlink()
    daemon = Daemon(sqlite, clock)
    daemon.wait()
    assert daemon.store.installation == before
    sqlite.path.unlink()
    daemon.wait()
    daemon.close()
    assert daemon.store.installation == before
    with contextlib.closing(sqlite.store(clock)) as store:
        store.admit((), (), 1.0)
        assert store.installation == before
    assert found(sqlite, clock, "user:a") == [3]


def test_what_waits_comes_into_a_database_whose_content_is_lost(pair: Pair, clock: Clock) -> None:
    """It is the one that it was written for, though nothing in it says so any more."""
    use(pair, clock)
    left_by_one(pair, clock)
    if isinstance(pair.one, RedisDatabase):
        with contextlib.closing(Redis.from_url(pair.one.url)) as client:
            client.delete(*client.scan_iter(f"{pair.one.user}:*"))
    else:
        (pair.one.home / "db.sqlite3").unlink()
    (path,) = pair.directory.glob("*.journal")
    (spool_file,) = SpoolFile.adopt(pair.directory, PLACE)
    written_for = spool_file.installation
    spool_file.close()
    assert written_for
    daemon = pair.daemon(pair.one, clock)
    daemon.wait()
    assert daemon.store.installation == written_for
    daemon.close()
    assert found(pair.one, clock, "user:a") == [3]
    assert not path.exists()


def test_another_database_takes_the_place(pair: Pair, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """While a daemon runs and records wait: they are left for the one that they were written for."""
    use(pair, clock)
    daemon = pair.daemon(pair.one, clock)
    daemon.ask()
    with pair.one.outage():
        assert ask(daemon, "user:a", 3) == 3
        daemon.store.installation = "f" * 32  # type: ignore[misc]  # it was of that one
        (spool_file,) = daemon.engine._spool._held
        spool_file.claim("f" * 32)
        daemon.engine._backlog.installation = "f" * 32
    daemon.wait()
    daemon.wait()
    assert ask(daemon, "user:b", 1) == 1
    assert found(pair.one, clock, "user:a", "user:b") == [0, 1]
    daemon.close()
    assert "3 batches" in caplog.text
    assert "for another database" in caplog.text
    (left,) = SpoolFile.adopt(pair.directory, "any", "f" * 32)
    assert len(left.read()) == 3
    left.close()
