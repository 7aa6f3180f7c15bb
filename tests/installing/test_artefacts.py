"""The sdist and the wheel, as `make dist` builds them."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import policyd_rate_limit

PROJECT = Path(__file__).resolve().parent.parent.parent
PACKAGE = PROJECT / "src" / "policyd_rate_limit"
pytestmark = pytest.mark.timeout(900)  # the first of them waits for what all share
NOT_SHIPPED = {".gitignore", ".ci/run"}


def files_of_package() -> set[str]:
    found = (path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*") if path.is_file())
    return {str(path) for path in found if "__pycache__" not in path.parts}


def test_the_sdist_has_every_file_of_the_repository(artefacts: Path) -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    if tracked.returncode == 0 and tracked.stdout:
        expected = set(tracked.stdout.rstrip("\0").split("\0")) - NOT_SHIPPED
        expected = {name for name in expected if (PROJECT / name).exists()}
    else:  # an unpacked sdist is tested
        expected = {"Makefile", "packaging/install.sh", "packaging/debian/rules", "LICENSE"}
    (sdist,) = artefacts.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert expected <= held


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(artefacts: Path) -> None:
    (wheel,) = artefacts.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == files_of_package()


def test_the_command_of_the_wheel_works(artefacts: Path, tmp_path: Path) -> None:
    (wheel,) = artefacts.glob("*.whl")
    target = tmp_path / "installed"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel]
    subprocess.run(pip, check=True, timeout=120)
    configuration = tmp_path / "policyd-rate-limit.yaml"
    configuration.write_text("limits: ['7/1m']\n")

    def run(*arguments: str | Path) -> str:
        command = [target / "bin" / "policyd-rate-limit", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(target)}
        return subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=60
        ).stdout

    assert policyd_rate_limit.__version__ in run("--version")
    assert run("-f", configuration, "--get-config", "limits") == "[[7, 60]]"


def test_the_debian_package_has_the_version_of_the_code() -> None:
    first = (PROJECT / "packaging" / "debian" / "changelog").read_text().partition("\n")[0]
    # Debian sorts "~" before the end: what comes before a release in PEP 440 does so there, too.
    version = policyd_rate_limit.__version__.replace(".dev", "~dev").replace("rc", "~rc")
    assert first.startswith(f"policyd-rate-limit ({version}) ")
