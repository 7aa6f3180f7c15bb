"""What may happen to a daemon in the first moments of its life, and does not end it or keep it from starting."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemon import COMMAND, Client, Daemon, mail
from support.wait import wait_until

# Sends the process a signal as soon as it imports its first package, which takes it longer than all that was before.
HURRY = """
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "click" and os.environ.pop("TEST_SIGNAL_AT_START", None):
            with open(os.environ["TEST_SENT"], "w"):
                os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
"""


def hurried(directory: Path, number: int) -> Daemon:
    """A daemon that gets the signal ``number`` while it is imported."""
    directory.joinpath("site").mkdir(parents=True)
    directory.joinpath("site", "sitecustomize.py").write_text(HURRY.format(number=number))
    environment = {
        "PYTHONPATH": str(directory / "site"),
        "TEST_SIGNAL_AT_START": "1",
        "TEST_SENT": str(directory / "sent"),
    }
    return Daemon(directory, environment=environment, SOCKET=str(directory / "policy"))


def test_sighup_while_it_is_imported_does_not_end_it(tmp_path: Path) -> None:
    daemon = hurried(tmp_path, signal.SIGHUP)
    with daemon:
        assert (tmp_path / "sent").exists()
        with Client(daemon.address) as client:
            assert client.ask(**mail("alice")) == "dunno"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_stop_while_it_is_imported_ends_it_orderly(tmp_path: Path, number: int) -> None:
    daemon = hurried(tmp_path, number)
    daemon.start(wait=False)
    assert daemon.process.wait(20) == 0
    assert (tmp_path / "sent").exists()
    assert "stopped" in daemon.log_text()
    assert not (tmp_path / "policy").exists()
    assert not (tmp_path / "policyd.pid").exists()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_start_that_fails_says_why_whatever_signal_has_come(tmp_path: Path, number: int) -> None:
    daemon = hurried(tmp_path, number)
    (tmp_path / "policy").mkdir()
    daemon.start(wait=False)
    assert daemon.process.wait(20) == 6
    assert "it exists and is not a socket" in daemon.log_text()


def test_another_command_obeys_signals(tmp_path: Path) -> None:
    daemon = hurried(tmp_path, signal.SIGTERM)
    command = [str(COMMAND), "-f", str(daemon.path), "--get-config", "backend"]
    done = subprocess.run(command, env=daemon.environment, check=False, capture_output=True)
    assert done.returncode == -signal.SIGTERM


@pytest.fixture
def full_pipe() -> Iterator[tuple[int, int]]:
    """A pipe that takes nothing more: its end to read from, and the other one."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 512)
    os.set_blocking(writer, True)
    yield reader, writer
    for end in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(end)


def started(daemon: Daemon, writer: int) -> subprocess.Popen[bytes]:
    daemon.process = subprocess.Popen([str(COMMAND), "-f", str(daemon.path)], stderr=writer, cwd=daemon.directory)
    return daemon.process


@pytest.mark.parametrize("log_to", ["stderr", "syslog"])
def test_it_starts_although_nobody_reads_its_log(tmp_path: Path, full_pipe: tuple[int, int], log_to: str) -> None:
    """What it has to say meanwhile is read as soon as somebody reads."""
    reader, writer = full_pipe
    daemon = Daemon(tmp_path, log_to=log_to, no_such_setting=1, neither_is_this=2)
    process = started(daemon, writer)
    try:
        daemon.wait_until_ready()
        with Client(daemon.address) as client:
            assert client.ask(**mail("alice")) == "dunno"
        read: list[bytes] = []

        def loop() -> None:
            while data := os.read(reader, 65536):
                read.append(data)

        os.close(writer)
        reading = threading.Thread(target=loop)
        reading.start()
        if log_to == "stderr":
            wait_until(lambda: b"ready; in main.cf" in b"".join(read), "the log is read")
            said = b"".join(read)
            assert said.index(b"neither_is_this") < said.index(b"no_such_setting") < said.index(b"ready; in")
    finally:
        assert daemon.stop() == 0
        reading.join()
    assert process.returncode == 0


def test_a_start_that_fails_ends_although_nobody_reads_why(tmp_path: Path, full_pipe: tuple[int, int]) -> None:
    daemon = Daemon(tmp_path, no_such_setting=1, SOCKET=str(tmp_path / "policy"))
    (tmp_path / "policy").mkdir()
    assert started(daemon, full_pipe[1]).wait(20) == 6
