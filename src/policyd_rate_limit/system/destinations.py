"""Where log lines go: standard error, the local syslog, systemd's journal.

A destination writes in a thread of its own (:mod:`policyd_rate_limit.system.logs`), and may block there. To syslog and
to the journal a line is a datagram: a library for the journal would be one in C that needs systemd's headers.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from policyd_rate_limit.system.fields import Line, unicode, written

SYSLOG_SOCKET = "/dev/log"
JOURNAL_SOCKET = "/run/systemd/journal/socket"

SEND_SECONDS = 1.0
"""That syslog or the journal may take for a message; standard error has it then."""

RETRY_SECONDS = 10.0
"""After which one that took nothing is retried."""

FACILITY = 2
"""LOG_MAIL of syslog(3)."""

# The severities of syslog(3).
_SEVERITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class Format(NamedTuple):
    """What a record says, on one line and without surrogates. ``is_whole``: it bears its own time and level."""

    line_of: Callable[[logging.LogRecord], str]
    is_whole: bool

    def with_level(self, record: logging.LogRecord) -> str:
        """The line, with its level."""
        line = self.line_of(record)
        return line if self.is_whole else f"{record.levelname} {line}"


class Message(NamedTuple):
    """A record as its destination takes it, and as the line that standard error has if that takes nothing."""

    data: bytes
    line: bytes = b""


class Destination(Protocol):
    """Takes messages."""

    def encode(self, record: logging.LogRecord) -> Message:
        """``record`` as :meth:`write` takes it."""

    def write(self, messages: Sequence[Message], patience: float | None = None) -> int:
        """Write ``messages``; how many of them were. It raises nothing, and blocks for some ``patience`` seconds.

        None: for as long as it takes.
        """

    def close(self) -> None:
        """Let go of what is open; nothing more will be written."""


class Stderr:
    """The :class:`Destination` standard error: lines with time and name of the program, or with their priority where
    systemd's journal reads them.
    """

    def __init__(self, form: Format, name: str, *, journal: bool, descriptor: int = 2) -> None:
        self._form = form
        self._name = name
        self._journal = journal
        self._descriptor = descriptor
        self._second = -1
        self._time = ""

    def encode(self, record: logging.LogRecord) -> Message:
        line = self._form.with_level(record)
        if self._journal:
            # sd-daemon(3): the journal takes the priority of syslog(3) from the beginning of a line.
            line = f"<{_severity(record)}>{line}"
        elif not self._form.is_whole:
            second = int(record.created)
            if second != self._second:  # strftime is the dearest part of a line
                self._second, self._time = second, time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(second))
            line = f"{self._time} {self._name}: {line}"
        return Message(f"{line}\n".encode())

    def write(self, messages: Sequence[Message], patience: float | None = None) -> int:
        return self.write_lines([message.data for message in messages], patience)

    def close(self) -> None:
        """Standard error stays open."""

    def write_lines(self, lines: Sequence[bytes], patience: float | None = None) -> int:
        """Write ``lines``, each with its newline; how many were written within ``patience`` seconds, None: all."""
        if patience is not None:
            return self._write_soon(lines, patience)
        data = memoryview(b"".join(lines))
        # Nobody is left to be told that standard error is gone.
        with contextlib.suppress(OSError):
            while data:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except BlockingIOError:  # whoever shares the descriptor made it non-blocking
                    poll = select.poll()
                    poll.register(self._descriptor, select.POLLOUT)
                    poll.poll()
        return len(lines)

    def _write_soon(self, lines: Sequence[bytes], patience: float) -> int:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        for number, line in enumerate(lines):
            for at in range(0, len(line), select.PIPE_BUF):
                # Where a pipe can be written to, it has room for so much: pipe(7).
                if not poll.poll(1000 * patience):
                    return number
                with contextlib.suppress(OSError):
                    os.write(self._descriptor, line[at : at + select.PIPE_BUF])
        return len(lines)


class _Daemon:
    """A :class:`Destination` that takes a datagram for each message, or ``stderr`` in its place while it does not.

    ``monotonic``: a clock for the tries, in seconds.
    """

    kind = ""

    def __init__(
        self, path: str, form: Format, name: str, stderr: Stderr, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._form = form
        self._name = name
        self._stderr = stderr
        self._monotonic = monotonic
        self._socket: socket.socket | None = None
        self._streams = False
        self._try_again = float("-inf")

    def encode(self, record: logging.LogRecord) -> Message:
        return Message(self._datagram(record), self._stderr.encode(record).data)

    def write(self, messages: Sequence[Message], patience: float | None = None) -> int:
        sent = self._send(messages, patience) if self._monotonic() >= self._try_again else 0
        if sent < len(messages):
            sent += self._stderr.write_lines([message.line for message in messages[sent:]], patience)
        return sent

    def _send(self, messages: Sequence[Message], patience: float | None) -> int:
        """How many of ``messages`` were taken."""
        for sent, message in enumerate(messages):
            try:
                try:
                    self._send_one(message.data)
                except ConnectionError:  # it has been restarted: the socket is another one now
                    self.close()
                    self._send_one(message.data)
            except OSError as error:
                self.close()
                self._try_again = self._monotonic() + RETRY_SECONDS
                away = logging.LogRecord(
                    __name__,
                    logging.WARNING,
                    "",
                    0,
                    "%s takes nothing at %s (%s): it goes to standard error for %g s",
                    (self.kind, self._path, error.strerror or "timed out", RETRY_SECONDS),
                    None,
                )
                self._stderr.write((self._stderr.encode(away),), patience)
                return sent
        return len(messages)

    def _send_one(self, data: bytes) -> None:
        if self._socket is None:
            self._connect()
        assert self._socket is not None  # noqa: S101 - connected
        self._socket.sendall(data + b"\0" if self._streams else data)

    def _connect(self) -> None:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            connection = socket.socket(socket.AF_UNIX, kind)
            try:
                connection.settimeout(SEND_SECONDS)
                connection.connect(self._path)
            except OSError as error:
                connection.close()
                # As in the C library: some daemons listen for streams, in which a NUL ends a message.
                if error.errno != errno.EPROTOTYPE or kind == socket.SOCK_STREAM:
                    raise
            else:
                self._socket, self._streams = connection, kind == socket.SOCK_STREAM
                return

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _datagram(self, record: logging.LogRecord) -> bytes:
        raise NotImplementedError


class Syslog(_Daemon):
    """The syslog daemon of this host, in the format that syslog(3) has on Linux: section 4.1 of RFC 3164."""

    kind = "syslog"

    def _datagram(self, record: logging.LogRecord) -> bytes:
        stamp = time.strftime("%b %e %H:%M:%S", time.localtime(record.created))
        priority = FACILITY << 3 | _severity(record)
        return f"<{priority}>{stamp} {self._name}[{os.getpid()}]: {self._form.with_level(record)}".encode()


class Journal(_Daemon):
    """The journal, by its native protocol: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/.

    Fields of a line are fields of the journal too, with ``POLICYD_`` before their names.
    """

    kind = "the journal"

    def _datagram(self, record: logging.LogRecord) -> bytes:
        return b"".join(_journal_field(key, text) for key, text in self._fields(record))

    def _fields(self, record: logging.LogRecord) -> Iterator[tuple[str, str]]:
        yield "MESSAGE", self._form.line_of(record)
        yield "PRIORITY", str(_severity(record))
        yield "SYSLOG_FACILITY", str(FACILITY)
        yield "SYSLOG_IDENTIFIER", self._name
        if isinstance(record.msg, Line):
            for key, value in record.msg.fields.items():
                yield f"POLICYD_{key.upper()}", unicode(written(value))


def _journal_field(key: str, text: str) -> bytes:
    data = text.encode()
    if b"\n" in data:
        return b"%s\n%s%s\n" % (key.encode(), struct.pack("<Q", len(data)), data)
    return b"%s=%s\n" % (key.encode(), data)


def _severity(record: logging.LogRecord) -> int:
    return _SEVERITIES.get(record.levelno, 6)
