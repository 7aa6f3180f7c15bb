"""Pages from templates, in the language of whoever looks: everything that is put into one is escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from policyd_rate_limit.language.catalogue import LANGUAGES
from policyd_rate_limit.web.origins import FORM_TOKEN
from policyd_rate_limit.web.wording import Wording, accepted, wording

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from policyd_rate_limit.web.visitors import Visitor

LANGUAGE_COOKIE: Final = "language"
"""What somebody has chosen by the links at the foot of each page."""

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
    url = request.url
    page = _environment.get_template(template).render(
        **context,
        t=wording_of(request),
        languages=[wording(language) for language in LANGUAGES],
        visitor=visitor,
        path=url.path,
        # Where a form was sent there is nothing to be looked at again.
        here=(f"{url.path}?{url.query}" if url.query else url.path) if request.method == "GET" else "/",
        form_token_field=FORM_TOKEN,
    )
    return HTMLResponse(page, status, {"vary": "accept-language, cookie"})


def wording_of(request: Request) -> Wording:
    """The texts in the language that somebody has chosen, or else in the one that their browser wants most."""
    chosen = request.cookies.get(LANGUAGE_COOKIE, "")
    return wording(chosen if chosen in LANGUAGES else accepted(request.headers.get("accept-language", "")))
