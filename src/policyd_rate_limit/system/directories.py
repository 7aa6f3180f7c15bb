"""The directories that the daemon writes to."""

from __future__ import annotations

import os

from policyd_rate_limit.errors import SystemRefusal
from policyd_rate_limit.system import paths
from policyd_rate_limit.system.accounts import Account


def ensure_directory(path: str | os.PathLike[str], owner: Account | None) -> None:
    """Create the directory ``path`` with all its missing parents, and give ``path`` itself to ``owner``.

    What exists stays as it is, whoever owns it; what lies above ``path``, such as Postfix's queue directory, is never
    given away. Without ``owner`` the new directories are the caller's. Call it before a second thread exists: the umask
    is the whole process's. Raises SystemRefusal, naming the directory.
    """
    try:
        with paths.directory(path, make=True) as there:
            if owner is not None and there.is_new:
                paths.give(there, owner.uid, owner.gid)
    except OSError as error:
        raise SystemRefusal(f"cannot create directory {os.fspath(path)}: {error.strerror}") from error
