"""Refusals and would-be refusals over time, and who ran into limits most."""

from __future__ import annotations

import heapq
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from policyd_rate_limit.admin.refusals import Sum, is_would_be
from policyd_rate_limit.domain.counter import rule_and_key
from policyd_rate_limit.plots.over_time import Look
from policyd_rate_limit.storage.administration import OTHERS
from policyd_rate_limit.web.pages.one_id import DAY, HOUR
from policyd_rate_limit.web.pages.plotted import Column, plotted
from policyd_rate_limit.web.pages.shown import id_of
from policyd_rate_limit.web.rendering import render, wording_of
from policyd_rate_limit.web.site import site_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.web.visitors import Visitor

PERIODS: Final = {"day": DAY, "week": 7 * DAY, "month": 31 * DAY}
MOST_WHO = 20


class Who(NamedTuple):
    """Somebody who ran into limits."""

    key: str
    counter: str
    hits: int
    last: int


async def refusals(request: Request, visitor: Visitor) -> Response:
    """Of all rules, or of the one that ``rule`` names; ``for``: how far back."""
    visitor.authority.check_whole("the list of refusals")
    site, t = site_of(request), wording_of(request)
    asked = request.query_params.get("for", "week")
    period = asked if asked in PERIODS else "week"
    rule = request.query_params.get("rule", "")[:200]
    now, who = await site.desks.ask(_who, rule)
    end = now - now % HOUR + HOUR
    begin = end - PERIODS[period]
    refused: Counter[int] = Counter()
    would: Counter[int] = Counter()
    by_rule: Counter[tuple[str, str]] = Counter()
    for one in site.watcher.refusals.since(begin):
        if not rule or one.rule == rule:
            (would if is_would_be(one) else refused)[one.hour] += one.hits
            by_rule[one.rule, one.kind] += one.hits
    heading = t("refusals.plot", **{"from": t.hour(begin), "until": t.hour(end)})
    columns = [
        Column(str(t("refusals.refused")), refused, Look.HATCHED),
        Column(str(t("refusals.would")), would, Look.PLAIN),
    ]
    return render(
        request,
        "refusals.html",
        {
            "period": period,
            "rule": rule,
            "now": now,
            "plot": plotted("refusals", heading, columns, begin, end, HOUR, t),
            "by_rule": [Sum(0, name, kind, hits) for (name, kind), hits in by_rule.most_common()],
            "who": who,
            "is_read": site.watcher.refusals.is_read,
        },
        visitor,
    )


def _who(desk: Desk, rule: str) -> tuple[int, list[Who]]:
    """Who ran into limits most in the last day."""
    now = desk.store.now()
    hits: Counter[str] = Counter()
    last: dict[str, int] = {}
    for one in desk.store.hit_history(now - DAY):
        of_rule, key = rule_and_key(one.key)
        if (not rule or of_rule == rule) and not key.startswith(f"{OTHERS}:"):
            hits[one.key] += one.hits
            last[one.key] = max(one.last, last.get(one.key, 0))
    most = heapq.nlargest(MOST_WHO, hits.items(), key=lambda item: (item[1], item[0]))
    return now, [Who(id_of(key), key, number, last[key]) for key, number in most]
