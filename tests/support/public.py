"""A directory that any account may go into; pytest's own are closed to all but who runs the tests."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def public_directory() -> Iterator[pathlib.Path]:
    """A temporary directory with mode 0o755."""
    with tempfile.TemporaryDirectory(prefix="policyd-rate-limit-") as name:
        path = pathlib.Path(name)
        path.chmod(0o755)
        yield path
