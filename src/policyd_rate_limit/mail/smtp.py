"""Sends mails by SMTP (RFC 5321), with STARTTLS (RFC 3207) and AUTH (RFC 4954) where asked to."""

from __future__ import annotations

import contextlib
import logging
import smtplib
import socket
import ssl
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING

from policyd_rate_limit.errors import DeliveryFailed
from policyd_rate_limit.mail.message import addresses
from policyd_rate_limit.mail.network import (
    LONGEST_REASON,
    Allowance,
    Bounded,
    Deadline,
    TooMuchSaid,
    reason,
    tls_context,
)
from policyd_rate_limit.mail.wording import printable

if TYPE_CHECKING:
    from email.message import EmailMessage

    from policyd_rate_limit.config import Settings

STEP_SECONDS = 60.0
"""How long each answer of the server may take."""

MAIL_SECONDS = 300.0
"""How long one mail may take in all."""

QUIT_SECONDS = 2.0
"""How long the answer to QUIT may take, when the mail has been accepted already."""

_logger = logging.getLogger(__name__)


class _Client(smtplib.SMTP):
    """smtplib's client, which is there before it connects: its deadline watches it from the first step on."""

    def __init__(self, host: str, timeout: float) -> None:
        super().__init__(timeout=timeout)
        self._host = host  # whom the certificate is to name
        self._allowance = Allowance(of="replies")

    def getreply(self) -> tuple[int, bytes]:
        """See smtplib. A reply may have lines without end there."""
        if self.file is None and self.sock is not None:
            self.file = Bounded(self.sock.makefile("rb"), self._allowance)
        return super().getreply()


@dataclass(frozen=True)
class MailServer:
    """The server that takes our mails. With ``starttls`` its certificate is verified, by the CAs in the PEM file
    ``ca_file`` or by those of the system; ``credentials`` are user and password.
    """

    host: str
    port: int
    starttls: bool = False
    ca_file: str | None = None
    credentials: tuple[str, str] | None = field(default=None, repr=False)
    step_seconds: float = STEP_SECONDS
    mail_seconds: float = MAIL_SECONDS

    def send(self, message: EmailMessage, *, null_sender: bool = False) -> dict[str, str]:
        """Send ``message`` from the address in From to those in To; the refused ones of them, and why.

        With ``null_sender`` the envelope has none, so that nobody's server answers (RFC 5321, 4.5.5).

        The server has accepted the mail for all others, at least one, when this returns.

        :raises DeliveryFailed: the server has accepted it for nobody, or has not said that it has.
        """
        try:
            context = tls_context("smtp_ca_file", self.ca_file) if self.starttls else None
            return self._send(message, context, null_sender=null_sender)
        except (OSError, UnicodeError) as error:
            raise DeliveryFailed(f"SMTP server {self.host}:{self.port}: {_reason(error)}") from error
        except TooMuchSaid as error:
            raise DeliveryFailed(f"SMTP server {self.host}:{self.port}: {error}") from error

    def _send(self, message: EmailMessage, context: ssl.SSLContext | None, *, null_sender: bool) -> dict[str, str]:
        client = _Client(self.host, self.step_seconds)
        with contextlib.closing(client), Deadline(self.mail_seconds, lambda: client.sock) as deadline:
            try:
                code, greeting = client.connect(self.host, self.port)
                if code != 220:
                    raise smtplib.SMTPConnectError(code, greeting)
                if context is not None:
                    client.starttls(context=context)
                if self.credentials is not None:
                    self._log_in(client, self.credentials, encrypted=context is not None)
                sender = "" if null_sender else addresses(message, "From")[0]
                refused = client.send_message(message, sender, addresses(message, "To"))
            finally:
                deadline.check()
            # The mail is the server's now, whatever it makes of QUIT.
            with contextlib.suppress(OSError):
                assert client.sock is not None  # noqa: S101 - it has just answered
                client.sock.settimeout(QUIT_SECONDS)
                client.quit()
        return {recipient: _reply(*reply) for recipient, reply in refused.items()}

    def _log_in(self, client: smtplib.SMTP, credentials: tuple[str, str], *, encrypted: bool) -> None:
        if not encrypted and not _is_local(client.sock):
            _logger.warning("the password in smtp_credentials goes to %s in clear: set smtp_starttls", self.host)
        try:
            client.login(*credentials)
        except UnicodeError:
            raise smtplib.SMTPException("smtp_credentials are not ASCII, which AUTH cannot send") from None


def _is_local(connection: socket.socket | None) -> bool:
    return connection is not None and ip_address(connection.getpeername()[0]).is_loopback


def _reason(error: Exception) -> str:
    """What ``error`` says; smtplib's own words are those of a program."""
    match error:
        case smtplib.SMTPRecipientsRefused():
            refused = (f"{recipient}: {_reply(*reply)}" for recipient, reply in error.recipients.items())
            return f"no recipient was accepted: {'; '.join(refused)}"
        case smtplib.SMTPResponseException():
            return _reply(error.smtp_code, error.smtp_error)
        case _:
            return reason(error)


def _reply(code: int, text: bytes | str) -> str:
    """A reply of the server on one line."""
    words = text if isinstance(text, str) else text.decode("utf-8", "replace")
    return printable(f"{code} {' '.join(words.split())}".rstrip(), LONGEST_REASON)


def mail_server(settings: Settings) -> MailServer:
    """The server that takes our mails."""
    host, port = settings.smtp_server
    return MailServer(
        host,
        port,
        starttls=settings.smtp_starttls,
        ca_file=settings.smtp_ca_file,
        credentials=settings.smtp_credentials,
    )
