"""What several files of these tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemon import Daemon
from support.doctor import Host
from support.programs import require
from support.public import public_directory


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """One daemon for all tests: none of them changes anything of it."""
    require("postconf")
    with public_directory() as directory:
        queue = directory / "queue"
        queue.mkdir()
        with Daemon(directory / "daemon", SOCKET=str(queue / "ratelimit" / "policy")) as daemon:
            yield Host(directory, queue, daemon)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that the account of a daemon can go into, with a short name."""
    with public_directory() as path:
        yield path
