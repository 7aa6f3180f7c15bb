"""Pages from templates: everything that is put into one is escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from policyd_rate_limit.web.origins import FORM_TOKEN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from policyd_rate_limit.web.visitors import Visitor

_environment = Environment(
    loader=PackageLoader("policyd_rate_limit.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)


def render(
    request: Request, template: str, context: Mapping[str, object], visitor: Visitor | None = None, status: int = 200
) -> HTMLResponse:
    """The page that ``template`` makes of ``context``, for ``visitor``."""
    page = _environment.get_template(template).render(
        **context, visitor=visitor, path=request.url.path, form_token_field=FORM_TOKEN
    )
    return HTMLResponse(page, status)
