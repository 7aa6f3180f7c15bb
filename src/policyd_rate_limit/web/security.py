"""What every answer carries, and what no request may be: https://cheatsheetseries.owasp.org, HTTP Headers."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse

from policyd_rate_limit.system.logs import one_line
from policyd_rate_limit.web.origins import is_own_host

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from policyd_rate_limit.web.site import Site

MOST_HEAD = 32 << 10
"""Bytes of the head of a request."""

MOST_BODY = 64 << 10
"""Bytes of the body of a request."""

BODY_SECONDS = 10.0
"""So long a client may take to send the body of a request."""

HEADERS = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "permissions-policy": (
        "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), publickey-credentials-get=(), usb=()"
    ),
    "x-robots-tag": "noindex, nofollow",
}
"""Those of each answer. The referrer stays on this site, where it stands in for an Origin."""

CACHE_CONTROL = "no-store"
"""Unless an answer says otherwise: what pages show is of nobody who uses the browser later."""

STRICT_TRANSPORT_SECURITY = "max-age=31536000"
"""Where there is TLS (RFC 6797); of the host of the site alone."""


_logger = logging.getLogger(__name__)


class Security:
    """Answers what is not for this site, or too long, and has every answer carry :data:`HEADERS`."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self._app = app
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        bounded = _Bounded(receive)
        has_begun = False

        async def sent(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                self._harden(MutableHeaders(scope=message))
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, sent)
            return
        try:
            await self._app(scope, bounded, sent)
        except _TooLong:
            await PlainTextResponse(f"at most {MOST_BODY} bytes\n", 413)(scope, receive, sent)
        except _TooSlow:
            await PlainTextResponse("too slow\n", 408, {"connection": "close"})(scope, receive, sent)
        except ClientDisconnect:
            pass  # nobody is there any more; a log full of these would hide what matters
        except Exception:
            _logger.exception("web: %s %s fails", scope["method"], one_line(scope["path"]))
            if not has_begun:
                await PlainTextResponse("an error of the program, which its log tells\n", 500)(scope, receive, sent)

    def _refusal(self, scope: Scope, headers: Headers) -> PlainTextResponse | None:
        target = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        if target + sum(len(name) + len(value) for name, value in headers.raw) > MOST_HEAD:
            return PlainTextResponse(f"at most {MOST_HEAD} bytes before the body\n", 400, {"connection": "close"})
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not is_own_host(self._site, hosts[0]):
            where = f"{self._site.url} or localhost" if self._site.url else "localhost; web_url names another one"
            return PlainTextResponse(f"this site is reached as {where}\n", 421)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > MOST_BODY:
            return PlainTextResponse(f"at most {MOST_BODY} bytes\n", 413, {"connection": "close"})
        return None

    def _harden(self, headers: MutableHeaders) -> None:
        for name, value in HEADERS.items():
            headers[name] = value
        headers.setdefault("cache-control", CACHE_CONTROL)
        if self._site.has_tls:
            headers["strict-transport-security"] = STRICT_TRANSPORT_SECURITY


class _TooLong(Exception):
    """The body is longer than MOST_BODY."""


class _TooSlow(Exception):
    """The body does not come within BODY_SECONDS."""


class _Bounded:
    """Receives a body that is neither too long nor too slow."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._bytes = 0
        self._until = 0.0
        self._whole = False

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()  # tells that the client is gone, whenever that is
        self._until = self._until or asyncio.get_running_loop().time() + BODY_SECONDS
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise _TooSlow from None
        self._bytes += len(message.get("body", b""))
        if self._bytes > MOST_BODY:
            raise _TooLong
        self._whole = not message.get("more_body", False)
        return message
