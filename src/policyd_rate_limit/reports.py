"""Which report and which notices the settings ask for, and how they are made."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from policyd_rate_limit.errors import DeliveryFailed

if TYPE_CHECKING:
    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.report.outbox import Way
    from policyd_rate_limit.report.smtp import MailServer

# smtplib, ssl and email take a while to load, and most daemons need none of them.


def mail_report(settings: Settings, desk: Desk, host: str) -> None:
    """Mail who ran into the limits of ``report_limits`` since the last report, and forget it once the server has it.

    With ``report_only_if_needed``, not when that is nobody. What a limit admits is what it admits now: of a hit the
    database knows the window alone.

    :raises DeliveryFailed: a setting that it needs is broken, or nobody has got it, and nothing is forgotten; or some
        of several recipients were refused, while the others have it.
    :raises StoreError: the database does not answer.
    """
    from policyd_rate_limit.report.listing import Row, as_html, as_text, sorted_by_hits
    from policyd_rate_limit.report.message import compose, own_address

    _refuse_broken(settings, "report_", "smtp_")
    hits = desk.store.hits()
    rows = [Row(*hit) for hit in hits if hit.seconds in settings.report_limits]
    if not rows and settings.report_only_if_needed:
        return
    shown, _ = sorted_by_hits(rows)
    maxima = {
        (key, limit.seconds): limit.maximum
        for key, limits in desk.limits({row.key for row in shown}).items()
        for limit in limits
    }
    rows = [row._replace(maximum=maxima.get((row.key, row.seconds))) for row in rows]
    assert settings.report_to is not None  # noqa: S101 - it is broken else
    message = compose(
        settings.report_from or own_address(host),
        settings.report_to,
        settings.report_subject,
        time.time(),
        as_text(rows, host),
        html=as_html(rows, host),
    )
    refused = mail_server(settings).send(message, null_sender=settings.report_from is None)
    desk.store.forget_hits(hits)
    if refused:
        # Whoever has it must not get the same again and again; whoever looks at the exit status shall see it.
        some = "; ".join(f"{recipient}: {reply}" for recipient, reply in refused.items())
        raise DeliveryFailed(f"the report was sent, but not to all: {some}")


def ways_of_notices(settings: Settings) -> list[Way]:
    """Where notices go: none, one or several ways."""
    wanted = [name for name in _NEEDED_BY_WAY if getattr(settings, name) is not None or name in settings.broken]
    if not wanted:
        return []
    from policyd_rate_limit.report.ways import Broken, Command, Mail, Url

    ways: list[Way] = []
    for name in wanted:
        mistakes = _mistakes(settings, name, *_NEEDED_BY_WAY[name])
        if mistakes:
            ways.append(Broken(name, mistakes))
        elif name == "notify_to":
            assert settings.notify_to is not None  # noqa: S101 - it is wanted
            ways.append(Mail(mail_server(settings), settings.report_from, settings.notify_to))
        elif name == "notify_command":
            assert settings.notify_command is not None  # noqa: S101 - likewise
            ways.append(Command(settings.notify_command))
        else:
            assert settings.notify_url is not None  # noqa: S101 - likewise
            ways.append(Url(settings.notify_url, settings.notify_secret, settings.notify_ca_file))
    return ways


# How the names begin of what each way of notices needs beside its own.
_NEEDED_BY_WAY = {
    "notify_to": ("report_from", "smtp_"),
    "notify_command": (),
    "notify_url": ("notify_secret", "notify_ca_file"),
}


def _mistakes(settings: Settings, *beginnings: str) -> str:
    """What is wrong with settings whose names begin so, on one line; empty: nothing."""
    return "; ".join(text for name, text in settings.broken.items() if name.startswith(beginnings))


def _refuse_broken(settings: Settings, *beginnings: str) -> None:
    mistakes = _mistakes(settings, *beginnings)
    if mistakes:
        raise DeliveryFailed(f"no report: {mistakes}")


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
