"""Mailing the report that the settings ask for."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from policyd_rate_limit.admin.opening import open_desk
from policyd_rate_limit.errors import DeliveryFailed
from policyd_rate_limit.mail.message import compose, own_address
from policyd_rate_limit.mail.smtp import mail_server
from policyd_rate_limit.report.listing import Row, as_html, as_text, sorted_by_hits

if TYPE_CHECKING:
    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.config import Settings


def mail_report(settings: Settings) -> None:
    """Mail who ran into the limits of ``report_limits`` since the last report, and forget it once the server has it.

    Nothing with ``report_only_if_needed`` when that is nobody. What a limit admits is what
    it admits now: of a hit the database knows the window alone.

    :raises DeliveryFailed: a setting that it needs is broken, or nobody has got it, and nothing is forgotten; or some
        of several recipients were refused, while the others have it.
    :raises PolicydError: the database cannot be opened, or does not answer.
    """
    with open_desk(settings) as desk:
        _mail(settings, desk, os.uname().nodename)


def _mail(settings: Settings, desk: Desk, host: str) -> None:
    if mistakes := settings.mistakes_of("report_", "smtp_"):
        raise DeliveryFailed(f"no report: {mistakes}")
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
