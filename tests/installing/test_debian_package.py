"""The Debian package as it lies there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.programs import require

pytestmark = pytest.mark.timeout(900)  # the first of them waits for what all share


def test_lintian_finds_no_error(packages: Path) -> None:
    (package,) = packages.glob("*.deb")
    command: list[str | Path] = [require("lintian"), "--fail-on", "error", "--allow-root", package]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
