"""Who asks: a session of a browser, somebody of whom the proxy says who they are, or a token of a program."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.domain.networks import parse_address
from policyd_rate_limit.errors import PolicydError
from policyd_rate_limit.storage.administration import Actor
from policyd_rate_limit.web.accounts import token_digest
from policyd_rate_limit.web.authority import Authority
from policyd_rate_limit.web.site import Site, site_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Scope

    from policyd_rate_limit.web.sessions import Session

ON_UNIX_SOCKET = "policyd.unix_socket"
"""In the scope of a request that came by the UNIX socket, which the proxy alone may connect to: True."""

SESSION_COOKIE = "session"
SECURE_SESSION_COOKIE = "__Host-session"
"""Its name where there is TLS: browsers then take it from this host alone, and for all of it (RFC 6265bis, 4.1.3)."""

LONGEST_TOKEN = 200  # characters


class BadRequest(PolicydError):
    """The request makes no sense; the message says why."""


class Visitor(NamedTuple):
    """Who asks. ``name``: of the account, or of the token. ``address``: where from, as far as the proxy tells.

    ``form_token``: what every form of theirs has to carry; empty for programs, which no other site can send.
    """

    name: str
    authority: Authority
    address: str
    form_token: str
    session: Session | None = None

    @property
    def actor(self) -> Actor:
        """Who they are in the audit trail."""
        return Actor(self.name, f"{'web' if self.form_token else 'api'} {self.address}")


def visitor_of(request: Request) -> Visitor | None:
    """Who sends ``request`` from a browser; None: nobody who is logged in. Raises BadRequest."""
    site = site_of(request)
    accounts = site.accounts.current().accounts
    name = _name_by_proxy(request, site)
    if name is not None:
        account = accounts.get(name)
        if account is None:
            return None
        return Visitor(name, account.authority, address_of(request), _form_token(site, f"proxy {account.fingerprint}"))
    identifier = request.cookies.get(SECURE_SESSION_COOKIE if site.has_tls else SESSION_COOKIE, "")
    session = site.sessions.find(identifier, accounts.get) if identifier else None
    if session is None:
        return None
    account = accounts[session.name]
    token = _form_token(site, f"session {session.digest}")
    return Visitor(account.name, account.authority, address_of(request), token, session)


def program_of(request: Request) -> Visitor | None:
    """Which program sends ``request``, by its token (RFC 6750); None: none that is valid."""
    site = site_of(request)
    given = request.headers.getlist("authorization")
    if len(given) != 1:
        return None
    scheme, _, token = given[0].partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or len(token) > LONGEST_TOKEN:
        return None
    one = site.accounts.token(token_digest(token))
    if one is None or (one.expires is not None and site.wall() >= one.expires):
        return None
    return Visitor(f"token {one.name}", one.authority, address_of(request), "")


def address_of(request: Request) -> str:
    """Where ``request`` comes from: an address, or ``local``. Raises BadRequest.

    On the UNIX socket the proxy says so, in the last address of X-Forwarded-For: those before it anybody may have
    written. On loopback it is whoever is on this host, and the header is not believed.
    """
    forwarded = request.headers.getlist("x-forwarded-for")
    if not is_on_unix_socket(request.scope):
        return "local" if request.client is None else request.client.host
    if not forwarded:
        return "local"
    last = ",".join(forwarded).rpartition(",")[2].strip()
    try:
        address = parse_address(last)
    except ValueError:
        address = None
    if address is None:
        raise BadRequest("expected an address at the end of X-Forwarded-For, which the proxy writes")
    return str(address)


def place_of(address: str) -> str:
    """What tells one client from others where passwords are guessed: an address, the /64 of an IPv6 address."""
    try:
        found = parse_address(address)
    except ValueError:
        found = None
    return address if found is None or found.version == 4 else str(found.within(64))


def is_on_unix_socket(scope: Scope) -> bool:
    """Whether a request came by the UNIX socket."""
    return scope.get(ON_UNIX_SOCKET) is True


def _name_by_proxy(request: Request, site: Site) -> str | None:
    """Who the proxy says it is; None: it says nothing, or is not to be believed."""
    if site.user_header is None or not is_on_unix_socket(request.scope):
        return None
    names = request.headers.getlist(site.user_header)
    if len(names) > 1:
        raise BadRequest(
            f"expected one header {site.user_header}, found {len(names)}: the proxy has to take away others"
        )
    return names[0].strip() or None if names else None


def _form_token(site: Site, of: str) -> str:
    return hmac.new(site.secret, of.encode(), hashlib.sha256).hexdigest()
