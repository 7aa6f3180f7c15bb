"""The first page: how the whole stands now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.admin.overview import overview
from policyd_rate_limit.web.rendering import render
from policyd_rate_limit.web.site import site_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.admin.overview import Overview
    from policyd_rate_limit.web.visitors import Visitor


async def now(request: Request, visitor: Visitor) -> Response:
    """How the whole stands."""
    site = site_of(request)
    settings = site.settings()

    def look(desk: Desk) -> Overview:
        return overview(settings, desk)

    whole = await site.desks.ask(look)
    return render(request, "now.html", {"whole": whole}, visitor)
