"""Changes to what an id may send: a form, what will happen, and only then the change itself."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, get_args
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from policyd_rate_limit.admin.changes import WHAT, Change, Shown, What, foreseen
from policyd_rate_limit.domain.counter import DEFAULT, rule_and_key, unit_of
from policyd_rate_limit.domain.counting import BYTES
from policyd_rate_limit.domain.ids import id_of_key
from policyd_rate_limit.domain.limits import (
    LONGEST_OVERRIDE,
    MOST_LIMITS,
    Limit,
    Limits,
    LimitsError,
    parse_limits_text,
    parse_period,
    spell_limit,
)
from policyd_rate_limit.storage.administration import LONGEST_NOTE
from policyd_rate_limit.web import changes
from policyd_rate_limit.web.authority import Forbidden
from policyd_rate_limit.web.forms import text_of
from policyd_rate_limit.web.pages.one_id import LONGEST_NAME
from policyd_rate_limit.web.pages.shown import id_of, is_block
from policyd_rate_limit.web.rendering import render, wording_of
from policyd_rate_limit.web.site import site_of

if TYPE_CHECKING:
    from markupsafe import Markup
    from starlette.requests import Request

    from policyd_rate_limit.admin.changes import Effect
    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.admin.watching import Watcher
    from policyd_rate_limit.storage.administration import Override
    from policyd_rate_limit.web.authority import Authority
    from policyd_rate_limit.web.visitors import Visitor
    from policyd_rate_limit.web.wording import Wording

UNLIMITED = "unlimited"
USUAL_PERIOD = "8h"
SEEN_SECONDS = 3.0
"""So long the page of the id waits for the change to be seen there."""


class Given(NamedTuple):
    """What a form was filled with."""

    rule: str
    limits: str
    seconds: str
    note: str


class Done(NamedTuple):
    """What a change has done: ``until`` when its limits hold; how many overrides were ``ended``.

    ``taken``: how much was taken back, by counter.
    """

    until: int = 0
    ended: int = 0
    taken: Mapping[str, int] = MappingProxyType({})


class _Known(NamedTuple):
    """What a form needs to know: the rules that count the id, and in what; the limits now, of the first of them."""

    rules: dict[str, str]
    limits: Limits

    @property
    def are_alike(self) -> bool:
        """Whether all count in the same: recipients in one and bytes in another have no limits in common."""
        return len(set(self.rules.values())) == 1


async def form(request: Request, visitor: Visitor) -> Response:
    """The form of one kind of change."""
    what, name = _what(request), request.query_params.get("of", "").strip()[:LONGEST_NAME]
    if not visitor.authority.may_change:
        raise Forbidden("this account may look, and change nothing")
    known = await site_of(request).desks.ask(_look, name, visitor.authority)
    limits = " ".join(map(spell_limit, known.limits)) if known.limits else ""
    return _form(request, visitor, what, name, known, Given("", limits, USUAL_PERIOD, ""), {})


async def asked(request: Request, visitor: Visitor, fields: Mapping[str, object]) -> Response:
    """Say what the change will do, or what is wrong with the form."""
    site, t = site_of(request), wording_of(request)
    what, name = _what(request), text_of(fields, "of").strip()[:LONGEST_NAME]
    given = Given(text_of(fields, "rule"), text_of(fields, "limits"), text_of(fields, "for"), text_of(fields, "note"))
    known = await site.desks.ask(_look, name, visitor.authority)
    errors: dict[str, Markup] = {}
    rule = given.rule if given.rule in known.rules else None
    if rule is None and what == "raise" and not known.are_alike:
        rule = next(iter(known.rules))
    unit = known.rules[rule] if rule is not None else next(iter(known.rules.values()))
    limits = _limits(given.limits, unit, errors, t) if what == "raise" else ()
    seconds = _seconds(given.seconds, errors, t) if what in ("raise", "block") else 0
    note = " ".join(given.note.split()) if "\n" not in given.note.strip() else given.note.strip().replace("\r\n", "\n")
    if not note or len(note) > LONGEST_NOTE:
        errors["note"] = t("change.wrong_note", most=LONGEST_NOTE)
    if errors:
        return _form(request, visitor, what, name, known, given, errors)
    change = Change(what, name, rule, limits, seconds, note)
    effects = await site.desks.ask(_foresee, site.watcher, change, visitor.authority)
    now = site.watcher.picture().now
    return render(
        request,
        "confirm.html",
        {
            "what": what,
            "name": name,
            "note": note,
            "effects": [_said(change, effect, t, now) for effect in effects],
            "confirmation": site.changes.keep(visitor.form_token, Shown(change, tuple(effects))),
        },
        visitor,
    )


async def confirmed(request: Request, visitor: Visitor, fields: Mapping[str, object]) -> Response:
    """Make the change that was shown, once."""
    site, t = site_of(request), wording_of(request)
    shown = site.changes.take(visitor.form_token, text_of(fields, "confirmation"))
    if shown is None:
        name = text_of(fields, "of").strip()[:LONGEST_NAME]
        return _to_id(request, visitor, name, t("confirm.old"))
    change = shown.change
    done = await site.desks.ask(_make, site.watcher, shown, visitor)
    if done is None:
        return _to_id(request, visitor, change.name, t("confirm.outdated", name=change.name))
    await run_in_threadpool(site.watcher.refresh, SEEN_SECONDS)
    return _to_id(request, visitor, change.name, _told(change, done, t))


def _to_id(request: Request, visitor: Visitor, name: str, notice: Markup) -> Response:
    done = site_of(request).notices.keep(visitor.form_token, notice)
    return RedirectResponse(f"/id?of={quote(name, safe='')}&done={done}", 303)


def _what(request: Request) -> What:
    what = request.path_params["what"]
    if what not in WHAT:
        raise HTTPException(404)
    return next(one for one in get_args(What) if one == what)


def _look(desk: Desk, name: str, authority: Authority) -> _Known:
    desk = authority.at(desk)
    keys = desk.keys(name)
    authority.check_change(keys)
    desk.store.audit(most=1)  # where nothing is changed since no trail can be kept, that is better said before
    overrides = desk.overrides()
    rules = {rule_and_key(key)[0]: unit_of(key) for key in reversed(keys)}
    first = desk.in_force(keys[0], overrides.get(keys[0]), desk.from_table(keys[0], name)).limits
    usual = first if all(limit.maximum for limit in first) else desk.in_force(keys[0], None, None).limits
    return _Known(dict(reversed(rules.items())), usual)


def _check(desk: Desk, change: Change, authority: Authority) -> None:
    """Raise Forbidden unless they may."""
    if change.what == "free":
        authority.check_revoke(desk, change.name, change.rule)
    elif change.what == "reset":
        authority.check_reset(desk, change.name, change.rule)
    else:
        authority.check_override(desk, change.name, change.new_limits, change.seconds, change.rule)


def _foresee(desk: Desk, watcher: Watcher, change: Change, authority: Authority) -> list[Effect]:
    desk = authority.at(desk)
    _check(desk, change, authority)
    return foreseen(desk, watcher, change)


def _make(desk: Desk, watcher: Watcher, shown: Shown, visitor: Visitor) -> Done | None:
    """Make the change; None: it would do something else by now than was shown. Raises ChangedMeanwhile."""
    if not shown.still_holds(_foresee(desk, watcher, shown.change, visitor.authority)):
        return None
    what, name, rule, limits, seconds, note = shown.change
    before = {one.key: one.override for one in shown.effects if one.override is not None}
    if what == "raise":
        done = changes.allow(desk, visitor, name, limits, seconds, note, rule, shown=before)
        return Done(until=max(one.until for one in done.overrides))
    if what == "block":
        done = changes.block(desk, visitor, name, seconds, note, rule, shown=before)
        return Done(until=max(one.until for one in done.overrides))
    if what == "free":
        return Done(ended=sum(changes.revoke(desk, visitor, name, rule, note, shown=before).values()))
    return Done(taken=changes.reset(desk, visitor, name, rule, note))


def _form(
    request: Request,
    visitor: Visitor,
    what: What,
    name: str,
    known: _Known,
    given: Given,
    errors: Mapping[str, Markup],
) -> Response:
    t = wording_of(request)
    return render(
        request,
        "change.html",
        {
            "what": what,
            "name": name,
            "rules": known.rules,
            "offers_all": what != "raise" or known.are_alike,
            "given": {"rule": given.rule, "limits": given.limits, "for": given.seconds, "note": given.note},
            "errors": errors,
            "longest_note": LONGEST_NOTE,
            "mark": t("site.error") if errors else "",
        },
        visitor,
        422 if errors else 200,
    )


def _limits(text: str, unit: str, errors: dict[str, Markup], t: Wording) -> Limits:
    words = text.replace(",", " ").split()
    if words == [UNLIMITED]:
        return ()
    found: dict[int, Limit] = {}
    for word in words:
        try:
            (limit,) = parse_limits_text(word, unit_suffixes=unit == BYTES)
        except ValueError:  # a LimitsError, or several limits in one word
            errors["limits"] = t("change.wrong_limits", found=word)
            return ()
        if limit.seconds in found:
            errors["limits"] = t("change.twice", found=word)
            return ()
        found[limit.seconds] = limit
    if not found:
        errors["limits"] = t("change.no_limits")
    elif len(found) > MOST_LIMITS:
        errors["limits"] = t("change.too_many", most=MOST_LIMITS)
    elif any(word.rpartition("/")[2].isdecimal() for word in words):
        errors["limits"] = t("change.wrong_unit")
    return tuple(found.values())


def _seconds(text: str, errors: dict[str, Markup], t: Wording) -> int:
    try:
        seconds = parse_period(text.strip())
    except LimitsError:
        seconds = 0
    if not seconds or text.strip().isdecimal():
        errors["for"] = t("change.wrong_for")
    elif seconds > LONGEST_OVERRIDE:
        errors["for"] = t("change.too_long_for", most=t.duration(LONGEST_OVERRIDE))
    return seconds


def _said(change: Change, effect: Effect, t: Wording, now: int) -> Markup:
    """What the change does to one counter, in words."""
    key, override = effect.key, effect.override
    values = {
        "counter": _counter(key, t),
        "before": t.limits(effect.before, key),
        "after": t.limits(effect.after, key),
        "limits": t.limits(effect.after, key),
        "duration": t.duration(change.seconds),
    }
    used = t.amount(effect.used, unit_of(key))
    if change.what in ("raise", "block"):
        words = t(f"confirm.{change.what}", **values, until=t.moment(effect.until, now))
        if change.what == "raise" and effect.used:
            words += " " + t("confirm.raise_stands", used=used)
        if override is not None:
            words += " " + t("confirm.replaces", set=_set(override, t), until=t.moment(override.until, now))
    elif change.what == "free":
        if override is None:
            return t("confirm.free_nothing", **values)
        words = t("confirm.free", **values, set=_set(override, t), until=t.moment(override.until, now))
    else:
        if not effect.used:
            return t("confirm.reset_nothing", **values)
        words = t("confirm.reset", **values, used=used)
    if effect.shadow:
        words += " " + t("confirm.shadow")
    return words


def _counter(key: str, t: Wording) -> Markup:
    rule = rule_and_key(key)[0]
    of_rule = t("confirm.usual_limits") if rule == DEFAULT else t("confirm.of_rule", rule=rule)
    return t("confirm.counter", kind=t.kind(key), id=id_of_key(id_of(key)), rule=of_rule)


def _set(override: Override, t: Wording) -> str:
    return t("state.blocked") if is_block(override) else t.limits(override.limits, override.key)


def _told(change: Change, done: Done, t: Wording) -> Markup:
    """What was done."""
    if change.what in ("raise", "block"):
        now = done.until - change.seconds
        return t(f"done.{change.what}", name=change.name, until=t.moment(done.until, now))
    if change.what == "free":
        return t("done.free" if done.ended else "done.free_nothing", name=change.name)
    taken = [t.amount(amount, unit_of(key)) for key, amount in done.taken.items() if amount]
    if not taken:
        return t("done.reset_nothing", name=change.name)
    return t("done.reset", name=change.name, used=t("list.comma").join(taken))
