"""Who gets to a page: whoever is logged in, with a role that is for it, and by a form of this very site.

Pages are written as functions of a request and of its visitor; this makes endpoints of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import RedirectResponse, Response

from policyd_rate_limit.web.authority import Forbidden
from policyd_rate_limit.web.forms import read_form
from policyd_rate_limit.web.origins import check_form
from policyd_rate_limit.web.visitors import visitor_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request

    from policyd_rate_limit.web.visitors import Visitor

    Page = Callable[[Request, Visitor], Awaitable[Response]]
    Change = Callable[[Request, Visitor, Mapping[str, object]], Awaitable[Response]]


def seen(page: Page) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of ``page``, for all who are logged in; others are sent to the login."""

    async def endpoint(request: Request) -> Response:
        visitor = visitor_of(request)
        return RedirectResponse("/login", 303) if visitor is None else await page(request, visitor)

    return endpoint


def changed(change: Change) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of ``change``, which gets the fields of a form, for those who may change anything."""

    async def endpoint(request: Request) -> Response:
        visitor = visitor_of(request)
        if visitor is None:
            return RedirectResponse("/login", 303)
        form = await read_form(request)
        check_form(request, visitor, form)
        if not visitor.authority.may_change:
            raise Forbidden("this account may look, and change nothing")
        return await change(request, visitor, form)

    return endpoint
