"""What is measured beside this daemon, each in a place of its own below one directory; nothing else is touched."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import venv

HERE = pathlib.Path(__file__).resolve().parent
VERSION_1_2_0 = "policyd-rate-limit==1.2.0"
POSTFWD_PACKAGES = ("postfwd", "libnet-server-perl", "libnet-dns-perl", "libio-multiplex-perl", "libdigest-hmac-perl")
READER_PACKAGES = ("pflogsumm", "lnav")  # each is the name of its program, too


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
        _unpack(packages, home)
    return home


def install_readers(directory: pathlib.Path) -> dict[str, str]:
    """Debian's pflogsumm and lnav, and what they need that is not here, unpacked below ``directory``, not installed.

    Where the programs lie, by name, and the variables of their environment. CalledProcessError or FileNotFoundError
    where there is no apt.
    """
    home = directory / "readers"
    paths = os.pathsep.join([f"{home}/usr/bin", f"{home}/usr/sbin", os.environ.get("PATH", os.defpath), "/usr/sbin"])
    if not all(shutil.which(name, path=paths) for name in READER_PACKAGES):
        packages = directory / "packages" / "readers"
        (packages / "partial").mkdir(parents=True, exist_ok=True)
        apt = ["apt-get", "--yes", "--quiet=2", "--download-only", "--no-install-recommends"]
        options = ["-o", "Debug::NoLocking=1", "-o", f"Dir::Cache::archives={packages.absolute()}"]
        subprocess.run([*apt, *options, "install", *READER_PACKAGES], check=True)
        _unpack(packages, home)
    libraries = sorted(home.glob("usr/lib/*-linux-*"))
    perl = [home / "usr/share/perl5", *(one for library in libraries for one in library.glob("perl5/*"))]
    places = {name: found for name in READER_PACKAGES if (found := shutil.which(name, path=paths))}
    return places | {
        "PERL5LIB": os.pathsep.join(map(str, perl)),
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
    }


def _unpack(packages: pathlib.Path, home: pathlib.Path) -> None:
    for package in packages.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", str(package), str(home)], check=True)
