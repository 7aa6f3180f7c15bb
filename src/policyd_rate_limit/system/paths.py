"""Directories by descriptor: root works in directories of unprivileged accounts, who may swap what is in them.

A path is gone along one level at a time, as openat2(2) does with RESOLVE_NO_SYMLINKS, and what was looked at is what is
then used, whatever the path says by then. Links such as ``/var/run`` are followed where root has made them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MODE = 0o755
"""Of directories that are made."""

MOST_LINKS = 40
"""Links in one path; as many as Linux follows."""

_NO_LINK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Directory(NamedTuple):
    """An open directory."""

    descriptor: int
    """For the ``dir_fd`` of os's functions; opened with O_PATH."""
    is_safe: bool
    """Nobody else can put another directory in the place of this one, or of one above it."""
    is_new: bool
    """It did not exist, and was made by us."""


@contextlib.contextmanager
def directory(path: str | os.PathLike[str], *, make: bool = False) -> Iterator[Directory]:
    """The directory ``path``, open while this lasts; with ``make`` it is made with all its missing parents.

    Raises OSError, among others where an account other than root has put a link into the path and we are root.
    """
    opened = _open(Path(path).absolute(), make=make)
    try:
        yield opened
    finally:
        os.close(opened.descriptor)


def give(made: Directory, uid: int, gid: int) -> None:
    """Give the new directory ``made`` to somebody. Raises OSError."""
    descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=made.descriptor)
    try:
        # Whoever owns the directory above may have put another one there before we opened it: one of root's, say.
        if os.fstat(descriptor).st_uid != os.geteuid() or os.listdir(descriptor):  # noqa: PTH208 - of a descriptor
            raise OSError(errno.ESTALE, "somebody replaces it")
        os.fchown(descriptor, uid, gid)
    finally:
        os.close(descriptor)


def _open(path: Path, *, make: bool) -> Directory:
    left = [(name, make) for name in reversed(path.parts[1:])]
    current = Directory(os.open("/", _NO_LINK), is_safe=True, is_new=False)
    links = 0
    try:
        while left:
            name, may_be_made = left.pop()
            found, is_new = _enter(current.descriptor, name, make=may_be_made)
            facts = os.fstat(found)
            if stat.S_ISLNK(facts.st_mode):
                try:
                    links += 1
                    if links > MOST_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    if os.geteuid() == 0 and facts.st_uid != 0:
                        raise OSError(
                            errno.ELOOP, f"{name} is a link of uid {facts.st_uid}, which root does not follow"
                        )
                    target = Path(os.readlink("", dir_fd=found))
                finally:
                    os.close(found)
                # Where a link leads to nothing, nothing is made there.
                left += [(level, False) for level in reversed(target.parts) if level != "/"]
                if target.is_absolute():
                    is_safe = current.is_safe and _keeps(current.descriptor)
                    os.close(current.descriptor)
                    current = current._replace(descriptor=-1)
                    current = Directory(os.open("/", _NO_LINK), is_safe, is_new=False)
                continue
            if not stat.S_ISDIR(facts.st_mode):
                os.close(found)
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))  # noqa: TRY301 - to close what is open
            is_safe = current.is_safe and _keeps(current.descriptor)
            os.close(current.descriptor)
            current = Directory(found, is_safe, is_new)
    except BaseException:
        if current.descriptor >= 0:
            os.close(current.descriptor)
        raise
    return current


def _enter(above: int, name: str, *, make: bool) -> tuple[int, bool]:
    """A descriptor of what is called ``name`` there, and whether we have made it."""
    with contextlib.suppress(FileNotFoundError):
        return os.open(name, _NO_LINK, dir_fd=above), False
    if not make:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    before = os.umask(0o777 & ~MODE)  # not chmod(2) afterwards: who knows what that finds
    try:
        os.mkdir(name, MODE, dir_fd=above)
    except FileExistsError:
        return os.open(name, _NO_LINK, dir_fd=above), False  # another daemon was faster
    finally:
        os.umask(before)
    return os.open(name, _NO_LINK | os.O_DIRECTORY, dir_fd=above), True


def _keeps(descriptor: int) -> bool:
    """Whether nobody but root and us can rename what is in a directory; what the sticky bit protects is ours here."""
    facts = os.fstat(descriptor)
    return facts.st_uid in (0, os.geteuid()) and (not facts.st_mode & 0o022 or bool(facts.st_mode & stat.S_ISVTX))
