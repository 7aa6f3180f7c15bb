"""The programs beside the daemon that tests start, and what happens where one is missing."""

from __future__ import annotations

import os
import pathlib
import shutil
from typing import NoReturn

import pytest

SEARCHED = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def missing(reason: str) -> NoReturn:
    """End the test because the machine lacks something: skipped on a laptop, failed in CI (``CI=true``)."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason} (CI=true, so this is a failure)", pytrace=False)
    pytest.skip(reason)


def require(program: str) -> pathlib.Path:
    """The path of ``program``, also in the directories of system programs; else the test ends."""
    found = shutil.which(program, path=SEARCHED)
    if found is None:
        missing(f"{program} is not installed")
    return pathlib.Path(found)


def require_root() -> None:
    """End the test unless it runs as root."""
    if os.geteuid() != 0:
        missing("needs root")


def require_faketime() -> pathlib.Path:
    """The preloaded library of libfaketime for programs with threads; else the test ends."""
    for path in sorted(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")):
        return path
    missing("libfaketime is not installed")
