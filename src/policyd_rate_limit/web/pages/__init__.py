"""The pages: what browsers show. Each file is one page, or what several share; this lists where they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.routing import Route

from policyd_rate_limit.web.access import changed, seen
from policyd_rate_limit.web.pages import audit, change, language, now, one_id, refusals, rules, search, styles
from policyd_rate_limit.web.site import site_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from policyd_rate_limit.web.access import Page
    from policyd_rate_limit.web.visitors import Visitor

WAKE_SECONDS = 2.0
"""So long the first page after a while waits for what is new."""


def watched(page: Page) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of ``page``, for all who are logged in, which is made from what a watcher knows."""

    async def wide_awake(request: Request, visitor: Visitor) -> Response:
        watcher = site_of(request).watcher
        if watcher.is_unwatched:
            await run_in_threadpool(watcher.wake, WAKE_SECONDS)
        else:
            watcher.wake(0)
        return await page(request, visitor)

    return seen(wide_awake)


ROUTES = [
    Route("/", watched(now.now), methods=["GET"]),
    Route("/now", watched(now.parts), methods=["GET"]),
    Route("/id", watched(one_id.one_id), methods=["GET"]),
    Route("/search", watched(search.search), methods=["GET"]),
    Route("/rules", watched(rules.rules), methods=["GET"]),
    Route("/refusals", watched(refusals.refusals), methods=["GET"]),
    Route("/audit", seen(audit.audit), methods=["GET"]),
    Route("/change/{what}", seen(change.form), methods=["GET"]),
    Route("/change/{what}", changed(change.asked), methods=["POST"]),
    Route("/confirm", changed(change.confirmed), methods=["POST"]),
    Route("/language", language.language, methods=["GET"]),
    Route("/static/plots.css", styles.style_of_plots, methods=["GET"]),
]
