"""Deadlines, trust and error texts for all that is sent over the network."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any, BinaryIO, Self

from policyd_rate_limit.errors import DeliveryFailed
from policyd_rate_limit.mail.wording import printable

LONGEST_REASON = 500
"""The most characters of what a server says."""

MOST_SAID = 262_144
"""The most bytes that a server may say in one connection: a reply of SMTP has 512 (RFC 5321, section 4.5.3.1.5)."""

AGAIN_SECONDS = 0.5  # a socket may have been in the hands of a TLS handshake, which has an end of its own


class Deadline:
    """Cuts a connection that lasts for more than ``seconds``, however lively it is.

    A time-out of a socket ends one wait; a peer that sends a byte now and then never meets it. ``current`` gives the
    socket in use, None as long as there is none. Whoever uses it then gets an error, or the end of the stream, which
    may look like success: :meth:`check` tells.
    """

    def __init__(self, seconds: float, current: Callable[[], socket.socket | None]) -> None:
        self._seconds = seconds
        self._current = current
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="deadline", daemon=True)
        self.passed = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def check(self) -> None:
        """Raise TimeoutError when the time is over."""
        if self.passed:
            raise TimeoutError(f"not within {self._seconds:g} seconds")

    def _run(self) -> None:
        wait = self._seconds
        while not self._done.wait(wait):
            self.passed = True
            wait = AGAIN_SECONDS
            connection = self._current()
            if connection is not None:
                with contextlib.suppress(OSError):
                    # Not SSLSocket's own, which first takes TLS off: what is sent at this moment would go in clear.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)


class TooMuchSaid(Exception):
    """A server says more than anybody wants to know. No OSError: smtplib would make something else of that."""


class Allowance:
    """How many bytes a server may still say. ``of``: what it is called in an error."""

    def __init__(self, size: int = MOST_SAID, of: str = "answers") -> None:
        self._size = size
        self._left = size
        self._of = of

    def take(self, size: int) -> None:
        """``size`` more bytes have come.

        :raises TooMuchSaid: they are too many.
        """
        self._left -= size
        if self._left < 0:
            raise TooMuchSaid(f"more than {self._size} bytes of {self._of}")


class Bounded:
    """``file``, which reads from a server, as long as ``allowance`` lasts."""

    def __init__(self, file: BinaryIO, allowance: Allowance) -> None:
        self._file = file
        self._allowance = allowance

    def readline(self, limit: int = -1) -> bytes:
        """As of the file."""
        line = self._file.readline(limit)
        self._allowance.take(len(line))
        return line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def tls_context(setting: str, ca_file: str | None) -> ssl.SSLContext:
    """What trusts the certificate authorities in ``ca_file``, in PEM, or those of the system when it is None.

    :raises DeliveryFailed: the file is of no use; ``setting`` names it.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise DeliveryFailed(f"{setting} {ca_file}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What ``error`` says, on one line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(said or type(error).__name__, LONGEST_REASON)
