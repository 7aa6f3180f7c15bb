"""A freshly installed Debian as a machine of its own, in which packages are installed and daemons are started."""

from __future__ import annotations

import fcntl
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from support.programs import missing, require

PACKAGES = ("adduser", "make", "python3", "python3-venv", "python3-yaml", "systemd", "systemd-sysv")
LIBRARIES = ("python3-hiredis", "python3-uvloop")
NEXT_RELEASE = {"bookworm": "trixie"}
SYSTEMD = ("/lib/systemd/systemd", "--system", "--show-status=no", "--log-target=journal")
NO_INIT = ("/bin/bash", "-c", "sleep infinity & wait")
DPKG = (
    # As in Debian's own images for containers; nothing of ours is left out.
    *(f"path-exclude=/usr/share/{what}/*" for what in ("doc", "info", "locale", "man")),
    "path-include=/usr/share/doc/*/copyright",
    "path-include=/usr/share/*/policyd-rate-limit*",
    "force-unsafe-io",  # nobody needs it after a crash
)
"""What dpkg leaves out and leaves undone there."""
READY_SECONDS = 60.0
COMMAND_SECONDS = 120.0

_SCRIPT = Path(__file__).with_suffix(".sh")


def debian_release() -> str:
    """The release of this machine, such as ``bookworm``; what is built here is installed there."""
    release = platform.freedesktop_os_release()
    if release["ID"] != "debian":
        missing("this machine is no Debian")
    return release["VERSION_CODENAME"]


def make_base(directory: Path) -> None:
    """Install a minimal Debian into ``directory``, with Debian's own policyd-rate-limit as a file in /packages.

    No package of a mail server is in it.
    """
    # The user of apt may not write there, so root does.
    download = "cd /packages && apt-get download --quiet=2 --option APT::Sandbox::User=root policyd-rate-limit"
    _run(
        [
            require("mmdebstrap"),
            "--mode=root",
            "--variant=minbase",
            *(f"--dpkgopt={option}" for option in DPKG),
            f"--include={','.join(PACKAGES)}",
            '--customize-hook=mkdir "$1/packages"',
            f"--customize-hook=chroot \"$1\" /bin/bash -c '{download}'",
            debian_release(),
            directory,
        ]
    )


def make_upgradable(base: Path, directory: Path) -> None:
    """Copy ``base`` into ``directory`` and download there all that an upgrade to the next release of Debian takes."""
    _run(["cp", "--archive", f"{base}/.", directory])
    release = debian_release()
    script = f"""
        set -e
        sed -i s/{release}/{NEXT_RELEASE[release]}/ /etc/apt/sources.list
        apt-get --quiet update
        apt-get --quiet --yes --download-only full-upgrade
        apt-get --quiet --yes --download-only --no-install-recommends install {" ".join(LIBRARIES)}
    """
    _run(["chroot", directory, "/bin/bash", "-c", script])


def _run(command: Sequence[str | Path]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-4000:]}"


@contextmanager
def shared(directory: Path, name: str, make: Callable[[Path], None]) -> Iterator[Path]:
    """What ``make`` leaves in a new directory, made once for all the processes that run tests.

    ``directory`` is theirs in common. The last of them that needs it no more removes it.
    """
    path = directory / name
    with (directory / f"{name}.made").open("a") as making, (directory / f"{name}.used").open("a") as using:
        fcntl.flock(making, fcntl.LOCK_EX)
        done = path / ".made"
        if not done.exists():
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
            make(path)
            done.touch()
        fcntl.flock(using, fcntl.LOCK_SH)
        fcntl.flock(making, fcntl.LOCK_UN)
        yield path
        fcntl.flock(making, fcntl.LOCK_EX)  # nobody begins to use it now
        try:
            fcntl.flock(using, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        shutil.rmtree(path)


class CleanRoot:
    """A machine on the file system ``base``, which it leaves as it is; ``shared`` is its /shared, to be written to.

    Its process 1 is ``init``. It has no network but the loopback interface.
    """

    def __init__(self, base: Path, directory: Path, shared: Path, init: tuple[str, ...]) -> None:
        self._arguments: tuple[str | Path, ...] = (base, directory, shared, *init)
        self._directory = directory
        self._booted = init is SYSTEMD
        self._outer: subprocess.Popen[str] | None = None
        self._target = 0

    def __enter__(self) -> Self:
        unshare = require("unshare")
        self._directory.mkdir()
        private: tuple[str | Path, ...] = (unshare, "--mount", "--propagation", "private")
        self._outer = subprocess.Popen(
            [*private, "setpriv", "--pdeathsig", "TERM", "/bin/bash", _SCRIPT, *self._arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._outer.stdout is not None
        parent = self._outer.stdout.readline().strip()
        if not parent:
            missing("this machine does not let root make namespaces, overlays or cgroups")
        try:
            self._await_ready(int(parent))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._outer is not None:
            self._outer.terminate()
            self._outer.communicate(timeout=30)

    def _await_ready(self, parent: int) -> None:
        end = time.monotonic() + READY_SECONDS
        children = Path(f"/proc/{parent}/task/{parent}/children")
        # Until its process 1 has become what it is to be, a command might still run on this machine.
        ready = "grep --quiet --null-data '^container=test$' /proc/1/environ"
        if self._booted:
            ready += " && case $(systemctl is-system-running) in running|degraded) ;; *) false ;; esac"
        while time.monotonic() < end:
            self._target = int(next(iter(children.read_text().split()), 0))
            if self._target and self.status(ready) == 0:
                return
            time.sleep(0.1)
        raise AssertionError(f"the machine is not up after {READY_SECONDS} s")

    def run(self, script: str, seconds: float = COMMAND_SECONDS) -> subprocess.CompletedProcess[str]:
        """Run ``script`` with bash, as root; its status, and what it wrote to both stdout and stderr."""
        namespaces = ("--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--root", "--wd")
        environment = (
            "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL=C.UTF-8",
            "DEBIAN_FRONTEND=noninteractive",
        )
        enter = ("nsenter", "--target", str(self._target), *namespaces)
        return subprocess.run(
            [*enter, "env", "-i", *environment, "/bin/bash", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )

    def path(self, path: str) -> Path:
        """Where this process finds ``path`` of the machine; it may be a UNIX socket, too.

        No part of it may be a symbolic link to an absolute path, such as /var/run: that would lead out.
        """
        return Path(f"/proc/{self._target}/root{path}")

    def do(self, script: str, seconds: float = COMMAND_SECONDS) -> str:
        """Run ``script``, up to its first command that fails, which fails the test; what it wrote."""
        done = self.run(f"set -euo pipefail\n{script}", seconds)
        assert done.returncode == 0, f"status {done.returncode} of\n{script}\n\n{done.stdout}"
        return done.stdout

    def status(self, script: str) -> int:
        """The exit status of ``script``."""
        return self.run(script).returncode


Machine = Callable[[Path, tuple[str, ...]], CleanRoot]
"""Makes a machine of a file system, with the given process 1."""
