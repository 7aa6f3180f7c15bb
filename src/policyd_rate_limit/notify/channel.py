"""Channels for alerts: what each does, and which ones the settings ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from policyd_rate_limit.errors import DeliveryFailed

if TYPE_CHECKING:
    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.notify.alert import Alert

# smtplib, ssl and subprocess take a while to load, and most daemons need none of them.

# How the names begin of what each channel needs beside its own setting.
_NEEDED = {
    "notify_to": ("report_from", "smtp_"),
    "notify_command": (),
    "notify_url": ("notify_secret", "notify_ca_file"),
}


class Channel(Protocol):
    """Where alerts go. ``name``: how the log calls it, such as the setting that asks for it."""

    name: str

    def deliver(self, alert: Alert) -> None:
        """Send ``alert``; it may take its time, but has an end.

        :raises DeliveryFailed: it did not get there.
        """

    def abandon(self) -> None:
        """The daemon ends while :meth:`deliver` is in progress, in another thread: leave nothing behind."""


class Broken:
    """A channel that the configuration asks for, with a mistake."""

    def __init__(self, name: str, mistakes: str) -> None:
        self.name = name
        self._mistakes = mistakes

    def deliver(self, alert: Alert) -> None:  # noqa: ARG002 - nothing can be sent
        """Fail."""
        raise DeliveryFailed(self._mistakes)

    def abandon(self) -> None:
        """There is nothing to leave behind."""


def make_channels_of_rules(settings: Settings) -> tuple[Channel, Channel] | None:
    """Where what ``notify`` of rules asks for goes, to administrators and to users; None: no rule asks for it."""
    if not any(rule.notify for rule in settings.rules):
        return None
    from policyd_rate_limit.mail.smtp import mail_server
    from policyd_rate_limit.notify.mail import MailOfRules, MailToUsers

    mistakes = settings.mistakes_of(*_NEEDED["notify_to"])
    if mistakes:
        return Broken(MailOfRules.name, mistakes), Broken(MailToUsers.name, mistakes)
    server = mail_server(settings)
    return MailOfRules(server, settings.report_from), MailToUsers(server, settings.report_from)


def addresses_of_alerts(settings: Settings) -> frozenset[str]:
    """Whom ``notify_to`` has alerts mailed to, in lower case."""
    if settings.notify_to is None or settings.mistakes_of("notify_to", *_NEEDED["notify_to"]):
        return frozenset()
    addresses = (settings.notify_to,) if isinstance(settings.notify_to, str) else settings.notify_to
    return frozenset(address.lower() for address in addresses)


def make_channels(settings: Settings) -> list[Channel]:
    """Where alerts go: none, one or several channels."""
    wanted = [name for name in _NEEDED if getattr(settings, name) is not None or name in settings.broken]
    if not wanted:
        return []
    from policyd_rate_limit.mail.smtp import mail_server
    from policyd_rate_limit.notify.command import Command
    from policyd_rate_limit.notify.mail import Mail
    from policyd_rate_limit.notify.webhook import Url

    channels: list[Channel] = []
    for name in wanted:
        mistakes = settings.mistakes_of(name, *_NEEDED[name])
        if mistakes:
            channels.append(Broken(name, mistakes))
        elif name == "notify_to":
            assert settings.notify_to is not None  # noqa: S101 - it is wanted
            channels.append(Mail(mail_server(settings), settings.report_from, settings.notify_to))
        elif name == "notify_command":
            assert settings.notify_command is not None  # noqa: S101 - likewise
            channels.append(Command(settings.notify_command))
        else:
            assert settings.notify_url is not None  # noqa: S101 - likewise
            channels.append(Url(settings.notify_url, settings.notify_secret, settings.notify_ca_file))
    return channels
