"""The commands that are installed: they start the daemon, or say why it cannot run and what to type."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from policyd_rate_limit.cli.exits import Exit
from support.clean_root import LIBRARIES

PACKAGING = Path(__file__).resolve().parent.parent.parent / "packaging"
DAEMON = '#!/bin/sh\necho the daemon "$@"\n'


def run(command: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """The status of ``command``, what it wrote to standard output, and what to standard error."""
    words: list[str | Path] = [command, *arguments]
    done = subprocess.run(words, env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def script(path: Path, text: str) -> Path:
    """A program of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def of_make_install(directory: Path, python: Path, extras: str = "") -> Path:
    """The command as `make install` writes it, for the virtual environment ``directory``, made with ``python``."""
    text = (PACKAGING / "command").read_text()
    for name, value in (("venv", directory), ("python", python), ("extras", extras)):
        text, count = re.subn(rf"^{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
        assert count == 1
    script(directory / "bin" / "policyd-rate-limit", DAEMON)
    return script(directory / "command", text)


def test_the_command_of_make_install_starts_the_daemon(tmp_path: Path) -> None:
    python = script(tmp_path / "python3.11", "")
    command = of_make_install(tmp_path, python)
    (tmp_path / "bin" / "python").symlink_to(python)
    assert run(command, "--clean", "a b") == (0, "the daemon --clean a b\n", "")


@pytest.mark.parametrize("other", [None, "python3.13"])
def test_the_command_of_make_install_says_that_its_python_is_gone(tmp_path: Path, other: str | None) -> None:
    python = tmp_path / "python3.11"
    command = of_make_install(tmp_path, python, "redis,mysql")
    (tmp_path / "bin" / "python").symlink_to(python)
    if other:  # the link is to what another version has taken the place of
        script(tmp_path / other, "")
        python.symlink_to(tmp_path / other)
    status, out, err = run(command)
    assert (status, out) == (Exit.UNAVAILABLE, "")
    assert f"policyd-rate-limit: cannot run: {tmp_path} was made with {python}, which is gone" in err
    assert "NO MAIL IS LIMITED" in err
    assert "    make install EXTRAS=redis,mysql && " in err
    assert all(
        line.startswith("<3>policyd-rate-limit: ") for line in run(command, JOURNAL_STREAM="8:1")[2].splitlines()
    )


def of_the_package(directory: Path) -> Path:
    """The command of the Debian package, with the package in ``directory``."""
    text = (PACKAGING / "debian" / "command").read_text()
    changed = text.replace('"/usr/lib/policyd-rate-limit"', f'"{directory}"')
    assert changed != text
    # Debian's Python, of which nothing but the standard library is looked at.
    changed = changed.replace("#!/usr/bin/python3 -I", f"#!{Path(sys.executable).resolve()} -IS")
    return script(directory / "command", changed)


def test_the_command_of_the_package_says_what_it_lacks(tmp_path: Path) -> None:
    status, out, err = run(of_the_package(tmp_path))
    assert (status, out) == (Exit.UNAVAILABLE, "")
    assert f"cannot run with Python {sys.version_info[0]}.{sys.version_info[1]}, " in err
    assert "No module named 'uvloop'" in err
    assert "NO MAIL IS LIMITED" in err
    (line,) = re.findall(r"    apt-get install (.*) && systemctl restart policyd-rate-limit$", err, re.MULTILINE)
    assert sorted(line.split()) == sorted(LIBRARIES)


@pytest.mark.parametrize("bundled", [True, False])
def test_the_command_of_the_package_finds_its_libraries(tmp_path: Path, bundled: bool) -> None:
    """Those of the package where they are for this Python, else Debian's before those of the package."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX") if bundled else ".cpython-30-x86_64-linux-gnu.so"
    libraries = tmp_path / "libraries"
    command = of_the_package(tmp_path)
    script(libraries / "uvloop" / "__init__.py", "")
    script(libraries / "uvloop" / f"loop{suffix}", "")
    package = tmp_path / "policyd_rate_limit"
    script(package / "__init__.py", "")
    script(package / "command.py", "import sys\nmain = lambda: print(*sys.path)\n")
    status, out, _ = run(command)
    assert status == 0
    paths = out.split()
    assert paths[0] == str(tmp_path)
    assert paths.index(str(libraries)) == (1 if bundled else len(paths) - 1)
