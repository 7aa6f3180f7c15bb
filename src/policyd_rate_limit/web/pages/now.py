"""The first page: who is limited and who is close, what is set, and whether all is well."""

from __future__ import annotations

import contextlib
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from starlette.concurrency import run_in_threadpool

from policyd_rate_limit.admin.close_up import latest_setters
from policyd_rate_limit.admin.daemons import judged
from policyd_rate_limit.errors import PolicydError
from policyd_rate_limit.web.pages.shown import override_row, sender_row
from policyd_rate_limit.web.rendering import render, wording_of
from policyd_rate_limit.web.site import site_of

if TYPE_CHECKING:
    from markupsafe import Markup
    from starlette.requests import Request
    from starlette.responses import Response

    from policyd_rate_limit.admin.daemons import Daemon
    from policyd_rate_limit.admin.overview import Health
    from policyd_rate_limit.admin.picture import Picture
    from policyd_rate_limit.storage.administration import AuditEntry
    from policyd_rate_limit.web.visitors import Visitor
    from policyd_rate_limit.web.wording import Wording

MOST_ROWS = 100
"""Of each list; of more it is said how many there are."""

STALE_SECONDS = 15.0
"""From this age on what is known may be out of date."""


class Tile(NamedTuple):
    """Whether a part is well; ``look``: good, bad or wait."""

    look: str
    name: Markup
    state: Markup
    words: Markup


async def now(request: Request, visitor: Visitor) -> Response:
    """The whole page."""
    return render(request, "now.html", await _known(request, visitor), visitor)


async def parts(request: Request, visitor: Visitor) -> Response:
    """What of it changes by itself, for the script that keeps it up to date."""
    return render(request, "now_parts.html", await _known(request, visitor), visitor)


async def _known(request: Request, visitor: Visitor) -> dict[str, object]:
    site, t = site_of(request), wording_of(request)
    picture = site.watcher.picture()
    age = site.watcher.age(picture)
    time = picture.now + int(age)
    sees = visitor.authority.reaches
    overrides = [one for one in picture.overrides if sees(one.key)]
    setters = await _setters(request, [one.key for one in overrides[:MOST_ROWS]])
    health = await run_in_threadpool(site.health) if visitor.authority.is_for_all else None
    daemons = None
    if health is not None and picture.heartbeats is not None:
        daemons = judged(picture.heartbeats, picture.now, health.process)
    known: dict[str, object] = {
        "picture": picture,
        "age": int(age),
        "stale": age > STALE_SECONDS,
        "now": time,
        "tiles": _tiles(health, daemons, picture, t) if health is not None else (),
        "daemons": None if daemons is None else daemons[:MOST_ROWS],
        "more_daemons": max(0, len(daemons or ()) - MOST_ROWS),
        "misses": any(one.is_missed for one in daemons or ()),
        "overrides": [override_row(one, setters.get(one.key), t) for one in overrides[:MOST_ROWS]],
        "more_overrides": max(0, len(overrides) - MOST_ROWS),
    }
    for name, all_of_them in (("limited", picture.limited), ("close", picture.close)):
        seen = [one for one in all_of_them if sees(one.key)]
        known[name] = [sender_row(one, t, picture.now) for one in islice(seen, MOST_ROWS)]
        # Those that were not kept may be either; they are told once.
        beyond = picture.more if name == "limited" and visitor.authority.is_for_all else 0
        known[f"more_{name}"] = max(0, len(seen) - MOST_ROWS) + beyond
    return known


async def _setters(request: Request, keys: list[str]) -> dict[str, AuditEntry]:
    """Who has set the overrides of ``keys``; nobody is known while the database is away."""
    if keys:
        with contextlib.suppress(PolicydError):
            return await site_of(request).desks.ask(latest_setters, keys)
    return {}


def _tiles(health: Health, daemons: list[Daemon] | None, picture: Picture, t: Wording) -> list[Tile]:
    return [_daemons(health, daemons, t), _store(health, picture, t), _waiting(health, t)]


def _tile(look: str, name: str, words: Markup, t: Wording) -> Tile:
    state = {"good": "well", "bad": "trouble", "wait": "wait"}[look]
    return Tile(look, t(f"health.{name}"), t(f"health.{state}"), words)


def _daemons(health: Health, daemons: list[Daemon] | None, t: Wording) -> Tile:
    """All of them; where it is not known which there are, that of this host."""
    missed = sum(one.is_missed for one in daemons or ())
    working = len(daemons or ()) - missed
    words = []
    if missed:
        words.append(t("health.daemons_silent", count=missed))
    if working:
        words.append(t("health.daemons_work", count=working))
    if health.process is not None:
        words.append(t("health.daemon_runs", process=str(health.process)))
    else:
        words.append(t("health.daemons_not_here") if working else t("health.daemon_off"))
    look = "good" if health.process is not None else "wait" if working else "bad"
    return _tile("bad" if missed else look, "daemon", t("list.comma").join(words), t)


def _store(health: Health, picture: Picture, t: Wording) -> Tile:
    place = t.place(health.place)
    if picture.failure is not None:
        return _tile("bad", "store", place + t("health.store_away", reason=t.told(picture.failure)), t)
    if picture.hidden is not None:
        return _tile("wait", "store", place + t("health.store_hidden", reason=t.told(picture.hidden)), t)
    if picture.read is not None:
        return _tile("wait", "store", place + t("health.store_reading", count=picture.read), t)
    return _tile("good", "store", place + t("health.store_well"), t)


def _waiting(health: Health, t: Wording) -> Tile:
    wrong = next((file.error for file in health.spool_files if file.error), None)
    if wrong is not None:
        return _tile("bad", "waiting", t("health.waiting_error", reason=wrong), t)
    batches = sum(file.batches for file in health.spool_files)
    if batches:
        return _tile("wait", "waiting", t("health.waiting_some", count=batches), t)
    return _tile("good", "waiting", t("health.waiting_none"), t)
