"""Forms as browsers send them: fields of text, few and short. Files are not taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.requests import Request

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_FIELDS = 50


async def read_form(request: Request) -> Mapping[str, object]:
    """The fields of the form; the first of each name. Raises HTTPException 400 or 415."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(415, "expected a form (application/x-www-form-urlencoded)")
    async with request.form(max_files=0, max_fields=MOST_FIELDS) as form:
        items = form.multi_items()
    if len(items) > MOST_FIELDS:
        raise HTTPException(400, f"expected at most {MOST_FIELDS} fields")
    return dict(reversed(items))


def text_of(form: Mapping[str, object], name: str) -> str:
    """The text of the field ``name``; empty where there is none."""
    value = form.get(name)
    return value if isinstance(value, str) else ""
