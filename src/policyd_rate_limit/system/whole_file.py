"""Files that are written as a whole or not at all, such as a page or a configuration that a command makes."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from policyd_rate_limit.errors import SystemRefusal
from policyd_rate_limit.system.paths import directory

MODE = 0o666
"""Of new files, of which the umask takes what it has."""


def write_whole(path: Path, data: bytes, *, replace: bool) -> None:
    """Write ``data`` to ``path``: whoever looks there finds all of it, or what was there before.

    A file that is there is replaced where ``replace`` says so, and keeps who may read it. Raises SystemRefusal where
    there is one and it may not be replaced, where something else is there, such as a link or a device, where that
    cannot be written, or a directory on the way is a link that another account than root has made and we are root.
    """
    if path.name in ("", ".", ".."):
        raise SystemRefusal(f"{path}: expected the name of a file, found a directory")
    try:
        _write(path, data, replace=replace)
    except OSError as error:  # its own text names another file, or none
        raise SystemRefusal(f"cannot write {path}: {error.strerror or error}") from error


def _write(path: Path, data: bytes, *, replace: bool) -> None:
    with directory(path.parent) as above:
        mode = _mode(above.descriptor, path, replace=replace)
        new = f".{path.name[:200]}.{secrets.token_hex(4)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(new, flags, MODE, dir_fd=above.descriptor)
        try:
            with os.fdopen(descriptor, "wb") as file:
                if mode is not None:
                    os.fchmod(descriptor, mode)
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            if replace:
                os.replace(new, path.name, src_dir_fd=above.descriptor, dst_dir_fd=above.descriptor)
            else:
                _link(new, path, above.descriptor)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new, dir_fd=above.descriptor)


def _mode(above: int, path: Path, *, replace: bool) -> int | None:
    """The mode of the file that is there; None where there is none."""
    try:
        facts = os.stat(path.name, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(facts.st_mode):
        raise SystemRefusal(f"{path}: expected a file or a name that is free, found {_kind(facts.st_mode)}")
    if not replace:
        raise _exists(path)
    return stat.S_IMODE(facts.st_mode) & 0o777


def _link(new: str, path: Path, above: int) -> None:
    """Give the file ``new`` the name ``path``, unless that is taken by now."""
    try:
        os.link(new, path.name, src_dir_fd=above, dst_dir_fd=above, follow_symlinks=False)
    except FileExistsError:
        raise _exists(path) from None


def _exists(path: Path) -> SystemRefusal:
    return SystemRefusal(f"{path} exists; --force replaces it")


def _kind(mode: int) -> str:
    return "a link" if stat.S_ISLNK(mode) else "a directory" if stat.S_ISDIR(mode) else "a device, a pipe or a socket"
