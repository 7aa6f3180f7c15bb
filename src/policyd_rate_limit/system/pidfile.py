"""The pidfile: one daemon at a time.

The daemon holds an flock(2) on it for life, so that a number that was left behind and now belongs to another
process is never mistaken for a daemon. The number itself counts too: version 1 of the program writes it
without a lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Self

from policyd_rate_limit.errors import AlreadyRunning, SystemRefusal
from policyd_rate_limit.system import paths
from policyd_rate_limit.system.accounts import Account

_PROGRAMS = (b"policyd-rate-limit", b"policyd_rate_limit")  # the command, and the module after -m
_LONGEST_NUMBER = 32


class Pidfile:
    """The pidfile at ``path``; it belongs to ``owner``, or to the caller when that is None.

    Its directory may belong to an unprivileged account while the caller is root, so whatever stands at
    ``path`` is looked at before it is written to. Also a context manager.
    """

    def __init__(self, path: str | os.PathLike[str], owner: Account | None = None) -> None:
        self.path = Path(path).absolute()
        self.owner = owner
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Lock the file and write our process id into it.

        Raises AlreadyRunning when another instance runs, SystemRefusal when the file cannot be used.
        """
        try:
            with paths.directory(self.path.parent) as there:
                self._descriptor = self._locked(there.descriptor)
        except OSError as error:
            raise SystemRefusal(f"cannot use pidfile {self.path}: {error.strerror}") from error

    def release(self) -> None:
        """Remove the file if it is still ours, and unlock it.

        Where the directory does not let us remove it, it is left empty. Does nothing without the lock.
        """
        if self._descriptor is None:
            return
        try:
            with paths.directory(self.path.parent) as there:
                if self._is_at_path(self._descriptor, there.descriptor):
                    os.unlink(self.path.name, dir_fd=there.descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)
        self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _locked(self, directory: int) -> int:
        while True:
            descriptor = self._open(directory)
            try:
                if self._lock(descriptor, directory):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _open(self, directory: int) -> int:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        while True:
            # Two steps, because with fs.protected_regular O_CREAT fails on a file of another user in /tmp.
            with contextlib.suppress(FileNotFoundError):
                return os.open(self.path.name, flags, dir_fd=directory)
            with contextlib.suppress(FileExistsError):
                return os.open(self.path.name, flags | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=directory)

    def _lock(self, descriptor: int, directory: int) -> bool:
        """Take the file over; False when another instance removed it since we opened it."""
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
            raise SystemRefusal(f"cannot use pidfile {self.path}: not a regular file with one name")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            number = _number(descriptor)
            raise self._already_running(f"process {number}" if number else "it is locked") from None
        if not self._is_at_path(descriptor, directory):
            return False
        number = _number(descriptor)
        if number and number != os.getpid() and _runs_us(number):
            raise self._already_running(f"process {number}")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        if self.owner is not None:
            os.fchown(descriptor, self.owner.uid, self.owner.gid)
        return True

    def _is_at_path(self, descriptor: int, directory: int) -> bool:
        try:
            there = os.stat(self.path.name, dir_fd=directory, follow_symlinks=False)
            return os.path.samestat(os.fstat(descriptor), there)
        except FileNotFoundError:
            return False

    def _already_running(self, who: str) -> AlreadyRunning:
        return AlreadyRunning(f"another instance runs by pidfile {self.path}: {who}")


def running(path: str | os.PathLike[str]) -> int | None:
    """The process that runs as the daemon by the pidfile at ``path``, None when there is none.

    Nothing is locked: a daemon that starts at this moment shall not find that another one does.
    """
    number = 0
    with contextlib.suppress(OSError):  # no file, or nothing that a daemon has written
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            number = _number(descriptor)
        finally:
            os.close(descriptor)
    return number if number and number != os.getpid() and _runs_us(number) else None


def _number(descriptor: int) -> int:
    """The process id in the file, 0 when there is none."""
    text = os.pread(descriptor, _LONGEST_NUMBER, 0).strip()
    # What is longer or greater than any process id of Linux (2**22) is garbage.
    return int(text) if text.isdigit() and len(text) < 10 else 0


def _runs_us(number: int) -> bool:
    """Whether process ``number`` lives and is this program; what /proc does not show is believed to be."""
    try:
        command = Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return _lives(number)
    # The last part of a word alone: an editor of /etc/policyd-rate-limit.conf is not the daemon, nor is what runs in a
    # virtual environment below /opt/policyd-rate-limit.
    return any(word.rpartition(b"/")[2] in _PROGRAMS for word in command.split(b"\0"))


def _lives(number: int) -> bool:
    try:
        os.kill(number, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True
