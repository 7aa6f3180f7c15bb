"""The pidfile: who may take it over, and who may not."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from policyd_rate_limit.errors import AlreadyRunning, SystemRefusal
from policyd_rate_limit.system import pidfile
from policyd_rate_limit.system.accounts import Account
from policyd_rate_limit.system.pidfile import Pidfile
from support.programs import require_root
from support.public import public_directory


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "daemon.pid"


@pytest.fixture(
    params=[
        ["policyd-rate-limit"],
        ["python3", "/usr/bin/policyd-rate-limit", "-f", "/etc/x.yaml"],
        ["python3", "-m", "policyd_rate_limit"],
    ],
    ids=["its name", "a script", "a module"],
)
def namesake(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is called as the daemon is, and holds no lock."""
    with sleeper(*request.param) as process:
        yield process
        process.kill()


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process of another program, which runs and edits what has a name like the daemon's."""
    with sleeper("/opt/policyd-rate-limit/bin/something-else", "/etc/policyd-rate-limit.conf") as process:
        yield process
        process.kill()


def sleeper(name: str, *words: str) -> subprocess.Popen[bytes]:
    """A process named ``name``, with ``words`` behind that, that waits for ever; returns once it bears that name."""
    process = subprocess.Popen(
        [name, "-c", "print(flush=True); input()", *words],
        executable=sys.executable,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def dead_number() -> int:
    """The id of a process that is over."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_holds_our_number_until_released(path: Path) -> None:
    with Pidfile(path):
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


def test_a_second_one_is_refused_and_changes_nothing(path: Path) -> None:
    with Pidfile(path):
        with pytest.raises(AlreadyRunning) as caught:
            Pidfile(path).acquire()
        assert str(path) in str(caught.value)
        assert f"process {os.getpid()}" in str(caught.value)
        assert path.read_text() == f"{os.getpid()}\n"


def test_can_be_had_again_after_release(path: Path) -> None:
    one = Pidfile(path)
    one.acquire()
    one.release()
    one.release()
    with Pidfile(path), pytest.raises(AlreadyRunning):
        one.acquire()


def test_a_locked_file_without_a_number_is_another_instance(path: Path) -> None:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(AlreadyRunning, match="it is locked"):
            Pidfile(path).acquire()


def test_a_daemon_of_version_1_counts_without_a_lock(path: Path, namesake: subprocess.Popen[bytes]) -> None:
    path.write_text(f"{namesake.pid}")
    with pytest.raises(AlreadyRunning, match=f"process {namesake.pid}$"):
        Pidfile(path).acquire()
    assert path.read_text() == f"{namesake.pid}"


def test_a_number_that_another_program_got_is_stale(path: Path, stranger: subprocess.Popen[bytes]) -> None:
    path.write_text(f"{stranger.pid}\n")
    with Pidfile(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_our_own_number_is_stale(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container the daemon has the same number at every start."""
    name = Path("/proc/self/cmdline").read_bytes().split(b"\0")[0]
    monkeypatch.setattr(pidfile, "_PROGRAMS", (name.rpartition(b"/")[2],))
    path.write_text(f"{os.getpid()}\n")
    with Pidfile(path):
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"garbage", b"-1", b"0", b"12x", b"1" * 40, b"9" * 9, b"\xff\x00", b"1 2"]
)
def test_garbage_is_taken_over(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with Pidfile(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_the_number_of_a_dead_process_is_taken_over(path: Path) -> None:
    path.write_text(f"  {dead_number()}\n")
    with Pidfile(path):
        assert path.read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("lives", [True, False])
def test_without_proc_a_live_process_is_believed(
    path: Path, monkeypatch: pytest.MonkeyPatch, stranger: subprocess.Popen[bytes], lives: bool
) -> None:
    def unreadable(self: Path) -> bytes:
        raise PermissionError

    monkeypatch.setattr(Path, "read_bytes", unreadable)
    path.write_text(f"{stranger.pid if lives else dead_number()}")
    if lives:
        with pytest.raises(AlreadyRunning):
            Pidfile(path).acquire()
    else:
        with Pidfile(path):
            pass


def test_without_proc_a_process_of_somebody_else_lives(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(self: Path) -> bytes:
        raise FileNotFoundError

    def forbidden(number: int, signal: int) -> None:
        assert (number, signal) == (1, 0)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "read_bytes", unreadable)
    monkeypatch.setattr(os, "kill", forbidden)
    path.write_text("1")
    with pytest.raises(AlreadyRunning):
        Pidfile(path).acquire()


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    path.symlink_to(precious)
    with pytest.raises(SystemRefusal, match=f"^cannot use pidfile {path}: "):
        Pidfile(path).acquire()
    assert precious.read_text() == "precious"


def test_a_second_name_of_a_file_is_not_written_to(path: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    path.hardlink_to(precious)
    with pytest.raises(SystemRefusal, match="not a regular file with one name"):
        Pidfile(path).acquire()
    assert precious.read_text() == "precious"


def test_a_pipe_does_not_hang_the_start(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(SystemRefusal, match="not a regular file"):
        Pidfile(path).acquire()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "daemon.pid"
    with pytest.raises(SystemRefusal, match=f"^cannot use pidfile {path}: No such file or directory$"):
        Pidfile(path).acquire()


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemRefusal, match="Is a directory"):
        Pidfile(tmp_path).acquire()


def test_only_our_own_file_is_removed(path: Path) -> None:
    ours = Pidfile(path)
    ours.acquire()
    path.unlink()
    with Pidfile(path):
        ours.release()
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_file_that_is_gone_already(path: Path) -> None:
    """The daemon ends all the same, and the next one has a file again."""
    with Pidfile(path):
        path.unlink()
    assert not path.exists()
    with Pidfile(path):
        assert path.read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("again", [True, False])
def test_removed_by_another_instance_between_open_and_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """Without a second look, two daemons would each hold a lock, one of them on a file that has no name."""
    flock = fcntl.flock
    races = iter([True])

    def race(descriptor: int, operation: int) -> None:
        if next(races, False):
            path.unlink()
            if again:
                path.write_text("")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", race)
    with Pidfile(path):
        assert path.read_text() == f"{os.getpid()}\n"
        with pytest.raises(AlreadyRunning):
            Pidfile(path).acquire()


def test_created_by_another_instance_between_two_looks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open
    races = iter([True])

    def race(name: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_CREAT and dir_fd is not None and next(races, False):
            path.write_text("")
        return real(name, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", race)
    with Pidfile(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_the_lock_ends_with_the_process(path: Path) -> None:
    """``kill -9`` leaves the file, not the lock; and no child inherits it."""
    script = """
import subprocess, sys
from policyd_rate_limit.system.pidfile import Pidfile
Pidfile(sys.argv[1]).acquire()
child = subprocess.Popen(["sleep", "300"], close_fds=False, stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            with pytest.raises(AlreadyRunning):
                Pidfile(path).acquire()
            process.kill()
            process.wait()
            assert path.read_text() == f"{process.pid}\n"
            with Pidfile(path):
                assert path.read_text() == f"{os.getpid()}\n"
        finally:
            os.kill(child, 9)


@pytest.mark.needs_root
def test_belongs_to_the_account(path: Path) -> None:
    require_root()
    with Pidfile(path, Account("somebody", 54321, 54322, (54322,))):
        assert (path.stat().st_uid, path.stat().st_gid) == (54321, 54322)
        assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.needs_root
def test_where_it_may_not_be_removed_it_is_emptied() -> None:
    require_root()
    script = """
import sys
from policyd_rate_limit.system.accounts import Account, drop_privileges
from policyd_rate_limit.system.pidfile import Pidfile
account = Account("54321", 54321, 54322, (54322,))
with Pidfile(sys.argv[1], account):
    drop_privileges(account)
"""
    with public_directory() as directory:
        path = directory / "daemon.pid"
        subprocess.run([sys.executable, "-c", script, str(path)], check=True)
        assert path.read_bytes() == b""
        with Pidfile(path):
            pass


def test_asking_who_runs_leaves_nothing_open(path: Path) -> None:
    path.write_text("1\n")
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for _ in range(3):
        pidfile.running(path)
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before


def test_who_runs_can_be_asked_without_a_lock(
    path: Path, namesake: subprocess.Popen[bytes], stranger: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert pidfile.running(path) is None
    path.write_text(f"{namesake.pid}\n")
    assert pidfile.running(path) == namesake.pid
    for content in (f"{stranger.pid}\n", f"{os.getpid()}\n", f"{dead_number()}\n", "garbage", ""):
        path.write_text(content)
        assert pidfile.running(path) is None
    assert pidfile.running(tmp_path) is None  # a directory
    os.mkfifo(tmp_path / "pipe")
    assert pidfile.running(tmp_path / "pipe") is None
    # A daemon that starts at this very moment is not told that there is another one.
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.write_text(f"{namesake.pid}\n")
        assert pidfile.running(path) == namesake.pid
