"""The report and the alerts."""

from __future__ import annotations

from dataclasses import dataclass

from policyd_rate_limit.config.kind import unset_or, whole
from policyd_rate_limit.config.kinds import (
    ARGUMENTS,
    CREDENTIALS,
    FLAG,
    LINE,
    PATH,
    PERIODS,
    RECIPIENTS,
    SECRET,
    SENDER,
    SERVER,
    URL,
)
from policyd_rate_limit.config.setting import setting
from policyd_rate_limit.config.settings.limits import LimitSettings

_DAY = 86400


@dataclass(frozen=True, init=False)
class ReportSettings(LimitSettings):
    """The report and the alerts, after the settings that come before."""

    report: bool = setting(
        FLAG,
        False,
        "Mail a report on who ran into a limit, each time --clean is called.",
        reload=True,
        reporting=True,
        heading="The report",
    )
    report_from: str | None = setting(
        unset_or(SENDER),
        None,
        """
        The address that the report and the alerts come from. Unset: policyd-rate-limit at this host, with the null
        sender.
        """,
        reload=True,
        reporting=True,
    )
    report_to: str | tuple[str, ...] | None = setting(
        unset_or(RECIPIENTS),
        None,
        "The address that the report goes to, or a list of them. To be set where report is on.",
        reload=True,
        reporting=True,
    )
    report_subject: str = setting(
        LINE,
        "policyd-rate-limit report",
        "The subject of the report.",
        reload=True,
        reporting=True,
        may_be_empty=True,
    )
    report_limits: tuple[int, ...] = setting(
        PERIODS,
        (_DAY,),
        "The periods of the limits that are reported.",
        unit="seconds",
        reload=True,
        reporting=True,
        may_be_empty=True,
    )
    report_only_if_needed: bool = setting(
        FLAG,
        True,
        "Mail no report when nobody ran into a limit.",
        reload=True,
        reporting=True,
    )
    smtp_server: tuple[str, int] = setting(
        SERVER,
        ("localhost", 25),
        "The SMTP server that takes the report and the alerts.",
        reload=True,
        reporting=True,
        may_be_empty=True,
    )
    smtp_starttls: bool = setting(
        FLAG,
        False,
        """
        Speak TLS with that server, whose certificate is verified; to be set where there are credentials.
        """,
        reload=True,
        reporting=True,
    )
    smtp_ca_file: str | None = setting(
        unset_or(PATH),
        None,
        """
        A file, in PEM, of the certificate authorities that may vouch for that server. Unset: those that the
        system trusts.
        """,
        reload=True,
        reporting=True,
    )
    smtp_credentials: tuple[str, str] | None = setting(
        unset_or(CREDENTIALS),
        None,
        "[user, password] for that server, or nothing.",
        reload=True,
        reporting=True,
        secret=True,
    )

    notify_to: str | tuple[str, ...] | None = setting(
        unset_or(RECIPIENTS),
        None,
        """
        The address, or a list of them, that gets a mail at once when somebody runs into a limit, from
        report_from by way of smtp_server. One alert for each id and limit in the period of that limit.
        """,
        reload=True,
        reporting=True,
        heading="Alerts",
    )
    notify_command: tuple[str, ...] | None = setting(
        unset_or(ARGUMENTS),
        None,
        """
        A program and its arguments, run without a shell for each alert, which it reads as JSON from its
        standard input.
        """,
        reload=True,
        reporting=True,
    )
    notify_url: str | None = setting(
        unset_or(URL),
        None,
        "Where each alert goes as JSON, by POST.",
        reload=True,
        reporting=True,
        secret=True,
    )
    notify_secret: str | None = setting(
        unset_or(SECRET),
        None,
        """
        What signs these, as Standard Webhooks have it: whsec_ and the key in base64, or text that is the key.
        """,
        reload=True,
        reporting=True,
        secret=True,
    )
    notify_ca_file: str | None = setting(
        unset_or(PATH),
        None,
        """
        A file, in PEM, of the certificate authorities that may vouch for the server of notify_url. Unset: those
        that the system trusts.
        """,
        reload=True,
        reporting=True,
    )
    notify_max_per_hour: int = setting(
        whole(1, 100_000),
        20,
        "The most alerts in any hour; the next one says which there would have been.",
        reload=True,
        reporting=True,
    )
