"""Logging in and out."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from policyd_rate_limit.system.logs import one_line
from policyd_rate_limit.web.forms import read_form, text_of
from policyd_rate_limit.web.origins import check_form, check_origin
from policyd_rate_limit.web.rendering import render
from policyd_rate_limit.web.site import site_of
from policyd_rate_limit.web.visitors import (
    SECURE_SESSION_COOKIE,
    SESSION_COOKIE,
    address_of,
    place_of,
    visitor_of,
)

if TYPE_CHECKING:
    from starlette.requests import Request

LONGEST_NAME = 64  # characters
WRONG, WAIT = "wrong", "wait"
"""What the page of the login says: name or password is wrong; there were too many guesses."""

_logger = logging.getLogger(__name__)


async def show(request: Request) -> Response:
    """The form of the login."""
    if visitor_of(request) is not None:
        return RedirectResponse("/", 303)
    return _page(request, "")


async def log_in(request: Request) -> Response:
    """Begin a session for whoever knows the password of an account; it takes as long for names that there are not."""
    site = site_of(request)
    check_origin(request)
    form = await read_form(request)
    name, password = text_of(form, "name")[:LONGEST_NAME], text_of(form, "password")
    address = address_of(request)
    place = place_of(address)
    pause = site.guessing.pause(name, place)
    if pause:
        return _page(request, WAIT, 429, {"retry-after": str(round(pause) + 1)})
    site.guessing.begin(name, place)
    account = site.accounts.current().accounts.get(name)
    if not await site.passwords.is_right(account, password) or account is None:
        _logger.warning("web: wrong password for %s from %s", one_line(name), address)
        return _page(request, WRONG, 403)
    site.guessing.right(name, place)
    _end_session(request)
    identifier, _ = site.sessions.begin(account)
    _logger.info("web: %s logs in from %s", account.name, address)
    answer = RedirectResponse("/", 303)
    answer.set_cookie(
        SECURE_SESSION_COOKIE if site.has_tls else SESSION_COOKIE,
        identifier,
        path="/",
        secure=site.has_tls,
        httponly=True,
        samesite="strict",
    )
    return answer


async def log_out(request: Request) -> Response:
    """End the session."""
    site = site_of(request)
    check_origin(request)  # also of nobody: the browser sends no cookie with another site's form, but heeds the answer
    visitor = visitor_of(request)
    if visitor is not None:
        check_form(request, visitor, await read_form(request))
    _end_session(request)
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(
        SECURE_SESSION_COOKIE if site.has_tls else SESSION_COOKIE,
        path="/",
        secure=site.has_tls,
        httponly=True,
        samesite="strict",
    )
    answer.headers["clear-site-data"] = '"cache", "storage"'
    return answer


def _end_session(request: Request) -> None:
    visitor = visitor_of(request)
    if visitor is not None and visitor.session is not None:
        site_of(request).sessions.end(visitor.session)


def _page(request: Request, wrong: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    page = render(request, "login.html", {"wrong": wrong}, status=status)
    page.headers.update(headers or {})
    return page


ROUTES = [
    Route("/login", show, methods=["GET"]),
    Route("/login", log_in, methods=["POST"]),
    Route("/logout", log_out, methods=["POST"]),
]
