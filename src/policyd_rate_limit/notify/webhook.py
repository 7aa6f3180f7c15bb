"""The channel ``notify_url``: a POST for each alert, signed as Standard Webhooks have it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import time
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from policyd_rate_limit.errors import DeliveryFailed
from policyd_rate_limit.mail.network import Allowance, Bounded, Deadline, TooMuchSaid, reason, tls_context
from policyd_rate_limit.notify.alert import as_json

if TYPE_CHECKING:
    from io import BufferedReader

    from policyd_rate_limit.notify.alert import Alert

URL_SECONDS = 10.0
"""How long each step of a POST may take, and how long all of it."""

SECRET_PREFIX = "whsec_"  # noqa: S105 - of a secret in base64, as Standard Webhooks write it


class _Response(http.client.HTTPResponse):
    """An answer of which no more is read than is allowed: http.client takes headers of 6 MB."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.fp = cast("BufferedReader", Bounded(self.fp, Allowance()))


class Url:
    """``notify_url``, signed with ``secret`` as Standard Webhooks have it; ``ca_file`` as in
    :class:`policyd_rate_limit.mail.smtp.MailServer`.
    """

    name = "notify_url"

    def __init__(
        self, url: str, secret: str | None = None, ca_file: str | None = None, seconds: float = URL_SECONDS
    ) -> None:
        self._parts = urlsplit(url)
        self._secret = secret
        self._ca_file = ca_file
        self._seconds = seconds

    def deliver(self, alert: Alert) -> None:
        """POST the alert as JSON. Only an answer from 200 to 299 is success; redirects are not followed."""
        where = self._parts.hostname or ""  # the rest of the URL may be a secret
        body = as_json(alert)
        headers = {"Content-Type": "application/json", "User-Agent": "policyd-rate-limit", "Connection": "close"}
        headers["webhook-id"] = alert.number
        headers["webhook-timestamp"] = timestamp = str(int(time.time()))
        if self._secret is not None:
            headers["webhook-signature"] = sign(self._secret, alert.number, timestamp, body)
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
