"""Who changed what: the audit trail, page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.web.pages.shown import change_row
from policyd_rate_limit.web.rendering import render
from policyd_rate_limit.web.site import site_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.storage.administration import AuditEntry
    from policyd_rate_limit.web.authority import Authority
    from policyd_rate_limit.web.visitors import Visitor

MOST_ENTRIES = 50
"""On one page."""

MOST_READ = 2_000
"""So many are read for the page of somebody who sees but few of them; the next page goes on there."""

_LARGEST = 1 << 62


async def audit(request: Request, visitor: Visitor) -> Response:
    """The latest changes, or those before the number ``before``."""
    given = request.query_params.get("before", "")
    before = min(int(given), _LARGEST) if given.isascii() and given.isdecimal() and len(given) < 20 else None
    now, entries, older = await site_of(request).desks.ask(_read, before, visitor.authority)
    return render(
        request,
        "audit.html",
        {"entries": list(map(change_row, entries)), "before": before, "older": older, "now": now},
        visitor,
    )


def _read(desk: Desk, before: int | None, authority: Authority) -> tuple[int, list[AuditEntry], int | None]:
    """The entries of one page, and before which number the next one begins."""
    found: list[AuditEntry] = []
    read = 0
    while True:
        page = desk.store.audit(most=MOST_ENTRIES, before=before)
        for entry in page:
            if len(found) == MOST_ENTRIES:
                return desk.store.now(), found, found[-1].number
            if authority.is_for_all or authority.reaches(entry.subject):
                found.append(entry)
        read += len(page)
        if len(page) < MOST_ENTRIES:
            return desk.store.now(), found, None
        before = page[-1].number
        if read >= MOST_READ or len(found) == MOST_ENTRIES:
            return desk.store.now(), found, before
