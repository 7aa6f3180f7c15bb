"""What the tests of the stores share."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Callable, Iterator

import pytest

from storage.stores import DATABASES, Clock, Database, SqliteDatabase


@pytest.fixture
def clock() -> Clock:
    """The clock of all daemons of one test."""
    return Clock()


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Database:
    """An empty database of each kind."""
    make: Callable[[pathlib.Path], Database] = request.param
    return make(tmp_path)


@pytest.fixture
def memory_directory(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """An empty directory on no disk, where there is such a thing: for thousands of transactions."""
    in_memory = pathlib.Path("/dev/shm")
    if not in_memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=in_memory, prefix="policyd-test-") as name:
        yield pathlib.Path(name)


@pytest.fixture
def sqlite(tmp_path: pathlib.Path) -> SqliteDatabase:
    """An SQLite database, for what concerns no other kind."""
    return SqliteDatabase(tmp_path)
