"""The directory of spool files: their names, how much room there is for one more."""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SUFFIX = ".journal"
MOST_FILES = 1000  # of one database


def path_of(directory: Path, name: str, number: int) -> Path:
    """Where the spool file of that ``number`` is, of the database ``name``."""
    return directory / f"{name}-{number}{SUFFIX}"


def is_named(path: Path, name: str) -> bool:
    """Whether ``path`` is that of a spool file of the database ``name``."""
    return re.fullmatch(re.escape(name) + "-[0-9]+" + re.escape(SUFFIX), path.name) is not None


def spool_files(directory: Path) -> list[Path]:
    """The paths of all spool files in ``directory``, of whatever database."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if re.fullmatch(r".*-[0-9]+" + re.escape(SUFFIX), path.name))


def most_bytes(directory: Path) -> int:
    """The most that a spool file in ``directory`` may take up: the database needs the rest."""
    free = os.statvfs(directory)
    return free.f_bavail * free.f_frsize // 4


def is_disk_full(error: BaseException) -> bool:
    """Whether ``error`` says that there is no room on the disk, or no more for this account."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def sync(directory: Path) -> None:
    """Have the names in ``directory`` on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
