"""The rules in words, and how much each has refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.admin.refusals import is_would_be
from policyd_rate_limit.admin.rule_words import paragraph
from policyd_rate_limit.storage.administration import HISTORY_DAYS
from policyd_rate_limit.web.pages.one_id import DAY
from policyd_rate_limit.web.rendering import render, wording_of
from policyd_rate_limit.web.site import site_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.web.visitors import Visitor


class RuleCard(NamedTuple):
    """A rule, and how many requests ran into its limits in the last day and week; without words: it is no more."""

    name: str
    words: str
    shadow: bool
    day: int
    day_would: int
    week: int
    week_would: int


async def rules(request: Request, visitor: Visitor) -> Response:
    """All rules, in the order in which they are asked."""
    visitor.authority.check_whole("the list of rules")
    site, t = site_of(request), wording_of(request)
    settings = site.settings()

    def look(desk: Desk) -> tuple[int, list[tuple[str, str, bool]]]:
        words = [(one.name, _sentence(paragraph(one, settings, t)), one.shadow) for one in desk.rules.values()]
        return desk.store.now(), words

    now, words = await site.desks.ask(look)
    counted: dict[tuple[str, bool, bool], int] = {}
    names = {name for name, *_ in words}
    gone: dict[str, None] = {}
    for one in site.watcher.refusals.since(now - HISTORY_DAYS * DAY):
        if one.rule not in names:
            gone[one.rule] = None
        for days in (1, 7):
            if one.hour >= now - days * DAY:
                key = (one.rule, days == 1, is_would_be(one))
                counted[key] = counted.get(key, 0) + one.hits
    cards = [
        RuleCard(
            name,
            said,
            shadow,
            *(counted.get((name, is_day, would), 0) for is_day in (True, False) for would in (False, True)),
        )
        for name, said, shadow in [*words, *((name, "", False) for name in gone)]
    ]
    return render(request, "rules.html", {"rules": cards, "history_days": HISTORY_DAYS}, visitor)


def _sentence(words: str) -> str:
    """``words`` where no name stands before them."""
    return words[:1].upper() + words[1:]
