"""The search: from what somebody on the telephone says to the page of an id, or to a list."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

from starlette.responses import RedirectResponse, Response

from policyd_rate_limit.admin.desk import NotAnId
from policyd_rate_limit.domain.networks import parse_address, parse_network
from policyd_rate_limit.web.pages.one_id import DAY, LONGEST_NAME
from policyd_rate_limit.web.pages.shown import hit_row, id_of
from policyd_rate_limit.web.rendering import render
from policyd_rate_limit.web.site import site_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request

    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.domain.networks import Network
    from policyd_rate_limit.storage.administration import HourOfHits
    from policyd_rate_limit.web.authority import Authority
    from policyd_rate_limit.web.site import Site
    from policyd_rate_limit.web.visitors import Visitor

MOST_FOUND = 50
_QUEUE_ID: Final = re.compile(r"[0-9A-Za-z]{6,20}")  # short and long ones: postconf(5), enable_long_queue_ids


class Found(NamedTuple):
    """What was found. ``as_id``: the text is, or may be, this id; ``is_sure``: it is on record.

    ``hits``: mails, found by ``hits_of`` (queue, network); ``ids``: counters that contain the text. ``reason``: why the
    text can be no id.
    """

    now: int
    as_id: str
    is_sure: bool
    hits: list[HourOfHits]
    hits_of: str
    ids: list[str]
    reason: str


async def search(request: Request, visitor: Visitor) -> Response:
    """Look for ``q``."""
    text = request.query_params.get("q", "").strip()[:LONGEST_NAME]
    site = site_of(request)
    found = Found(0, "", False, [], "queue", [], "")
    if text:
        found = await site.desks.ask(_look, site, text, visitor.authority)
        if found.is_sure:
            return RedirectResponse(f"/id?of={quote(found.as_id, safe='')}", 303)
    return render(
        request,
        "search.html",
        {
            "searched": text,
            "now": found.now,
            "found_hits": list(map(hit_row, found.hits)),
            "hits_of": found.hits_of,
            "found_ids": [(id_of(one), one) for one in found.ids],
            "more_ids": len(found.ids) == MOST_FOUND,
            "as_id": found.as_id,
            "reason": found.reason,
        },
        visitor,
    )


def _look(desk: Desk, site: Site, text: str, authority: Authority) -> Found:
    now = desk.store.now()
    as_id, is_sure, reason = "", False, ""
    try:
        keys = authority.reached(authority.at(desk).keys(text))
    except NotAnId as error:
        reason = str(error)
    else:
        as_id = text if keys else ""
        is_sure = bool(keys) and _is_on_record(desk, site, keys)
    if is_sure:
        return Found(now, as_id, True, [], "queue", [], "")
    hits: list[HourOfHits] = []
    if _QUEUE_ID.fullmatch(text):
        hits = list(islice((one for one in desk.store.find_queue_id(text) if authority.reaches(one.key)), MOST_FOUND))
    if hits:
        return Found(now, "", False, hits, "queue", [], "")
    network = _network(text)
    if network is not None:
        hits = list(islice(_of_network(desk, network, now, authority), MOST_FOUND))
    folded = text.casefold()
    ids = site.watcher.matching(folded, MOST_FOUND, authority.reaches)
    by_id = {id_of(one): one for one in ids}
    return Found(now, as_id, False, hits, "network", list(by_id.values()), reason)


def _is_on_record(desk: Desk, site: Site, keys: tuple[str, ...]) -> bool:
    """Whether anything is known of ``keys``; where nothing is in memory yet, it is believed."""
    overrides = desk.overrides()
    for key in keys:
        seen = site.watcher.seen(key, ())
        if key in overrides or seen is None or seen.charges:
            return True
        if desk.in_force(key, None, None).source == "limits_by_id":
            return True
    return next(iter(desk.store.hit_history(0, keys=keys)), None) is not None


def _of_network(desk: Desk, network: Network, now: int, authority: Authority) -> Iterator[HourOfHits]:
    """What clients in ``network`` had refused in the last day."""
    for one in desk.store.hit_history(now - DAY):
        address = parse_address(one.details.client_address)
        if (
            address is not None
            and address.version == network.version
            and address.length >= network.length
            and address.within(network.length) == network
            and authority.reaches(one.key)
        ):
            yield one


def _network(text: str) -> Network | None:
    try:
        return parse_network(text)
    except ValueError:
        return None
