"""Ways to take an SQLite database away from a daemon, and to give it back."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from typing import NamedTuple

from support.programs import require_root

Mend = Callable[[], None]


class Outage(NamedTuple):
    """``begin`` does the harm to the database file at a path and returns what mends it."""

    name: str
    begin: Callable[[pathlib.Path], Mend]


def _files(database: pathlib.Path) -> list[pathlib.Path]:
    """The database and what SQLite keeps beside it."""
    return [path for path in (database, *(_beside(database, end) for end in ("-wal", "-shm"))) if path.exists()]


def _beside(database: pathlib.Path, end: str) -> pathlib.Path:
    return database.with_name(database.name + end)


def delete(database: pathlib.Path) -> Mend:
    """Deletes the file; nobody brings it back."""
    for path in _files(database):
        path.unlink()
    return lambda: None


def delete_directory(database: pathlib.Path) -> Mend:
    """Deletes the directory of the file and everything in it; later makes it again, empty."""
    mode = database.parent.stat()
    shutil.rmtree(database.parent)

    def mend() -> None:
        database.parent.mkdir(exist_ok=True)
        os.chown(database.parent, mode.st_uid, mode.st_gid)

    return mend


def put_directory_in_place(database: pathlib.Path) -> Mend:
    """Moves the file away and puts a directory in its place; later puts it back."""
    away = {path: path.with_name(path.name + ".away") for path in _files(database)}
    for path, aside in away.items():
        path.rename(aside)
    database.mkdir()

    def mend() -> None:
        database.rmdir()
        for path, aside in away.items():
            aside.rename(path)

    return mend


def lock(database: pathlib.Path) -> Mend:
    """Another program holds the write lock."""
    other = sqlite3.connect(database, timeout=10, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")

    def mend() -> None:
        other.execute("ROLLBACK")
        other.close()

    return mend


def fill_disk(database: pathlib.Path) -> Mend:
    """Fills the file system of the database to the last byte; needs a small one (:func:`small_disk`)."""
    filler = database.parent / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler.unlink


def corrupt(database: pathlib.Path) -> Mend:
    """Writes garbage over the whole file, with its size unchanged."""
    with database.open("r+b") as file:
        file.write(os.urandom(max(database.stat().st_size, 4096)))
    return lambda: None


def truncate(database: pathlib.Path) -> Mend:
    """Cuts the file off in the middle of its first page."""
    os.truncate(database, 1000)
    return lambda: None


@contextlib.contextmanager
def small_disk(directory: pathlib.Path, megabytes: int = 4) -> Iterator[pathlib.Path]:
    """A file system of a few megabytes mounted in ``directory``; root only."""
    require_root()
    mounted = directory / "disk"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "none", str(mounted)], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def mentions(database: pathlib.Path, text: str) -> bool:
    """Whether any row of any table of the database holds ``text``; false when it cannot be read just now."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=0.1)) as reader:
            tables = [name for (name,) in reader.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return any(
                text in (value.decode(errors="replace") if isinstance(value, bytes) else str(value))
                for table in tables
                for row in reader.execute(f'SELECT * FROM "{table}"')
                for value in row
            )
    except sqlite3.Error:
        return False
