"""Which report and which notices the settings ask for, and how they are made."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from policyd_rate_limit.errors import DeliveryFailed

if TYPE_CHECKING:
    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.report.outbox import Way
    from policyd_rate_limit.report.smtp import MailServer
    from policyd_rate_limit.storage.administration import Administration

# smtplib, ssl and email take a while to load, and most daemons need none of them.


def mail_report(settings: Settings, administration: Administration, host: str) -> None:
    """Mail who ran into the limits of ``report_limits`` since the last report, and forget it once the server has it.

    With ``report_only_if_needed``, not when that is nobody.

    :raises DeliveryFailed: nobody has got it, and nothing is forgotten; or some of several recipients were refused,
        while the others have it.
    :raises StoreError: the database does not answer.
    """
    from policyd_rate_limit.report.listing import Row, as_html, as_text
    from policyd_rate_limit.report.message import compose

    hits = administration.hits()
    rows = [Row(*hit) for hit in hits if hit.seconds in settings.report_limits]
    if not rows and settings.report_only_if_needed:
        return
    assert settings.report_from is not None  # noqa: S101 - the schema asks for both where report is on
    assert settings.report_to is not None  # noqa: S101 - likewise
    message = compose(
        settings.report_from,
        settings.report_to,
        settings.report_subject,
        time.time(),
        as_text(rows, host),
        html=as_html(rows, host),
    )
    refused = mail_server(settings).send(message)
    administration.forget_hits(hits)
    if refused:
        # Whoever has it must not get the same again and again; whoever looks at the exit status shall see it.
        some = "; ".join(f"{recipient}: {reply}" for recipient, reply in refused.items())
        raise DeliveryFailed(f"the report was sent, but not to all: {some}")


def ways_of_notices(settings: Settings) -> list[Way]:
    """Where notices go: none, one or several ways."""
    if not (settings.notify_to or settings.notify_command or settings.notify_url):
        return []
    from policyd_rate_limit.report.ways import Command, Mail, Url

    ways: list[Way] = []
    if settings.notify_to is not None:
        assert settings.report_from is not None  # noqa: S101 - the schema asks for it
        ways.append(Mail(mail_server(settings), settings.report_from, settings.notify_to))
    if settings.notify_command is not None:
        ways.append(Command(settings.notify_command))
    if settings.notify_url is not None:
        ways.append(Url(settings.notify_url, settings.notify_secret, settings.notify_ca_file))
    return ways


def mail_server(settings: Settings) -> MailServer:
    """The server that takes our mails."""
    from policyd_rate_limit.report.smtp import MailServer

    host, port = settings.smtp_server
    return MailServer(
        host,
        port,
        starttls=settings.smtp_starttls,
        ca_file=settings.smtp_ca_file,
        credentials=settings.smtp_credentials,
    )
