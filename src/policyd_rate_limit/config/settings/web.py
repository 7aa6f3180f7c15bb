"""The web page."""

from __future__ import annotations

from dataclasses import dataclass

from policyd_rate_limit.config.kind import unset_or
from policyd_rate_limit.config.kinds import LINE, PATH
from policyd_rate_limit.config.setting import setting
from policyd_rate_limit.config.settings.reporting import ReportSettings
from policyd_rate_limit.config.web_kinds import HEADER, WEB_ADDRESS, WEB_URL


@dataclass(frozen=True, init=False)
class WebSettings(ReportSettings):
    """The web page, after the settings that come before."""

    web_address: str | tuple[str, int] = setting(
        WEB_ADDRESS,
        "/run/policyd-rate-limit-web/web.sock",
        """
        Where policyd-rate-limit web listens: the path of a UNIX socket, or [127.0.0.1, port], where whoever is on this
        host may connect. Browsers come by a proxy of yours that speaks TLS. Sockets that systemd has made are served in
        its place.
        """,
        reload=True,
        reporting=True,
        heading="The web page",
    )
    web_group: str = setting(
        LINE,
        "www-data",
        "The group that may connect to that UNIX socket, which is that of the proxy, where root starts the command.",
        reload=True,
        reporting=True,
    )
    web_url: str | None = setting(
        unset_or(WEB_URL),
        None,
        """
        Where browsers reach it, such as https://limits.example.org. Unset: as localhost alone, as through ssh -L.
        """,
        reload=True,
        reporting=True,
    )
    web_accounts: str = setting(
        PATH,
        "/etc/policyd-rate-limit-web.accounts",
        "The file of its accounts and tokens, which policyd-rate-limit web-user and web-token make.",
        reload=True,
        reporting=True,
    )
    web_user_header: str | None = setting(
        unset_or(HEADER),
        None,
        """
        The header in which the proxy says who has logged in there, such as X-Remote-User; it must take away one that a
        browser sends. Believed on the UNIX socket alone. Unset: none is.
        """,
        reload=True,
        reporting=True,
    )
