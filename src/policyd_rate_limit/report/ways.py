"""The ways that a notice can go: by mail, to a program, to a URL."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import logging
import math
import os
import select
import signal
import subprocess
import threading
import time
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from policyd_rate_limit.errors import DeliveryFailed
from policyd_rate_limit.report.message import compose, own_address
from policyd_rate_limit.report.network import Allowance, Bounded, Deadline, TooMuchSaid, reason, tls_context
from policyd_rate_limit.report.notice import as_json, as_text, subject

if TYPE_CHECKING:
    from collections.abc import Sequence
    from io import BufferedReader

    from policyd_rate_limit.report.notice import Notice
    from policyd_rate_limit.report.smtp import MailServer

COMMAND_SECONDS = 10.0
"""How long the program may run; then it is killed with its process group."""

URL_SECONDS = 10.0
"""How long each step of a POST may take, and how long all of it."""

MOST_WRITTEN = 4_096
"""The most bytes of what the program writes to standard error that are logged; the rest is read and forgotten."""

MOST_LINES = 10
"""The most lines of that."""

WRITTEN_SECONDS = 1.0
"""For which standard error is read on after the end of the program: it may have started others that hold it open."""

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
"""All that the program gets as its environment."""

SECRET_PREFIX = "whsec_"  # noqa: S105 - of a secret in base64, as Standard Webhooks write it

_logger = logging.getLogger(__name__)


class Broken:
    """A way that the configuration asks for, with a mistake."""

    def __init__(self, name: str, mistakes: str) -> None:
        self.name = name
        self._mistakes = mistakes

    def deliver(self, notice: Notice) -> None:  # noqa: ARG002 - nothing can be sent
        """Fail."""
        raise DeliveryFailed(self._mistakes)

    def abandon(self) -> None:
        """There is nothing to leave behind."""


class Mail:
    """``notify_to``; ``sender`` None: this host, with the null sender."""

    name = "notify_to"

    def __init__(self, server: MailServer, sender: str | None, recipients: str | Sequence[str]) -> None:
        self._server = server
        self._sender = sender
        self._recipients = recipients
        self._refused: dict[str, str] = {}

    def deliver(self, notice: Notice) -> None:
        """Send a mail. Recipients that are refused while others are not are logged when they change."""
        message = compose(
            self._sender or own_address(notice.host),
            self._recipients,
            subject(notice),
            notice.time,
            as_text(notice),
            number=notice.number,
        )
        refused = self._server.send(message, null_sender=self._sender is None)
        if refused.keys() != self._refused.keys():
            for recipient, reply in refused.items():
                _logger.warning("%s: %s is refused: %s", self.name, recipient, reply)
        self._refused = refused

    def abandon(self) -> None:
        """The server sees the connection end."""


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

    def deliver(self, notice: Notice) -> None:
        """Run the program, with the notice as JSON on its standard input. The beginning of what it writes to standard
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
            process.communicate(as_json(notice), timeout=self._seconds)
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


class _Response(http.client.HTTPResponse):
    """An answer of which no more is read than is allowed: http.client takes headers of 6 MB."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.fp = cast("BufferedReader", Bounded(self.fp, Allowance()))


class Url:
    """``notify_url``, signed with ``secret`` as Standard Webhooks have it; ``ca_file`` as in
    :class:`policyd_rate_limit.report.smtp.MailServer`.
    """

    name = "notify_url"

    def __init__(
        self, url: str, secret: str | None = None, ca_file: str | None = None, seconds: float = URL_SECONDS
    ) -> None:
        self._parts = urlsplit(url)
        self._secret = secret
        self._ca_file = ca_file
        self._seconds = seconds

    def deliver(self, notice: Notice) -> None:
        """POST the notice as JSON. Only an answer from 200 to 299 is success; redirects are not followed."""
        where = self._parts.hostname or ""  # the rest of the URL may be a secret
        body = as_json(notice)
        headers = {"Content-Type": "application/json", "User-Agent": "policyd-rate-limit", "Connection": "close"}
        headers["webhook-id"] = notice.number
        headers["webhook-timestamp"] = timestamp = str(int(time.time()))
        if self._secret is not None:
            headers["webhook-signature"] = sign(self._secret, notice.number, timestamp, body)
        target = self._parts._replace(scheme="", netloc="", fragment="", path=self._parts.path or "/").geturl()
        connection = self._connection(where)
        connection.response_class = _Response
        try:
            with contextlib.closing(connection), Deadline(self._seconds, lambda: connection.sock) as deadline:
                try:
                    connection.request("POST", target, body, headers)
                    status = connection.getresponse().status
                finally:
                    deadline.check()
        except (OSError, UnicodeError, http.client.HTTPException, TooMuchSaid) as error:
            raise DeliveryFailed(f"{where}: {reason(error)}") from error
        if not 200 <= status <= 299:
            raise DeliveryFailed(f"{where}: answered with status {status}")

    def abandon(self) -> None:
        """The server sees the connection end."""

    def _connection(self, host: str) -> http.client.HTTPConnection:
        if self._parts.scheme == "http":
            return http.client.HTTPConnection(host, self._parts.port, timeout=self._seconds)
        context = tls_context("notify_ca_file", self._ca_file)
        return http.client.HTTPSConnection(host, self._parts.port, timeout=self._seconds, context=context)


def sign(secret: str, number: str, timestamp: str, body: bytes) -> str:
    """The value of webhook-signature, as https://www.standardwebhooks.com has it: HMAC-SHA256, in base64."""
    if secret.startswith(SECRET_PREFIX):
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    else:
        key = secret.encode()
    digest = hmac.digest(key, f"{number}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def _ended(status: int) -> str:
    return f"ended with status {status}" if status > 0 else f"killed by signal {-status}"
