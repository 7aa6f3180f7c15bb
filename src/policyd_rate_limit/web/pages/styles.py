"""The style of plots, which stands with those in another room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response

from policyd_rate_limit.plots.plot import style

if TYPE_CHECKING:
    from starlette.requests import Request


async def style_of_plots(_request: Request) -> Response:
    """The style sheet."""
    return Response(style(), media_type="text/css")
