"""The real daemon as a child process, and a small policy client.

The command that is tested is what POLICYD_RATE_LIMIT names, else that beside the interpreter that runs the tests.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from support.wait import wait_until

COMMAND = pathlib.Path(
    os.environ.get("POLICYD_RATE_LIMIT", "") or pathlib.Path(sys.executable).parent / "policyd-rate-limit"
)
READY_SECONDS = 20.0
STOP_SECONDS = 20.0
POSTFIX_RETRY_SECONDS = 1.0


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on at the moment.

    It is outside of the range from which the kernel takes the ports of clients.
    """
    while True:
        port = random.randrange(10_240, 32_768)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def configuration(directory: pathlib.Path, **settings: Any) -> dict[str, Any]:
    """Settings of a daemon that keeps all its files in ``directory`` and runs as whoever runs the tests."""
    return {
        "debug": False,
        "user": "root",
        "group": "root",
        "pidfile": str(directory / "policyd.pid"),
        "sqlite_config": {"database": str(directory / "db.sqlite3")},
        "SOCKET": ["127.0.0.1", free_port()],
        **settings,
    }


def write_configuration(directory: pathlib.Path, settings: Mapping[str, Any]) -> pathlib.Path:
    """``settings`` as ``policyd-rate-limit.yaml`` in ``directory``."""
    path = directory / "policyd-rate-limit.yaml"
    path.write_text(yaml.safe_dump(dict(settings)), encoding="utf-8")
    if any(settings.get(name) for name in ("smtp_credentials", "notify_secret", "pgsql_config", "mysql_config")):
        path.chmod(0o600)  # or there is a warning
    return path


class Daemon:
    """A running ``policyd-rate-limit`` with its own configuration file and directory."""

    process: subprocess.Popen[bytes]
    """What was started last."""
    arguments: Sequence[str] = ()
    """The command that it is, where it is not the daemon itself."""

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        **settings: Any,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.settings = configuration(directory, **settings)
        self.path = write_configuration(directory, self.settings)
        self.environment = {**os.environ, **(environment or {})}
        self.prefix = tuple(prefix)
        self.pass_fds = tuple(pass_fds)
        self.log = directory / "stderr.log"
        self._begin_of_log = 0

    @property
    def address(self) -> str | tuple[str, int]:
        """The address of ``SOCKET``, as :func:`connect` takes it."""
        where = self.settings["SOCKET"]
        return where if isinstance(where, str) else (where[0], where[1])

    def start(self, *, wait: bool = True) -> Daemon:
        """Start the daemon; unless ``wait`` is false, return once it accepts connections."""
        with self.log.open("ab") as log:
            self._begin_of_log = log.tell()
            self.process = subprocess.Popen(
                [*self.prefix, str(COMMAND), "-f", str(self.path), *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                cwd=self.directory,
                pass_fds=self.pass_fds,
            )
        if wait:
            try:
                self.wait_until_ready()
            except BaseException:
                self.kill()  # or it would go on beside all other tests
                raise
        return self

    def wait_until_ready(self) -> None:
        """Wait until somebody listens on ``SOCKET``; fail with the log when the daemon ends before."""
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.log_text()}")
            with contextlib.suppress(OSError):
                connect(self.address).close()
                return
            time.sleep(0.02)
        raise AssertionError(f"the daemon is not ready after {READY_SECONDS} s:\n{self.log_text()}")

    def log_text(self) -> str:
        """All that the daemon wrote to stderr and stdout so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def logged(self, *words: str) -> str:
        """The first line of the log with all ``words``; a thread of the daemon writes it, maybe after the answer."""

        def found() -> list[str]:
            return [line for line in self.log_text().splitlines() if all(word in line for word in words)]

        wait_until(found, f"a line of the log with {words}")
        return found()[0]

    def log_of_this_run(self) -> str:
        """The same, since the last start."""
        return self.log.read_bytes()[self._begin_of_log :].decode("utf-8", "replace")

    def kill(self) -> None:
        """``kill -9``."""
        self.process.kill()
        self.process.wait()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask the daemon to end; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)

    def reload(self, said: str = "configuration reloaded", **settings: Any) -> None:
        """Have it go by other ``settings``; return once its log has ``said`` once more."""
        before = self.log_text().count(said)
        write_configuration(self.directory, {**self.settings, **settings})
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.log_text().count(said) > before, "the reload is done")

    def __enter__(self) -> Daemon:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
                raise


def connect(address: str | tuple[str, int], timeout: float = 10.0) -> socket.socket:
    """A connection to a TCP or UNIX address; every operation on it times out after ``timeout`` seconds.

    Where the queue of a UNIX socket is full for a moment, it is tried once more, as Postfix does it (the defaults of
    smtpd_policy_service_try_limit and smtpd_policy_service_retry_delay).
    """
    try:
        return _connect(address, timeout)
    except BlockingIOError:
        time.sleep(POSTFIX_RETRY_SECONDS)
        return _connect(address, timeout)


def _connect(address: str | tuple[str, int], timeout: float) -> socket.socket:
    if isinstance(address, str):
        family = socket.AF_UNIX
    else:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def encode(**attributes: object) -> bytes:
    """A policy request with ``attributes``; ``request`` is added unless given."""
    attributes.setdefault("request", "smtpd_access_policy")
    lines = [f"{name}={value}\n" for name, value in attributes.items()]
    return "".join(lines).encode("utf-8", "surrogateescape") + b"\n"


class Client:
    """One policy connection, as an smtpd process holds it."""

    def __init__(self, address: str | tuple[str, int], timeout: float = 10.0) -> None:
        self.socket = connect(address, timeout)
        self.received = b""

    def send(self, **attributes: object) -> None:
        """Send one request without waiting for its answer."""
        self.socket.sendall(encode(**attributes))

    def answer(self) -> str:
        """The action of the next answer; EOFError when the daemon closed the connection."""
        while b"\n\n" not in self.received:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError(f"connection closed by the daemon after {self.received!r}")
            self.received += data
        first, _, self.received = self.received.partition(b"\n\n")
        name, _, action = first.decode().partition("=")
        assert name == "action", first
        return action

    def ask(self, **attributes: object) -> str:
        """Send one request and return the action of its answer."""
        self.send(**attributes)
        return self.answer()

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_instances = iter(range(1, 1 << 62))


def mail(user: str, **attributes: object) -> dict[str, object]:
    """The attributes of an RCPT request of a new mail of ``user`` to one recipient."""
    number = next(_instances)
    return {
        "protocol_state": "RCPT",
        "protocol_name": "ESMTP",
        "instance": f"{os.getpid():x}.{number:x}.{time.monotonic_ns():x}",
        "sasl_method": "PLAIN",
        "sasl_username": user,
        "sender": f"{user}@example.org",
        "recipient": f"recipient{number}@example.net",
        "recipient_count": 0,
        "client_address": "192.0.2.1",
        **attributes,
    }


@contextlib.contextmanager
def running(directory: pathlib.Path, **settings: Any) -> Iterator[Daemon]:
    """A daemon that runs for the length of a ``with`` block."""
    with Daemon(directory, **settings) as daemon:
        yield daemon


def admitted(client: Client, user: str, mails: int, **attributes: object) -> int:
    """How many of ``mails`` mails of ``user`` are admitted."""
    return sum(client.ask(**mail(user, **attributes)) == "dunno" for _ in range(mails))
