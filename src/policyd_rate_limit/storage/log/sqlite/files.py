"""The files of a database: which one it is, what SQLite keeps beside it, and who may make or rename it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from policyd_rate_limit.storage.log.sqlite.turn import LOCK_RETRY

if TYPE_CHECKING:
    from collections.abc import Iterator

OPEN_PATIENCE = 1.0  # seconds to wait for others, at the least, while the file is made, opened or renamed


def identity(path: Path) -> tuple[int, int] | None:
    """What tells this database from another one of the same name, None while there is none: an empty file is none."""
    return inode(path, at_least=1)


def inode(path: Path, at_least: int = 0) -> tuple[int, int] | None:
    """What tells the file from another one of the same name, None where there is none of ``at_least`` so many bytes."""
    found = facts(path)
    return (found.st_dev, found.st_ino) if found is not None and found.st_size >= at_least else None


def facts(path: Path) -> os.stat_result | None:
    """What the file system says of the file, None where there is none."""
    try:
        return path.stat()
    except OSError:
        return None


def companions(path: Path) -> tuple[Path, Path]:
    """The files that SQLite keeps beside ``path``."""
    return Path(f"{path}-wal"), Path(f"{path}-shm")


def set_aside(path: Path, damaged: tuple[int, int] | None, stamp: int) -> Path | None:
    """Rename the damaged file and its companions; the new name, None when another daemon has done so before."""
    with creation_lock(path):
        if damaged is None or inode(path) != damaged:
            return None
        aside = Path(f"{path}.damaged-{stamp}")
        for companion in companions(path):
            with contextlib.suppress(OSError):
                companion.rename(f"{aside}{str(companion)[len(str(path)) :]}")
        path.rename(aside)
        return aside


@contextlib.contextmanager
def creation_lock(path: Path, patience: float = 0.0) -> Iterator[None]:
    """Only one daemon at a time makes, removes or renames the file.

    Best effort: without it where no lock can be had, also not within ``patience`` seconds (:data:`OPEN_PATIENCE` at
    the least), as from a daemon that was stopped while it had it.
    """
    descriptor = None
    with contextlib.suppress(OSError):
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    if descriptor is not None:
        end = time.monotonic() + max(patience, OPEN_PATIENCE)
        with contextlib.suppress(OSError):
            while not _is_locked(descriptor) and time.monotonic() < end:
                time.sleep(LOCK_RETRY[1])
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    """Whether the lock was to be had."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
