"""Root beside an account that swaps links and files into its own directories, at every step that root takes there.

Nothing of root's is made, given away, removed or written to through them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from policyd_rate_limit.errors import PolicydError, SystemRefusal
from policyd_rate_limit.system.accounts import Account
from policyd_rate_limit.system.directories import ensure_directory
from policyd_rate_limit.system.pidfile import Pidfile
from policyd_rate_limit.system.sockets import address_of, bind, unlink_socket
from support.programs import require_root
from support.public import public_directory

pytestmark = pytest.mark.needs_root

ATTACKER = Account("attacker", 54321, 54321, (54321,))
CALLS = ("open", "mkdir", "stat", "unlink", "chmod", "chown", "fchown", "umask")


class AttackedDirectories:
    """A directory of the attacker's, ``home``, and what root has, which must stay as it is."""

    def __init__(self, place: Path) -> None:
        self.home = place / "home"
        self.home.mkdir()
        os.chown(self.home, ATTACKER.uid, ATTACKER.gid)
        self.precious = place / "precious"
        self.precious.mkdir(0o700)
        for name in ("policyd", "policy", "file"):
            (self.precious / name).write_text("precious")
            (self.precious / name).chmod(0o600)
        (self.precious / "sub").mkdir(0o700)
        self.before = self.look()

    def look(self) -> list[tuple[str, int, int, int, int]]:
        found = []
        for path in (self.precious, *sorted(self.precious.rglob("*"))):
            facts = path.lstat()
            found.append((str(path), facts.st_ino, facts.st_mode, facts.st_uid, facts.st_size))
        return found


@pytest.fixture
def attacked() -> Iterator[AttackedDirectories]:
    require_root()
    with public_directory() as place:
        attacked = AttackedDirectories(place)
        yield attacked
        assert attacked.look() == attacked.before


def nothing_is_there(_attacked: AttackedDirectories) -> None:
    """The attacker's directory is empty."""


def a_directory(attacked: AttackedDirectories) -> None:
    """There is one in it, which is the attacker's."""
    (attacked.home / "a").mkdir()
    os.chown(attacked.home / "a", ATTACKER.uid, ATTACKER.gid)


def an_old_pidfile(attacked: AttackedDirectories) -> None:
    """A daemon has left its pidfile there."""
    a_directory(attacked)
    (attacked.home / "a" / "policyd").write_text("garbage")


def an_old_socket(attacked: AttackedDirectories) -> None:
    """A daemon has left its socket there."""
    a_directory(attacked)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(attacked.home / "a" / "policy"))


def make_directories(attacked: AttackedDirectories) -> None:
    """Both levels are new, or one."""
    ensure_directory(attacked.home / "a" / "b", ATTACKER)


def hold_pidfile(attacked: AttackedDirectories) -> None:
    """From its start to its end."""
    with Pidfile(attacked.home / "a" / "policyd", ATTACKER):
        pass


def listen(attacked: AttackedDirectories) -> None:
    """From its start to its end."""
    with bind(str(attacked.home / "a" / "policy"), 0o666, ATTACKER) as listener:
        unlink_socket(listener)


STEPS = [
    (nothing_is_there, make_directories),
    (a_directory, make_directories),
    (a_directory, hold_pidfile),
    (an_old_pidfile, hold_pidfile),
    (a_directory, listen),
    (an_old_socket, listen),
]


def swap_directory(attacked: AttackedDirectories) -> None:
    """A link in the place of a directory on the way."""
    shutil.rmtree(attacked.home / "a", ignore_errors=True)
    with contextlib.suppress(FileExistsError):
        (attacked.home / "a").symlink_to(attacked.precious)
    os.chown(attacked.home / "a", ATTACKER.uid, ATTACKER.gid, follow_symlinks=False)


def swap_last(attacked: AttackedDirectories) -> None:
    """A link in the place of whatever is in the directory."""
    with contextlib.suppress(OSError):
        for name, target in (("b", "sub"), ("policyd", "policyd"), ("policy", "policy")):
            path = attacked.home / "a" / name
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
            path.symlink_to(attacked.precious / target)
            os.chown(path, ATTACKER.uid, ATTACKER.gid, follow_symlinks=False)


@pytest.mark.parametrize("swap", [swap_directory, swap_last])
@pytest.mark.parametrize(("before", "step"), STEPS)
def test_a_link_before_or_after_any_call(
    attacked: AttackedDirectories,
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[AttackedDirectories], None],
    step: Callable[[AttackedDirectories], None],
    swap: Callable[[AttackedDirectories], None],
) -> None:
    """The attacker acts once: before, or after, the first call of the system, the second, and so on."""
    real = {name: getattr(os, name) for name in CALLS}
    count = when = 0
    acting = False

    def patched(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count, acting
            if acting:
                return real[name](*arguments, **options)
            result = real[name](*arguments, **options) if when % 2 else None
            if count == when // 2:
                acting = True
                swap(attacked)
                acting = False
            count += 1
            return result if when % 2 else real[name](*arguments, **options)

        return call

    for name in CALLS:
        monkeypatch.setattr(os, name, patched(name))
    while count >= when // 2:
        count = 0
        acting = True
        shutil.rmtree(attacked.home, ignore_errors=True)
        attacked.home.mkdir()
        os.chown(attacked.home, ATTACKER.uid, ATTACKER.gid)
        before(attacked)
        acting = False
        with contextlib.suppress(PolicydError, OSError):
            step(attacked)
        acting = True
        assert attacked.look() == attacked.before, f"call {when // 2}"
        acting = False
        when += 1
    monkeypatch.undo()
    assert when > 4


SWAPPER = """
import contextlib, os, sys
home, precious, uid = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.setgid(uid)
os.setuid(uid)
os.chdir(home)
print("begins", flush=True)
while True:
    with contextlib.suppress(OSError):
        os.rename("a", "old")
    with contextlib.suppress(OSError):
        os.symlink(precious, "a")
    with contextlib.suppress(OSError):
        os.unlink("a")
    with contextlib.suppress(OSError):
        os.rmdir("old")
    with contextlib.suppress(OSError):
        os.unlink("old")
"""


def test_a_process_that_swaps_as_fast_as_it_can(attacked: AttackedDirectories) -> None:
    command = [sys.executable, "-c", SWAPPER, str(attacked.home), str(attacked.precious), str(ATTACKER.uid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as swapper:
        try:
            assert swapper.stdout is not None
            assert swapper.stdout.readline() == b"begins\n"
            for number in range(1000):
                with contextlib.suppress(SystemRefusal):
                    ensure_directory(attacked.home / "a", ATTACKER)
                if number % 10 == 0:
                    for step in (hold_pidfile, listen):
                        with contextlib.suppress(PolicydError):
                            step(attacked)
                assert attacked.look() == attacked.before
        finally:
            swapper.kill()


@pytest.mark.parametrize("step", [make_directories, hold_pidfile, listen])
def test_a_link_of_roots_is_followed_and_one_of_anybody_else_is_not(
    attacked: AttackedDirectories, step: Callable[[AttackedDirectories], None]
) -> None:
    real = attacked.home.parent / "real"
    real.mkdir()
    link = attacked.home / "a"
    link.symlink_to(real)
    step(attacked)
    os.chown(link, ATTACKER.uid, ATTACKER.gid, follow_symlinks=False)
    shutil.rmtree(real / "b", ignore_errors=True)
    with pytest.raises(SystemRefusal, match=f"a is a link of uid {ATTACKER.uid}, which root does not follow"):
        step(attacked)


def test_a_socket_in_a_directory_that_can_be_swapped_is_told_by_its_path(attacked: AttackedDirectories) -> None:
    """Bound by descriptor; whoever asks gets the path all the same, and clients connect to it."""
    (attacked.home / "a").mkdir()
    path = attacked.home / "a" / "policy"
    with bind(str(path), 0o666, ATTACKER) as listener, socket.socket(socket.AF_UNIX) as client:
        assert address_of(listener) == str(path)
        assert listener.getsockname().startswith("/proc/self/fd/")
        client.connect(str(path))
        facts = path.stat()
        assert (facts.st_uid, facts.st_gid, facts.st_mode & 0o777) == (ATTACKER.uid, ATTACKER.gid, 0o666)


def test_a_directory_of_roots_put_in_the_place_of_the_new_one_is_not_given_away(
    attacked: AttackedDirectories, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir
    roots = attacked.home / "roots"
    roots.mkdir(0o700)
    (roots / "file").touch()

    def swapping(name: str, mode: int, *, dir_fd: int) -> None:
        mkdir(name, mode, dir_fd=dir_fd)
        os.rmdir(name, dir_fd=dir_fd)
        os.rename("roots", name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", swapping)
    with pytest.raises(SystemRefusal, match="somebody replaces it"):
        ensure_directory(attacked.home / "x", ATTACKER)
    facts = (attacked.home / "x").stat()
    assert (facts.st_uid, facts.st_mode & 0o777) == (0, 0o700)
