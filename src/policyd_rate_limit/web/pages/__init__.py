"""The pages: what browsers show. Each file is one page, or what several share; this lists where they are."""

from __future__ import annotations

from starlette.routing import Route

from policyd_rate_limit.web.access import seen
from policyd_rate_limit.web.pages.now import now

ROUTES = [
    Route("/", seen(now), methods=["GET"]),
]
