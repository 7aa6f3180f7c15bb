"""What several files of these tests share."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemon import Daemon
from support.doctor import Host
from support.programs import require, require_root
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


@pytest.fixture
def owned_by_nobody() -> Iterator[Path]:
    """A directory of the unprivileged account that the daemon runs as."""
    require_root()
    nobody = pwd.getpwnam("nobody")
    with public_directory() as directory:
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)
        yield directory
