"""The directories that the daemon writes to."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from policyd_rate_limit.errors import SystemRefusal
from policyd_rate_limit.system.accounts import Account

MODE = 0o755


def ensure_directory(path: str | os.PathLike[str], owner: Account | None) -> None:
    """Create the directory ``path`` with all its missing parents, and give ``path`` itself to ``owner``.

    What exists stays as it is, whoever owns it; what lies above ``path``, such as Postfix's queue directory, is never
    given away. Without ``owner`` the new directories are the caller's. Raises SystemRefusal, naming the directory.
    """
    path = Path(path)
    is_ours = False
    try:
        missing = list(itertools.takewhile(lambda level: not level.is_dir(), (path, *path.parents)))
        for level in reversed(missing):
            try:
                level.mkdir(MODE)
            except FileExistsError:
                if not level.is_dir():
                    raise
                continue  # another daemon was faster: then it is not ours to give away
            level.chmod(MODE)  # whatever the umask is
            is_ours = level == path
        if owner is not None and is_ours:
            os.chown(path, owner.uid, owner.gid, follow_symlinks=False)
    except OSError as error:
        raise SystemRefusal(f"cannot create directory {path}: {error.strerror}") from error
