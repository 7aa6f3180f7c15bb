"""The channel ``notify_command``: a program that is run for each alert."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import signal
import subprocess
import threading
import time
from typing import IO, TYPE_CHECKING

from policyd_rate_limit.errors import DeliveryFailed
from policyd_rate_limit.notify.alert import as_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policyd_rate_limit.notify.alert import Alert

COMMAND_SECONDS = 10.0
"""How long the program may run; then it is killed with its process group."""

MOST_WRITTEN = 4_096
"""The most bytes of what the program writes to standard error that are logged; the rest is read and forgotten."""

MOST_LINES = 10
"""The most lines of that."""

WRITTEN_SECONDS = 1.0
"""For which standard error is read on after the end of the program: it may have started others that hold it open."""

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
"""All that the program gets as its environment."""

_logger = logging.getLogger(__name__)


class _Written:
    """What a program writes to standard error, as long as it is read: in a thread, until :meth:`lines` is called."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._data = b""
        self._end = math.inf
        self._thread = threading.Thread(target=self._run, name="standard error", daemon=True)
        self._thread.start()

    def lines(self) -> list[str]:
        """The program has ended: its lines, as far as they are kept."""
        self._end = time.monotonic() + WRITTEN_SECONDS
        self._thread.join()
        return self._data.decode("utf-8", "surrogateescape").splitlines()[:MOST_LINES]

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._stream, select.POLLIN)
        with self._stream:
            while time.monotonic() < self._end:
                if poll.poll(50):
                    data = os.read(self._stream.fileno(), 65_536)
                    if not data:
                        return
                    self._data += data[: MOST_WRITTEN - len(self._data)]
                elif self._end < math.inf:
                    return


class Command:
    """``notify_command``."""

    name = "notify_command"

    def __init__(self, arguments: Sequence[str], seconds: float = COMMAND_SECONDS) -> None:
        self._arguments = tuple(arguments)
        self._seconds = seconds
        self._starting = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._abandoned = False

    def deliver(self, alert: Alert) -> None:
        """Run the program, with the alert as JSON on its standard input. The beginning of what it writes to standard
        error is logged.
        """
        program = self._arguments[0]
        with self._starting:
            if self._abandoned:  # a program that is started now would outlive the daemon
                raise DeliveryFailed(f"{program}: not started, the daemon ends")
            try:
                self._process = process = subprocess.Popen(  # noqa: S603 - the administrator's own program
                    self._arguments,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    cwd="/",
                    env=ENVIRONMENT,
                    start_new_session=True,
                )
            except OSError as error:
                raise DeliveryFailed(f"{program}: {error.strerror or error}") from error
        assert process.stderr is not None  # noqa: S101 - a pipe
        written = _Written(process.stderr)
        process.stderr = None  # or communicate() would keep all of it
        try:
            process.communicate(as_json(alert), timeout=self._seconds)
        except subprocess.TimeoutExpired:
            self._kill()
            process.wait()
            raise DeliveryFailed(f"{program}: killed after {self._seconds:g} seconds") from None
        finally:
            for line in written.lines():
                _logger.warning("%s: %s: %s", self.name, program, line)
        if process.returncode:
            raise DeliveryFailed(f"{program}: {_ended(process.returncode)}")

    def abandon(self) -> None:
        """Kill the program if it still runs, and what it has started in its process group; start no other."""
        with self._starting:
            self._abandoned = True
        self._kill()

    def _kill(self) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _ended(status: int) -> str:
    return f"ended with status {status}" if status > 0 else f"killed by signal {-status}"
