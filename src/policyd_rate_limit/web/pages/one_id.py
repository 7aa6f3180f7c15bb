"""The page of one id: how it stands, what it sent, what ran into limits, and who changed what."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from policyd_rate_limit.admin.standing import share
from policyd_rate_limit.domain.charge import free_in
from policyd_rate_limit.domain.counter import unit_of
from policyd_rate_limit.domain.ids import id_of_key
from policyd_rate_limit.plots.over_time import Look
from policyd_rate_limit.storage.administration import HISTORY_DAYS
from policyd_rate_limit.web.pages.plotted import Column, plotted
from policyd_rate_limit.web.pages.shown import change_row, free_again, hit_row, id_of, is_block
from policyd_rate_limit.web.rendering import render, wording_of
from policyd_rate_limit.web.sights import close_up_of
from policyd_rate_limit.web.site import site_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup
    from starlette.requests import Request

    from policyd_rate_limit.admin.changes import What
    from policyd_rate_limit.admin.close_up import CloseUp, Counted
    from policyd_rate_limit.domain.limits import Limit
    from policyd_rate_limit.storage.administration import AuditEntry
    from policyd_rate_limit.web.authority import Authority
    from policyd_rate_limit.web.pages.plotted import Plotted
    from policyd_rate_limit.web.visitors import Visitor
    from policyd_rate_limit.web.wording import Wording

LONGEST_NAME = 1_000
"""Characters of an id that is asked about; a longer one is cut off, and nobody's."""

MOST_LAST = 16
MOST_HITS = 50
MOST_ALIKE = 5
HOUR, DAY = 3_600, 86_400
HOURS, DAYS = 48, 31
"""So far back the plot goes, by hours and by days."""


class Window(NamedTuple):
    """How one limit stands."""

    share: float
    used: str
    limit: Limit
    free: Markup


class CounterCard(NamedTuple):
    """How one counter stands; ``look`` and ``state`` say it in a word."""

    key: str
    name: str
    look: str
    state: Markup
    is_shared: bool
    source: Markup
    shadow: bool
    note: str
    set_by: AuditEntry | None
    windows: Sequence[Window]


class LastMail(NamedTuple):
    """What was counted in one second."""

    date: int
    amount: str


async def one_id(request: Request, visitor: Visitor) -> Response:
    """Show the id that ``of`` names."""
    name = request.query_params.get("of", "").strip()[:LONGEST_NAME]
    if not name:
        return RedirectResponse("/search", 303)
    site, t = site_of(request), wording_of(request)
    authority = visitor.authority
    about = await site.desks.ask(close_up_of, authority, site.watcher, name)
    alike: list[str] = []
    if not about.is_known:
        alike = [
            id_of(one)
            for one in await run_in_threadpool(
                site.watcher.matching, id_of_key(name) or name, MOST_ALIKE, authority.reaches
            )
        ]
    by = "day" if request.query_params.get("by") == "day" else "hour"
    notice = site.notices.take(visitor.form_token, request.query_params.get("done", ""))
    hits = about.hits[::-1]
    return render(
        request,
        "id.html",
        {
            "about": about._replace(changes=tuple(map(change_row, about.changes))),  # type: ignore[arg-type]
            "taken": dict.fromkeys(t.kind(one.key) for one in about.own),
            "alike": dict.fromkeys(alike),
            "counters": [_card(one, t, about.now) for one in about.counted],
            "actions": _actions(about, authority),
            "by": by,
            "plot": _plot(about, by, t),
            "last": _last(about, t),
            "hits": list(map(hit_row, hits[:MOST_HITS])),
            "more_hits": max(0, len(hits) - MOST_HITS),
            "history_days": HISTORY_DAYS,
            "notice": notice,
            "mark": t("site.done") if notice else "",
        },
        visitor,
    )


def _actions(about: CloseUp, authority: Authority) -> list[What]:
    """What may be done about it: nothing is offered that is refused then."""
    found: list[What] = ["raise", "block"]
    if any(one.in_force.override for one in about.own):
        found.append("free")
    if authority.is_for_all:
        found.append("reset")
    return found


def _card(one: Counted, t: Wording, now: int) -> CounterCard:
    in_force = one.in_force
    override = in_force.override
    look, state = _state(one)
    if override is not None:
        source = t("source.override", until=t.moment(override.until, now))
    elif in_force.source == "sql_limits_by_id":
        source = t("source.table")
    else:
        source = t("source.setting", setting=in_force.source)
    blocked = override is not None and is_block(override)
    windows = [
        Window(
            share(usage.used, usage.limit),
            t.counted(usage.used, unit_of(one.key)),
            usage.limit,
            free_again((usage,), in_force, t, now),
        )
        for usage in one.usages
        if not blocked
    ]
    return CounterCard(
        one.key,
        id_of_key(id_of(one.key)),
        look,
        t(f"state.{state}"),
        one.is_shared,
        source,
        in_force.shadow,
        override.note if override is not None else "",
        one.set_by,
        windows,
    )


def _state(one: Counted) -> tuple[str, str]:
    override = one.in_force.override
    if override is not None and is_block(override):
        return "bad", "blocked"
    if free_in(one.usages) != 0:
        return ("wait" if one.in_force.shadow else "bad"), "limited"
    if any(share(usage.used, usage.limit) >= 0.8 for usage in one.usages):
        return "wait", "close"
    return "good", "free"


def _telling(about: CloseUp) -> Counted | None:
    """The counter whose charges are plotted: each mail is on several, and would be there as often."""
    of_mails = [one for one in about.own if unit_of(one.key) in ("recipients", "messages")]
    return max(of_mails or about.own, key=lambda one: sum(amount for _, amount in one.charges), default=None)


def _plot(about: CloseUp, by: str, t: Wording) -> Plotted | None:
    counted = _telling(about)
    if counted is None:
        return None
    step, steps = (DAY, DAYS) if by == "day" else (HOUR, HOURS)
    end = about.now - about.now % HOUR + HOUR
    begin = end - step * steps
    sent: dict[int, int] = {}
    for date, amount in counted.charges:
        sent[date] = sent.get(date, 0) + amount
    refused: dict[int, int] = {}
    for one in about.hits:
        refused[one.hour] = refused.get(one.hour, 0) + one.hits
    if not sent and not refused:
        return None
    heading = t("id.plot", **{"from": t.hour(begin), "until": t.hour(end)})
    columns = [
        Column(str(t("id.plot_sent")), sent, Look.PLAIN),
        Column(str(t("id.plot_refused")), refused, Look.HATCHED),
    ]
    return plotted("sent", heading, columns, begin, end, step, t)


def _last(about: CloseUp, t: Wording) -> list[LastMail]:
    counted = _telling(about)
    if counted is None:
        return []
    return [
        LastMail(date, t.amount(amount, unit_of(counted.key)))
        for date, amount in counted.charges[: -MOST_LAST - 1 : -1]
    ]
