"""The links by which somebody chooses the language of the pages."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from starlette.responses import RedirectResponse, Response

from policyd_rate_limit.language.catalogue import LANGUAGES
from policyd_rate_limit.web.rendering import LANGUAGE_COOKIE
from policyd_rate_limit.web.site import site_of

if TYPE_CHECKING:
    from starlette.requests import Request

YEAR = 365 * 86_400


async def language(request: Request) -> Response:
    """Remember the language ``set``, and go back to the page ``to``."""
    answer = RedirectResponse(_local(request.query_params.get("to", "")), 303)
    chosen = request.query_params.get("set", "")
    if chosen in LANGUAGES:
        answer.set_cookie(
            LANGUAGE_COOKIE, chosen, max_age=YEAR, secure=site_of(request).has_tls, httponly=True, samesite="strict"
        )
    return answer


def _local(address: str) -> str:
    """``address`` where it is a page of this site, else the first page."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "/"
    if parts.scheme or parts.netloc or not parts.path.startswith("/") or parts.path[1:2] in ("/", "\\"):
        return "/"
    path = quote(parts.path, safe="/%")
    return f"{path}?{quote(parts.query, safe='=&%+')}" if parts.query else path
