"""A disk that fills up, daemons that are killed and started, room again: in any order, the limit holds."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import random
import traceback
from collections.abc import Iterator

import pytest

from policyd_rate_limit.errors import StoreFull
from storage.daemon import LIMIT, Daemon, ask, found, spool_files
from storage.stores import Clock, SqliteDatabase, demand
from support.outages import fill_disk, small_disk

JOURNAL_BYTES = 1 << 18
MOST = 25  # mails in 1h of the one user
DEAD = 77


def life(home: pathlib.Path, mails: int, *, ends: bool, tries: int) -> None:
    """A daemon in a process of its own that admits ``mails`` mails at the most, and ends, or is killed."""
    child = os.fork()
    if child == 0:
        try:
            daemon = Daemon(SqliteDatabase(home), Clock(), journal_size=JOURNAL_BYTES)
            with (home.parent / "admitted").open("a", buffering=1) as admitted:
                for number in range(tries):
                    with contextlib.suppress(StoreFull):
                        if sum(daemon.ask(demand("user:a", MOST))):
                            admitted.write("a")
                            admitted.flush()
                            mails -= 1
                    if number % 3 == 0:
                        daemon.wait()
                    if not mails:
                        break
            if ends:
                daemon.close()
            os._exit(DEAD)  # the kernel closes what was open, as after kill -9
        except BaseException:  # noqa: BLE001 - it fails the test, in the other process
            traceback.print_exc()
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == DEAD


# "fill" the disk, give "room" again, "kill n", "end n": a daemon that admits up to n mails, and is killed or ends.
ORDERS: tuple[tuple[str, ...], ...] = (
    ("kill 3", "fill", "kill 4", "kill 4", "room", "kill 99"),  # as it was found
    ("fill", "kill 4", "kill 4", "room", "kill 99"),  # no spool file has ever been there
    ("end 3", "fill", "kill 4", "end 4", "kill 4", "room", "end 99"),
    ("end 3", "fill", "kill 4", "room", "fill", "kill 4", "room", "kill 4", "fill", "end 4", "room", "kill 99"),
    ("kill 0", "fill", "end 4", "kill 4", "end 4", "room", "end 99"),
)


def random_orders(seed: int, count: int) -> Iterator[tuple[str, ...]]:
    """Orders of all kinds of steps."""
    chance = random.Random(seed)
    for _ in range(count):
        steps = [
            chance.choice(("fill", "room", f"kill {chance.randrange(6)}", f"end {chance.randrange(6)}"))
            for _ in range(chance.randrange(4, 12))
        ]
        yield (*steps, "room", "kill 99")


def run(directory: pathlib.Path, order: tuple[str, ...]) -> None:
    """See that at the end of ``order`` exactly what may be has been admitted."""
    with small_disk(directory, megabytes=1) as disk:
        home = disk / "home"
        home.mkdir()
        written = directory / "admitted"
        written.write_bytes(b"")
        (disk / "admitted").symlink_to(written)
        filled = None
        for step in order:
            name, _, number = step.partition(" ")
            if name == "fill" and filled is None:
                filled = fill_disk(disk / "filler")
            elif name == "room" and filled is not None:
                filled()
                filled = None
            elif number:
                life(home, int(number), ends=name == "end", tries=min(4 + int(number), 40))
        assert len(written.read_text()) == MOST, order
        assert found(SqliteDatabase(home), Clock(), "user:a") == [MOST], order


@pytest.mark.needs_root
@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
def test_the_limit_holds_in_this_order(tmp_path: pathlib.Path, order: tuple[str, ...]) -> None:
    run(tmp_path, order)


@pytest.mark.needs_root
@pytest.mark.parametrize("part", range(4))
def test_the_limit_holds_in_any_order(tmp_path: pathlib.Path, part: int) -> None:
    seed = random.randrange(1 << 32)
    for number, order in enumerate(random_orders(seed, 6)):
        directory = tmp_path / str(number)
        directory.mkdir()
        try:
            run(directory, order)
        except AssertionError as failure:
            failure.add_note(f"seed {seed}")
            raise


@pytest.mark.needs_root
def test_the_spool_file_that_was_left_is_written_to(
    tmp_path: pathlib.Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no room for another one; what is kept is on disk, and nothing is called lost."""
    with small_disk(tmp_path) as disk:
        database = SqliteDatabase(disk)
        daemon = Daemon(database, clock, journal_size=JOURNAL_BYTES)
        daemon.ask()
        with database.outage():
            assert ask(daemon, "user:a", 2) == 2
            daemon.die()
            room = fill_disk(disk / "filler")
            for _ in range(2):
                daemon = Daemon(database, clock, journal_size=JOURNAL_BYTES)
                assert ask(daemon, "user:a", 2) == 2
                daemon.close()
            assert len(spool_files(disk)) == 1
            room()
        assert "lost" not in caplog.text
        daemon = Daemon(database, clock, journal_size=JOURNAL_BYTES)
        daemon.wait()
        daemon.close()
        assert found(database, clock, "user:a") == [6]
        assert spool_files(disk) == []


@pytest.mark.needs_root
def test_without_room_for_a_spool_file_nothing_is_admitted(
    tmp_path: pathlib.Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """It could be kept nowhere, and would be forgotten by a crash. That is said once, and ends with the full disk."""
    with small_disk(tmp_path) as disk:
        database = SqliteDatabase(tmp_path)
        room = fill_disk(disk / "filler")
        daemon = Daemon(database, clock, journal_directory=disk)
        daemon.ask()
        with database.outage():
            for _ in range(3):
                with pytest.raises(StoreFull):
                    ask(daemon, "user:a", 1)
                daemon.wait()
            room()
            daemon.wait()
            assert ask(daemon, "user:a", LIMIT + 1) == LIMIT
        daemon.wait()
        daemon.close()
        assert found(database, clock, "user:a") == [LIMIT]
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR, logging.WARNING]
    assert "nothing is admitted" in caplog.text
