"""Whatever is done to the SQLite file while a daemon knows what was in it: nothing that was admitted is lost.

The daemon is killed some seconds later, so that only what it has written by then counts.
"""

from __future__ import annotations

import os
import pathlib
import random
import sqlite3
import time
from collections.abc import Callable

import pytest

from support.daemon import Daemon
from support.load import Background, left_for_all

LIMIT = 30
USERS = [f"user{number}" for number in range(300)]
BEFORE = 4_000  # answers
SECONDS_TO_NOTICE = 4.0  # once a second somebody looks, and then it takes as long as it takes


def truncated(path: pathlib.Path) -> None:
    """As a careless backup script does it."""
    os.truncate(path, 0)


def truncated_to_some_pages(path: pathlib.Path) -> None:
    """The rest is gone."""
    os.truncate(path, 3 * 4096)


def removed(path: pathlib.Path) -> None:
    """What lies beside it stays."""
    path.unlink()


def garbage(path: pathlib.Path) -> None:
    """In the middle, over some pages."""
    overwrite(path, os.urandom(5 * 4096))


def zeros(path: pathlib.Path) -> None:
    """Likewise."""
    overwrite(path, bytes(5 * 4096))


def overwrite(path: pathlib.Path, content: bytes) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(max(0, size // 2 // 4096 * 4096 - len(content)))
        file.write(content)


def header(path: pathlib.Path) -> None:
    """The first page is zeros."""
    with path.open("r+b") as file:
        file.write(bytes(4096))


def another_one(path: pathlib.Path) -> None:
    """The sound database of another program takes its place."""
    fresh = path.with_name("fresh")
    other = sqlite3.connect(fresh)
    with other:
        other.execute("CREATE TABLE other (a)")
    other.close()
    fresh.rename(path)


def older_copy_moved(path: pathlib.Path) -> None:
    """A backup of a moment ago takes its place."""
    copy = path.with_name("older")
    copy.rename(path)


def older_copy_written(path: pathlib.Path) -> None:
    """Likewise, into the same file."""
    path.write_bytes(path.with_name("older").read_bytes())


def damaged_copy_moved(path: pathlib.Path) -> None:
    """Likewise, and the backup is damaged."""
    copy = path.with_name("older")
    garbage(copy)
    header(copy)
    copy.rename(path)


def log_removed(path: pathlib.Path) -> None:
    """The write-ahead log."""
    path.with_name(f"{path.name}-wal").unlink()


def log_truncated(path: pathlib.Path) -> None:
    """To nothing."""
    os.truncate(path.with_name(f"{path.name}-wal"), 0)


def log_truncated_to_some_pages(path: pathlib.Path) -> None:
    """The rest is gone."""
    os.truncate(path.with_name(f"{path.name}-wal"), 20_000)


def log_overwritten(path: pathlib.Path) -> None:
    """Its beginning is garbage."""
    with path.with_name(f"{path.name}-wal").open("r+b") as file:
        file.write(os.urandom(30_000))


def index_removed(path: pathlib.Path) -> None:
    """The index of the write-ahead log."""
    path.with_name(f"{path.name}-shm").unlink()


HARM: tuple[Callable[[pathlib.Path], None], ...] = (
    truncated,
    truncated_to_some_pages,
    removed,
    garbage,
    zeros,
    header,
    another_one,
    older_copy_moved,
    older_copy_written,
    damaged_copy_moved,
    log_removed,
    log_truncated,
    log_truncated_to_some_pages,
    log_overwritten,
    index_removed,
)


def back_up(path: pathlib.Path) -> None:
    """An older copy, as SQLite makes it."""
    source, target = sqlite3.connect(path), sqlite3.connect(path.with_name("older"))
    source.backup(target)
    source.close()
    target.close()


@pytest.mark.long(8)
@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
def test_nothing_that_was_admitted_is_lost(tmp_path: pathlib.Path, harm: Callable[[pathlib.Path], None]) -> None:
    """After the restart each id has what is left of its limit, and no more."""
    chance = random.Random(harm.__name__)
    endless = iter(lambda: chance.choice(USERS), None)
    path = tmp_path / "db.sqlite3"
    with Daemon(tmp_path, limits=[[LIMIT, 86400]]) as daemon:
        with Background([daemon.address], endless, connections=16, rate=BEFORE / 2) as load:
            load.wait_for_answers(BEFORE // 4)
            back_up(path)
            load.wait_for_answers(BEFORE // 4)
            with sqlite3.connect(path) as other:
                other.execute("PRAGMA wal_checkpoint(PASSIVE)")
            other.close()
            load.wait_for_answers(BEFORE // 2)
            harm(path)
            time.sleep(SECONDS_TO_NOTICE)
            daemon.kill()
        daemon.start()
        left = left_for_all(daemon.address, USERS, LIMIT)
    tally = load.tally
    assert not tally.others
    lost = {user: tally.admitted[user] + left[user] - LIMIT for user in USERS}
    assert sum(tally.admitted.values()) > BEFORE // 2
    assert not {user: number for user, number in lost.items() if number > 0}, sum(lost.values())
