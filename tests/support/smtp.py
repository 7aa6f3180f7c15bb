"""A real SMTP server (aiosmtpd) with STARTTLS and AUTH that keeps what it accepts, and one that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import email.policy
import functools
import pathlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any, NamedTuple

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

USER, PASSWORD = "policyd", "not to be seen"


class Mail(NamedTuple):
    """An accepted mail: its envelope, and itself as a mail reader sees it."""

    sender: str
    recipients: list[str]
    message: EmailMessage
    data: bytes
    options: list[str]
    encrypted: bool
    authenticated: bool


class Handler:
    """Keeps mails; ``replies`` gives the reply to a recipient (``RCPT x@y``) or to ``DATA``, instead of accepting."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []
        self.sessions = 0
        self.replies: dict[str, str] = {}
        self.arrived = threading.Condition()

    async def handle_RCPT(  # noqa: N802 - aiosmtpd calls it so
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if (reply := self.replies.get(f"RCPT {address}")) is not None:
            return reply
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - so too
        if (reply := self.replies.get("DATA")) is not None:
            return reply
        data = envelope.content
        assert isinstance(data, bytes)
        message = BytesParser(policy=email.policy.default).parsebytes(data)
        assert isinstance(message, EmailMessage)
        with self.arrived:
            self.mails.append(
                Mail(
                    str(envelope.mail_from),
                    list(map(str, envelope.rcpt_tos)),
                    message,
                    data,
                    list(envelope.mail_options),
                    session.ssl is not None,
                    bool(session.authenticated),
                )
            )
            self.arrived.notify_all()
        return "250 accepted"


class Server:
    """The server, while it runs: ``handler`` has what it got."""

    def __init__(self, handler: Handler, host: str, port: int) -> None:
        self.handler = handler
        self.host = host
        self.port = port

    @property
    def mails(self) -> list[Mail]:
        """All that was accepted so far."""
        return self.handler.mails

    def wait_for(self, count: int, seconds: float = 20.0) -> list[Mail]:
        """The mails as soon as there are ``count``; AssertionError when that takes too long."""
        with self.handler.arrived:
            assert self.handler.arrived.wait_for(lambda: len(self.mails) >= count, seconds), f"{len(self.mails)} mails"
            return list(self.mails)


class _Controller(Controller):
    """aiosmtpd's controller; its own speaks TLS from the first byte on when it is given a context."""

    def __init__(self, handler: Handler, **smtp: Any) -> None:
        super().__init__(handler, hostname="127.0.0.1", port=0)
        self._smtp = smtp

    def factory(self) -> SMTP:
        return SMTP(self.handler, hostname="mail.test", enable_SMTPUTF8=True, **self._smtp)

    def _trigger_server(self) -> None:
        assert isinstance(self.server, asyncio.Server)
        self.port = self.server.sockets[0].getsockname()[1]  # what the kernel has made of 0
        super()._trigger_server()  # type: ignore[no-untyped-call]  # aiosmtpd's own


def _authenticate(server: SMTP, session: Session, envelope: Envelope, mechanism: str, auth_data: object) -> AuthResult:
    assert isinstance(auth_data, LoginPassword)
    good = (auth_data.login, auth_data.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=good, handled=good)


@contextlib.contextmanager
def smtp_server(*, certificate: trustme.LeafCert | None = None, auth: bool = False) -> Iterator[Server]:
    """A server on the loopback address: with ``certificate`` it insists on STARTTLS, with ``auth`` on AUTH."""
    handler = Handler()
    smtp: dict[str, Any] = {}
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        smtp |= {"tls_context": context, "require_starttls": True}
    if auth:
        smtp |= {"authenticator": _authenticate, "auth_required": True, "auth_require_tls": certificate is not None}
    controller = _Controller(handler, **smtp)
    controller.start()
    try:
        yield Server(handler, "127.0.0.1", controller.port)
    finally:
        controller.stop()


class Authority(NamedTuple):
    """A certificate authority, and the file of its certificate."""

    ca: trustme.CA
    file: pathlib.Path


def authority(directory: pathlib.Path, name: str = "ca.pem") -> Authority:
    """A new certificate authority."""
    ca = trustme.CA()
    file = directory / name
    ca.cert_pem.write_to_path(str(file))
    return Authority(ca, file)


@contextlib.contextmanager
def peer(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server on the loopback address whose connections ``behave`` serves in a thread; its port.

    ``behave`` sees the end of the connection at the latest when the block ends.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            behave(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                thread = threading.Thread(target=serve, args=(connection,))
                threads.append(thread)
                thread.start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def hang(connection: socket.socket) -> None:
    """Read what comes, say nothing, until the client goes."""
    while connection.recv(65536):
        pass


STEPS = ("connect", "EHLO", "MAIL", "RCPT", "DATA", "end of data", "QUIT")


def smtp_peer(step: str, at: Callable[[socket.socket], None]) -> contextlib.AbstractContextManager[int]:
    """A server that is well up to ``step`` of STEPS, and then does ``at`` with the connection; its port."""
    return peer(functools.partial(_speak, step, at))


def _speak(step: str, at: Callable[[socket.socket], None], connection: socket.socket) -> None:
    if step == "connect":
        at(connection)
        return
    lines = connection.makefile("rb")
    connection.sendall(b"220 mail.test\r\n")
    in_data = False
    for line in lines:
        word = line.split()[0].upper().decode() if line.split() else ""
        if in_data:
            if line != b".\r\n":
                continue
            in_data, word = False, "end of data"
        if word == step:
            at(connection)
            return
        reply = {"EHLO": b"250 mail.test", "DATA": b"354 go on", "QUIT": b"221 bye"}.get(word, b"250 OK")
        in_data = word == "DATA"
        connection.sendall(reply + b"\r\n")
