"""The application: which path leads where, and what becomes of errors. See ASGI, https://asgi.readthedocs.io."""

from __future__ import annotations

import contextlib
import logging
import os
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from policyd_rate_limit.admin.desk import NotAnId
from policyd_rate_limit.admin.overrides import ChangedMeanwhile
from policyd_rate_limit.errors import StoreError
from policyd_rate_limit.web import dovecot, login, pages
from policyd_rate_limit.web.api import routes as api
from policyd_rate_limit.web.api.problems import problem
from policyd_rate_limit.web.authority import Forbidden
from policyd_rate_limit.web.desks import Busy
from policyd_rate_limit.web.origins import ForeignOrigin
from policyd_rate_limit.web.rendering import render
from policyd_rate_limit.web.security import Security
from policyd_rate_limit.web.visitors import BadRequest, visitor_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response

    from policyd_rate_limit.web.site import Site

STATUSES: dict[type[Exception], int] = {
    BadRequest: 400,
    NotAnId: 400,
    Forbidden: 403,
    ForeignOrigin: 403,
    ChangedMeanwhile: 409,
    Busy: 503,
    StoreError: 503,
}
"""The status of an answer to a request that ended with such an error; its message is for who has asked."""

_logger = logging.getLogger(__name__)


class _Files(StaticFiles):
    """The files of the page. Older versions of Starlette fail for names that no file can have."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        return ("", None) if "\0" in path else super().lookup_path(path)


def make_app(site: Site) -> Starlette:
    """What answers the requests to ``site``."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        site.watcher.start()
        try:
            yield
        finally:
            await run_in_threadpool(site.watcher.stop)
            site.desks.close()
            site.passwords.close()

    app = Starlette(
        routes=[
            *login.ROUTES,
            *pages.ROUTES,
            *api.ROUTES,
            *dovecot.ROUTES,
            Mount("/static", _Files(directory=str(files("policyd_rate_limit.web") / "static"))),
        ],
        middleware=[Middleware(Security, site=site)],
        exception_handlers={
            **dict.fromkeys(STATUSES, _tell),
            HTTPException: _tell_http,
        },
        lifespan=lifespan,
    )
    # Starlette's redirect names this host as http, whatever the proxy speaks: what is sent there would be in clear.
    app.router.redirect_slashes = False
    app.state.site = site
    return app


async def _tell(request: Request, error: Exception) -> Response:
    status = next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
    return _page(request, status, str(error))


async def _tell_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for these
    if api.is_of_api(request.url.path):
        return problem(error.status_code, error.detail, headers=error.headers)
    answer = _page(request, error.status_code, error.detail)
    answer.headers.update(error.headers or {})
    return answer


def _page(request: Request, status: int, message: str) -> Response:
    visitor = None
    with contextlib.suppress(BadRequest):
        visitor = visitor_of(request)
    return render(request, "error.html", {"status": status, "message": message}, visitor, status)
