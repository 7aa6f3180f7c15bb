"""Adds to a directory of installed packages their compiled modules for further versions of Python.

``other_pythons.py DIRECTORY``: DIRECTORY is what ``pip install --target`` has left for the running version. The Debian
package is installed on a release that has one version of Python, and stays when that release is upgraded to the next.
Extension modules of several versions lie side by side, since the version is part of their names. A version that a
package has no wheel for is left out as a whole, which is said.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VERSIONS = ((3, 11), (3, 13), (3, 14))
"""Of Debian 12, Debian 13 and what is to come."""


def main(directory: Path) -> None:
    """Add to ``directory`` what is newer than the running version: a release is upgraded, never downgraded."""
    wanted = [
        f"{one.name}=={one.version}" for one in map(_Distribution, sorted(directory.glob("*.dist-info"))) if one.tagged
    ]
    for version in VERSIONS:
        if version > sys.version_info[:2]:
            _add(directory, "{}.{}".format(*version), wanted)


class _Distribution:
    """An installed package: its name and version, and whether modules of it are for one version of Python."""

    def __init__(self, info: Path) -> None:
        self.name, self.version = info.name.removesuffix(".dist-info").split("-")
        self.tagged = bool(re.search(r"^Tag: cp3\d+-cp3\d+-", (info / "WHEEL").read_text(), re.MULTILINE))


def _add(directory: Path, version: str, wanted: list[str]) -> None:
    with tempfile.TemporaryDirectory() as wheels:
        options = ["--quiet", "--no-deps", "--only-binary=:all:", "--python-version", version, "--dest", wheels]
        done = subprocess.run(  # noqa: S603 - packages that pip has installed itself
            [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", *options, *wanted]
        )
        if done.returncode != 0:
            print(f"Nothing for Python {version}: the package does not run there without Debian's libraries.")
            return
        for wheel in Path(wheels).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(directory, [name for name in archive.namelist() if name.endswith(".so")])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
