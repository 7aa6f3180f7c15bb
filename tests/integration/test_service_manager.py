"""A real daemon under a service manager: what it tells, what it is given, what it is asked.

The protocols are systemd's; the service manager is the test.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from support import outages
from support.daemon import Client, Daemon, connect, free_port, mail
from support.programs import require, require_root
from support.wait import wait_until

# A daemon whose store is soon taken for stuck; the rest is as it is.
IMPATIENT = """
import sys
from policyd_rate_limit.cli import main
from policyd_rate_limit.storage.engine import liveness as pulse
pulse.STUCK_SECONDS = 0.5
main(sys.argv[2:])
"""
# The interpreter may be where only root can go, so it is root that starts it and imports.
UNPRIVILEGED = """
import sys
import encodings.utf_8_sig
import policyd_rate_limit.config.yaml_file
from policyd_rate_limit.cli import main, run
from policyd_rate_limit.system.accounts import Account, drop_privileges
drop_privileges(Account("54321", 54321, 54322, (54322,)))
main(sys.argv[2:])
"""
# Gives a program the descriptors of its first argument (such as 7,9) as a service manager would.
WITH_SOCKETS = """
import os, sys
descriptors = [os.dup2(int(number), 100 + index) for index, number in enumerate(sys.argv[1].split(","))]
for index, descriptor in enumerate(descriptors):
    os.dup2(descriptor, 3 + index)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(descriptors)), LISTEN_FDNAMES="policy")
os.execv(sys.argv[2], sys.argv[2:])
"""


class ServiceManager:
    """The receiving end of NOTIFY_SOCKET."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.settimeout(20)
        self.path.chmod(0o777)

    @property
    def environment(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": str(self.path)}

    def told(self) -> dict[str, str]:
        """The next message; waits for it."""
        return dict(line.split("=", 1) for line in self.socket.recv(65536).decode().splitlines())

    def next(self, name: str) -> dict[str, str]:
        """The next message that tells ``name``."""
        while name not in (told := self.told()):
            pass
        return told

    def silent(self, seconds: float) -> bool:
        """Whether nothing at all is told for so long."""
        self.socket.settimeout(seconds)
        try:
            self.socket.recv(65536)
        except (TimeoutError, BlockingIOError):
            return True
        finally:
            self.socket.settimeout(20)
        return False

    def drain(self) -> None:
        """Forget what has been told."""
        while not self.silent(0.01):
            pass


def given(listeners: Sequence[socket.socket], directory: Path, prefix: Sequence[str] = (), **settings: Any) -> Daemon:
    """A daemon that is given ``listeners``; ``settings`` as :class:`Daemon` takes them."""
    numbers = [listener.fileno() for listener in listeners]
    passing = [sys.executable, "-c", WITH_SOCKETS, ",".join(map(str, numbers))]
    return Daemon(directory, prefix=[*passing, *prefix], pass_fds=numbers, **settings)


def status_of(daemon: Daemon) -> str:
    return Path(f"/proc/{daemon.process.pid}/status").read_text()


@pytest.fixture
def manager(directory: Path) -> Iterator[ServiceManager]:
    manager = ServiceManager(directory)
    with manager.socket:
        yield manager


# Notifications


def test_it_is_ready_when_it_serves_and_says_when_it_stops(directory: Path, manager: ServiceManager) -> None:
    daemon = Daemon(directory / "var", environment=manager.environment).start(wait=False)
    assert manager.told() == {"READY": "1", "STATUS": "serving; SQLite; 0 ids"}
    with Client(daemon.address) as client:  # at once
        assert client.ask(**mail("alice")) == "dunno"
        assert Path(daemon.settings["pidfile"]).read_text() == f"{daemon.process.pid}\n"
        os.kill(daemon.process.pid, signal.SIGTERM)
        assert manager.told()["STOPPING"] == "1"
    assert daemon.stop() == 0
    assert manager.silent(0)


def test_nothing_is_told_before_it_serves(directory: Path, manager: ServiceManager) -> None:
    daemon = Daemon(directory / "var", environment=manager.environment, SOCKET=["127.0.0.1", 123456])
    daemon.start(wait=False)
    assert daemon.process.wait(20) == 4
    assert manager.silent(0)


def test_a_reload_is_told_from_its_beginning_to_its_end(directory: Path, manager: ServiceManager) -> None:
    """With what has become of it, and of the database."""
    database = directory / "var" / "db.sqlite3"
    with Daemon(directory / "var", environment=manager.environment, db_timeout=0.2) as daemon:
        manager.next("READY")
        with Client(daemon.address) as client:
            assert client.ask(**mail("alice")) == "dunno"
            for broken in (False, True, False):
                text = daemon.path.read_text()
                daemon.path.write_text("limits: many" if broken else text)
                mend = outages.lock(database) if broken else lambda: None
                assert client.ask(**mail("alice")) == "dunno"
                before = time.monotonic_ns() // 1000
                os.kill(daemon.process.pid, signal.SIGHUP)
                told = manager.next("RELOADING")
                assert before <= int(told["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
                status = manager.next("READY")["STATUS"]
                assert status.startswith("serving; SQLite; 1 id")
                assert ("; reload failed at 20" in status) is broken
                assert ("; database away since 20" in status) is broken
                daemon.path.write_text(text)
                mend()
                if broken:
                    wait_until(lambda: "the database is back" in daemon.log_text(), "the database")


def test_the_watchdog_is_fed_until_the_store_is_stuck(directory: Path, manager: ServiceManager) -> None:
    strace = str(require("strace"))
    environment = {**manager.environment, "WATCHDOG_USEC": "200000"}
    prefix = [sys.executable, "-c", IMPATIENT]
    with Daemon(directory / "var", environment=environment, prefix=prefix, db_timeout=0.1) as daemon:
        assert "READY" in manager.told()
        for _ in range(5):
            manager.next("WATCHDOG")
        with Client(daemon.address) as client:
            assert client.ask(**mail("alice")) == "dunno"
            # A disk that hangs: the thread does not come back from fdatasync(2).
            stall = [strace, "-f", "-p", str(daemon.process.pid), "-o", os.devnull]
            stall += ["-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=60000000"]
            with subprocess.Popen(stall) as tracer:
                wait_until(lambda: "TracerPid:\t0" not in status_of(daemon), "the tracer")
                client.send(**mail("alice"))
                wait_until(lambda: "the store thread is stuck" in daemon.log_text(), "a store that is stuck")
                manager.drain()
                assert manager.silent(1.0)
                tracer.send_signal(signal.SIGINT)  # which lets the thread go on
                tracer.wait(20)
            assert client.answer() == "dunno"
        manager.next("WATCHDOG")
        wait_until(lambda: "the store thread makes progress again" in daemon.log_text(), "a line about it")
        assert daemon.stop() == 0


# Socket activation


def listens(address: str | tuple[str, int]) -> bool:
    """Whether somebody listens at ``address``."""
    try:
        connect(address).close()
    except OSError:
        return False
    return True


def test_sockets_of_systemd_are_served_and_left_alone(directory: Path, manager: ServiceManager) -> None:
    """systemd-socket-activate(1) makes a UNIX and a TCP socket, and starts the daemon at the first connection."""
    path, port = directory / "policy", free_port()
    prefix = [str(require("systemd-socket-activate")), "--listen", str(path), "--listen", f"127.0.0.1:{port}"]
    prefix += [f"--setenv={name}={value}" for name, value in manager.environment.items()]
    daemon = Daemon(directory / "var", prefix=prefix, SOCKET=str(directory / "other" / "policy"))
    daemon.start(wait=False)
    wait_until(lambda: listens(str(path)) and listens(("127.0.0.1", port)), "both sockets")
    with Client(str(path)) as over_unix, Client(("127.0.0.1", port)) as over_tcp:
        for client in (over_unix, over_tcp):
            assert client.ask(**mail("alice")) == "dunno"
        assert "READY" in manager.told()
        assert not (directory / "other").exists()
        daemon.logged(f"check_policy_service {{ unix:{path}, ")
        daemon.logged("WARNING")
        [warning] = [line for line in daemon.log_text().splitlines() if "WARNING" in line]
        for name in (directory / "other" / "policy", path, f"127.0.0.1:{port}"):
            assert str(name) in warning
    assert daemon.stop() == 0
    assert path.is_socket()


def test_requests_wait_for_the_next_daemon(directory: Path) -> None:
    """Who connects while there is no daemon is served by the next one: the socket outlives them."""
    path = str(directory / "policy")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        for _ in range(2):
            with Client(path) as client:
                client.send(**mail("alice"))
                daemon = given([listener], directory / "var", SOCKET=path).start(wait=False)
                assert client.answer() == "dunno"
                assert daemon.stop() == 0
            assert not [line for line in daemon.log_text().splitlines() if "WARNING" in line]


@pytest.mark.parametrize("kind", ["datagram", "deaf", "file"])
def test_sockets_of_a_wrong_kind(directory: Path, kind: str) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM) as wrong,
        (directory / "file").open("w") as file,
        socket.create_server(("127.0.0.1", 0)) as right,
    ):
        wrong.bind(("127.0.0.1", 0))
        if kind == "file":
            os.dup2(file.fileno(), wrong.fileno())
        daemon = given([right, wrong], directory / "var").start(wait=False)
        assert daemon.process.wait(20) == 4
    [line] = daemon.log_text().splitlines()
    assert line.startswith("policyd-rate-limit: ")
    assert "SOCKET" in line
    assert "descriptor 4 (unknown)" in line
    assert not Path(daemon.settings["pidfile"]).exists()


@pytest.mark.needs_root
def test_a_daemon_that_never_was_root(directory: Path, manager: ServiceManager) -> None:
    """As a service with User=: its directories and its socket are made for it, and it needs nothing else."""
    require_root()
    var = directory / "var"
    var.mkdir()
    os.chown(var, 54321, 54322)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "policy"))
        listener.listen()
        daemon = given(
            [listener],
            var,
            prefix=[sys.executable, "-c", UNPRIVILEGED],
            environment=manager.environment,
            user="no-such-user",
            SOCKET=str(directory / "policy"),
        )
        with daemon:
            assert "READY" in manager.told()
            with Client(daemon.address) as client:
                assert client.ask(**mail("alice")) == "dunno"
            assert Path(daemon.settings["pidfile"]).stat().st_uid == 54321
            assert daemon.stop() == 0
        assert not Path(daemon.settings["pidfile"]).exists()
        assert (directory / "policy").is_socket()
