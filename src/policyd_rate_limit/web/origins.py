"""Whether a page of this very site has sent a form: by its origin, and by what only such a page can know."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from policyd_rate_limit.errors import PolicydError
from policyd_rate_limit.web.site import site_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from policyd_rate_limit.web.site import Site
    from policyd_rate_limit.web.visitors import Visitor

FORM_TOKEN = "form_token"  # noqa: S105 - the name of the field
"""The field of every form that has :attr:`.visitors.Visitor.form_token`."""

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


class ForeignOrigin(PolicydError):
    """A form comes from another site, or from a page that is too old."""


def check_origin(request: Request) -> None:
    """Raise ForeignOrigin unless a page of this site sends ``request``. All browsers say so by Origin (RFC 6454)."""
    own = own_origin(site_of(request), request.headers.get("host", ""))
    fetched = request.headers.get("sec-fetch-site")
    if fetched is not None and fetched != "same-origin":
        raise ForeignOrigin("the form was sent by another site")
    origin = request.headers.get("origin")
    if origin is None:
        referrer = urlsplit(request.headers.get("referer", ""))
        origin = f"{referrer.scheme}://{referrer.netloc}" if referrer.netloc else None
    if origin is None or origin.lower() != own:
        raise ForeignOrigin("the form was sent by another site, or by a browser that does not say by which")


def check_form(request: Request, visitor: Visitor, form: Mapping[str, object]) -> None:
    """Raise ForeignOrigin unless a page of this site that ``visitor`` has seen sends ``form``."""
    check_origin(request)
    token = form.get(FORM_TOKEN)
    if not isinstance(token, str) or not hmac.compare_digest(token.encode(), visitor.form_token.encode()):
        raise ForeignOrigin("the form is of another login")


def own_origin(site: Site, host: str) -> str:
    """The origin of this site for a browser that reaches it as ``host``."""
    return (site.url or "").lower() if host.lower() == site.host else f"http://{host.lower()}"


def is_own_host(site: Site, host: str) -> bool:
    """Whether ``host``, of the header Host, is a name of this site. Any other one is another site's: DNS rebinding."""
    name, colon, port = host.lower().rpartition(":")
    if not colon or "]" in port:
        name, port = host.lower(), ""
    return host.lower() == site.host or (name in LOOPBACK_NAMES and (not port or port.isdigit()))
