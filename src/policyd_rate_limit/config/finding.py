"""Where the configuration file is."""

from __future__ import annotations

from pathlib import Path


def search_path() -> tuple[Path, ...]:
    """Where a configuration file is looked for, in this order."""
    names = ("policyd-rate-limit.conf", "policyd-rate-limit.yaml")
    try:
        homes = [Path.home() / ".config"]
    except RuntimeError:  # an account without a home directory
        homes = []
    return tuple(directory / name for directory in [*homes, Path("/etc")] for name in names)


def find() -> Path | None:
    """The first configuration file of :func:`search_path` that exists, None when there is none."""
    return next((path for path in search_path() if exists(path)), None)


def exists(path: Path) -> bool:
    """Whether there is a file at ``path``, as far as we may look."""
    try:
        return path.exists()
    except OSError:  # no permission to look: not ours
        return False
