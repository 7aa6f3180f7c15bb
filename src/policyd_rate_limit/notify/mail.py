"""The channels that are mails: ``notify_to``, and ``notify`` of rules."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from policyd_rate_limit.mail.message import compose, own_address
from policyd_rate_limit.notify.alert import as_text, as_text_for_user, subject, subject_for_user

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policyd_rate_limit.mail.smtp import MailServer
    from policyd_rate_limit.notify.alert import Alert

_logger = logging.getLogger(__name__)


class Mail:
    """``notify_to``; ``sender`` None: this host, with the null sender."""

    name = "notify_to"

    def __init__(self, server: MailServer, sender: str | None, recipients: str | Sequence[str] = ()) -> None:
        self._server = server
        self._sender = sender
        self._recipients = recipients
        self._refused: dict[str, str] = {}

    def deliver(self, alert: Alert) -> None:
        """Send a mail. Recipients that are refused while others are not are logged when they change."""
        message = compose(
            self._sender or own_address(alert.host),
            alert.to or self._recipients,
            subject_for_user(alert) if alert.is_for_user else subject(alert),
            alert.time,
            as_text_for_user(alert) if alert.is_for_user else as_text(alert),
            number=alert.number,
        )
        refused = self._server.send(message, null_sender=self._sender is None)
        if refused.keys() != self._refused.keys():
            for recipient, reply in refused.items():
                _logger.warning("%s: %s is refused: %s", self.name, recipient, reply)
        self._refused = refused

    def abandon(self) -> None:
        """The server sees the connection end."""


class MailOfRules(Mail):
    """``notify`` of rules: each alert says to whom it goes."""

    name = "notify of rules"


class MailToUsers(Mail):
    """``notify`` of rules to the users themselves."""

    name = "notify of rules, to users"
