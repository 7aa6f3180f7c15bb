"""What is built and installed once for all tests of a run."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.clean_root import NEXT_RELEASE, CleanRoot, Machine, debian_release, make_base, make_upgradable, shared
from support.programs import require

PROJECT = Path(__file__).resolve().parent.parent.parent
BUILD_SECONDS = 600
# To optimize and to pack with xz would take most of the time that it takes to build a package. Of what pip installs to
# build with, little is ever imported.
QUICK = {
    "DEB_BUILD_OPTIONS": "noopt",
    "DPKG_DEB_COMPRESSOR_TYPE": "gzip",
    "DPKG_DEB_COMPRESSOR_LEVEL": "1",
    "PIP_COMPILE": "0",
}


def _build(command: list[str | Path], **environment: str) -> None:
    done = subprocess.run(
        command,
        cwd=PROJECT,
        env={**os.environ, **QUICK, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_SECONDS,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout[-4000:]}"


@pytest.fixture(scope="session")
def run_directory(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A directory that all processes of this run of pytest share."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def artefacts(run_directory: Path) -> Iterator[Path]:
    """A directory with the sdist, and the wheel that was built from it: the one for machines without a compiler."""
    with shared(run_directory, "artefacts", _build_artefacts) as path:
        yield path


def _build_artefacts(directory: Path) -> None:
    _build([sys.executable, "-m", "build", "--outdir", directory], POLICYD_RATE_LIMIT_COMPILE="0")


@pytest.fixture(scope="session")
def packages(run_directory: Path) -> Iterator[Path]:
    """A directory with the Debian package, and in ``newer`` the same with a higher version."""
    require("dpkg-buildpackage")
    require("dh")
    with shared(run_directory, "packages", _build_packages) as path:
        yield path


def _build_packages(directory: Path) -> None:
    _build([PROJECT / "packaging" / "build-deb.sh", sys.executable, directory])
    (package,) = directory.glob("*.deb")
    unpacked = directory / "unpacked"
    _build(["dpkg-deb", "--raw-extract", package, unpacked])
    control = unpacked / "DEBIAN" / "control"
    control.write_text(control.read_text().replace("\nVersion: 2", "\nVersion: 3"))
    (directory / "newer").mkdir()
    _build(["dpkg-deb", "--root-owner-group", "--build", unpacked, directory / "newer"])


@pytest.fixture(scope="session")
def wheels(run_directory: Path) -> Iterator[Path]:
    """A directory with all that pip needs to install this package with the Python of this machine's Debian."""
    with shared(run_directory, "wheels", _download_wheels) as path:
        yield path


def _download_wheels(directory: Path) -> None:
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = subprocess.run(
        ["/usr/bin/python3", "-c", ask], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    web = project["project"]["optional-dependencies"]["web"]
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"], *web]
    options: list[str | Path] = ["--only-binary=:all:", "--python-version", version, "--dest", directory]
    _build([sys.executable, "-m", "pip", "download", "--quiet", *options, *wanted])


@pytest.fixture(scope="session")
def base(run_directory: Path) -> Iterator[Path]:
    """The file system of a freshly installed Debian.

    A directory that POLICYD_RATE_LIMIT_CLEAN_ROOT names keeps it for the next run.
    """
    require("mmdebstrap")
    kept = os.environ.get("POLICYD_RATE_LIMIT_CLEAN_ROOT")
    if kept and (Path(kept) / ".made").exists():
        yield Path(kept)
        return
    with shared(run_directory, "base", make_base) as path:
        if kept:
            subprocess.run(["cp", "--archive", path, kept], check=True)
        yield path


@pytest.fixture(scope="session")
def upgradable(base: Path, run_directory: Path) -> Iterator[Path]:
    """The same, with all that apt needs to upgrade it to the next release of Debian."""
    if debian_release() not in NEXT_RELEASE:
        pytest.skip(f"Debian {debian_release()} is the newest release")
    with shared(run_directory, "upgradable", lambda directory: make_upgradable(base, directory)) as path:
        yield path


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Makes a machine of a file system, with the given process 1."""
    share = tmp_path / "shared"
    share.mkdir()
    with ExitStack() as machines:

        def make(base: Path, init: tuple[str, ...]) -> CleanRoot:
            return machines.enter_context(CleanRoot(base, tmp_path / "machine", share, init))

        yield make
