"""What is measured beside this daemon, each in a place of its own below one directory; nothing else is touched."""

from __future__ import annotations

import os
import pathlib
import subprocess
import venv

HERE = pathlib.Path(__file__).resolve().parent
VERSION_1_2_0 = "policyd-rate-limit==1.2.0"
POSTFWD_PACKAGES = ("postfwd", "libnet-server-perl", "libnet-dns-perl", "libio-multiplex-perl", "libdigest-hmac-perl")


def build(directory: pathlib.Path, source: str, *libraries: str) -> pathlib.Path:
    """The program made of a C file of this directory, compiled again when that has changed."""
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / pathlib.Path(source).stem
    if not program.exists() or program.stat().st_mtime < (HERE / source).stat().st_mtime:
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, "-O2", "-o", str(program), str(HERE / source), *libraries], check=True)
    return program


def install_1_2_0(directory: pathlib.Path) -> pathlib.Path:
    """Version 1.2.0 from PyPI in a virtual environment of its own below ``directory``; its command."""
    home = directory / "policyd-rate-limit-1.2.0"
    command = home / "bin" / "policyd-rate-limit"
    if not command.exists():
        venv.create(home, with_pip=True, clear=True)
        pip = [str(home / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, VERSION_1_2_0], check=True)
    return command


def install_postfwd(directory: pathlib.Path) -> pathlib.Path:
    """Debian's postfwd and the modules it needs, unpacked below ``directory``, not installed; where they lie.

    CalledProcessError or FileNotFoundError where there is no apt.
    """
    home = directory / "postfwd"
    if not (home / "usr" / "sbin" / "postfwd1").exists():
        packages = directory / "packages"
        packages.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "--quiet=2", *POSTFWD_PACKAGES], cwd=packages, check=True)
        for package in packages.glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", str(package), str(home)], check=True)
    return home
