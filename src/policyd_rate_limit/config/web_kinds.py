"""Kinds of values of the settings of the web page: where it listens, and how browsers and the proxy reach it."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

from policyd_rate_limit.config.kind import Fault, Kind, Wrong
from policyd_rate_limit.config.kinds import LISTEN_ADDRESS, URL

_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")


def _web_address(value: object) -> str | tuple[str, int]:
    """A UNIX socket or loopback: what is sent is not encrypted, and who may connect is believed some of it."""
    address: str | tuple[str, int] = LISTEN_ADDRESS.read(value)
    if not isinstance(address, str) and not ip_address(address[0]).is_loopback:
        raise Wrong(Fault(address[0], "127.0.0.1 or ::1: others reach it by your TLS proxy", (0,)))
    return address


def _web_url(value: object) -> str:
    text: str = URL.read(value)
    parts = urlsplit(text)
    if parts.scheme != "https" or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise Wrong(Fault(value))
    return f"https://{parts.netloc.lower().removesuffix(':443')}"  # as browsers write it in Origin


def _header(value: object) -> str:
    if not isinstance(value, str) or not _HEADER.fullmatch(value):
        raise Wrong(Fault(value))
    return value


WEB_ADDRESS = Kind("a path such as /run/x/web.sock, or [127.0.0.1, port]", _web_address)
WEB_URL = Kind("https, a host name, and a port if it is not 443, such as https://limits.example.org", _web_url)
HEADER = Kind("the name of a header, such as X-Remote-User", _header)
