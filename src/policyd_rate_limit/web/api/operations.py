"""The operations of the API, in one table: what each is called, takes, does and answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.concurrency import run_in_threadpool

from policyd_rate_limit.admin import facts
from policyd_rate_limit.admin.buckets import STEPS
from policyd_rate_limit.domain.limits import LARGEST, LONGEST_OVERRIDE
from policyd_rate_limit.storage.administration import LONGEST_NOTE
from policyd_rate_limit.web import changes, sights
from policyd_rate_limit.web.api.fields import Field, choice, limits, text, whole
from policyd_rate_limit.web.desks import WHOLE_SECONDS, Busy

if TYPE_CHECKING:
    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.admin.facts import Facts
    from policyd_rate_limit.admin.remembering import Memory
    from policyd_rate_limit.web.site import Site
    from policyd_rate_limit.web.visitors import Visitor

LONGEST_ID = 2_000
"""Characters of an id, as it is given."""

WAKE_SECONDS = 3.0
"""So long an answer waits for the store to be looked at, where nobody has asked for some minutes."""

MOST_LISTED = 10_000
MOST_AUDITED = 1_000


class Call(NamedTuple):
    """An operation is asked for: by ``visitor``, with ``given`` for its parameters."""

    site: Site
    visitor: Visitor
    given: dict[str, Any]


class Operation(NamedTuple):
    """One of the table. ``answer``: the name of its schema; ``changes``: it is for those who may change anything.

    The parameters are in the path, in the query and in the body, a JSON object.
    """

    method: str
    path: str
    name: str
    summary: str
    answer: str
    run: Callable[[Call], Awaitable[Facts]]
    changes: bool = False
    in_path: tuple[Field, ...] = ()
    in_query: tuple[Field, ...] = ()
    in_body: tuple[Field, ...] = ()


async def _status(call: Call) -> Facts:
    settings = call.site.settings()
    authority = call.visitor.authority

    memory = await _memory(call)

    def look(desk: Desk) -> Facts:
        return facts.of_overview(sights.overview_of(settings, desk, authority, memory))

    return await (_alone(call, look) if authority.is_for_all and memory is None else call.site.desks.ask(look))


async def _status_of(call: Call) -> Facts:
    name, rule = call.given["id"], call.given["rule"]
    authority = call.visitor.authority

    def look(desk: Desk) -> Facts:
        found = sights.standings_of(desk, authority, name, rule)
        return facts.of_standings(name, found, sights.stranger_of(desk, authority, name), desk.store.now())

    return await call.site.desks.ask(look)


async def _top(call: Call) -> Facts:
    window, most, by_share = call.given["window"], call.given["number"], call.given["by"] == "share"
    authority, memory = call.visitor.authority, await _memory(call)
    if memory is not None and memory.knows(window):

        def look_up(desk: Desk) -> Facts:
            now, heaviest = sights.heaviest_known(desk, authority, memory, window, most, by_share=by_share)
            return facts.of_senders(heaviest, window, now)

        return await call.site.desks.ask(look_up)

    def look(desk: Desk) -> Facts:
        now, heaviest = sights.heaviest_of(desk, authority, window, most, by_share=by_share)
        return facts.of_senders(heaviest, window, now)

    return await _alone(call, look)


async def _memory(call: Call) -> Memory | None:
    """What the watcher knows of all that was counted, as of now; None: it has not read all, and the store has to be."""
    watcher = call.site.watcher
    if watcher.is_unwatched:
        await run_in_threadpool(watcher.wake, WAKE_SECONDS)
    else:
        watcher.wake(0)
    return watcher.memory()


async def _history(call: Call) -> Facts:
    given = call.given

    def look(desk: Desk) -> Facts:
        found = sights.history_of(
            desk,
            call.visitor.authority,
            given["id"],
            given["by"],
            last=given["last"],
            most=given["number"],
            rule=given["rule"],
        )
        return facts.of_history(given["id"], given["by"], found)

    return await call.site.desks.ask(look)


async def _allow(call: Call) -> Facts:
    return await _override(call, call.given["limits"])


async def _block(call: Call) -> Facts:
    return await _override(call, changes.BLOCK)


async def _override(call: Call, its_limits: Any) -> Facts:
    given = call.given
    put = await call.site.desks.ask(
        changes.allow, call.visitor, given["id"], its_limits, given["seconds"], given["note"], given["rule"]
    )
    return facts.of_overridden(given["id"], put)


async def _revoke(call: Call) -> Facts:
    name, rule, note = call.given["id"], call.given["rule"], call.given["note"]
    return facts.of_revoked(name, await call.site.desks.ask(changes.revoke, call.visitor, name, rule, note))


async def _reset(call: Call) -> Facts:
    name, rule, note = call.given["id"], call.given["rule"], call.given["note"]
    return facts.of_reset(name, await call.site.desks.ask(changes.reset, call.visitor, name, rule, note))


async def _audit(call: Call) -> Facts:
    given = call.given

    def look(desk: Desk) -> Facts:
        found = sights.audit_of(
            desk,
            call.visitor.authority,
            given["id"],
            since=given["since"],
            most=given["number"],
            before=given["before"],
        )
        return {"entries": [entry._asdict() for entry in found]}

    return await call.site.desks.ask(look)


async def _alone(call: Call, look: Callable[[Desk], Facts]) -> Facts:
    """What ``look`` finds in all that was counted, which is read by one at a time."""
    if call.site.whole_store.locked():
        raise Busy("somebody else looks at all that was counted")
    async with call.site.whole_store:
        return await call.site.desks.ask_for(WHOLE_SECONDS, look)


_PATH_ID = text(
    "id", "A user, a sender, an address, or another key of a rule; user:ID names just that.",
    longest=LONGEST_ID, least=1, required=True,
)  # fmt: skip
_BODY_ID = _PATH_ID
_RULE = text("rule", "Only in the rule of this name; else in all that are keyed by the id.", longest=200, least=1)
_SECONDS = whole("seconds", "For how long.", 1, LONGEST_OVERRIDE, required=True)
_NOTE = text("note", "Why; status and audit show it.", longest=LONGEST_NOTE)
_NOTE_OF_AUDIT = text("note", "Why; audit shows it.", longest=LONGEST_NOTE)
_WINDOW = whole("window", "The seconds in which mails are counted.", 1, LARGEST, default=3600)
_BY_SHARE = choice("by", "Rank by how much of a limit is used up, or by mails.", ("share", "mails"), "share")
_STEP = choice("by", "Add mails up by this.", STEPS, "hour")

OPERATIONS = (
    Operation(
        "GET",
        "/status",
        "status",
        "How the whole stands: daemon, database, overrides, who sends most.",
        "Overview",
        _status,
    ),
    Operation(
        "GET",
        "/status/{id}",
        "statusOf",
        "How an id stands: its limits, what is used up of them, when it is free again.",
        "Standings",
        _status_of,
        in_path=(_PATH_ID,),
        in_query=(_RULE,),
    ),
    Operation(
        "GET",
        "/top",
        "top",
        "The ids that send most.",
        "Top",
        _top,
        in_query=(_WINDOW, whole("number", "How many.", 1, MOST_LISTED, default=20), _BY_SHARE),
    ),
    Operation(
        "GET",
        "/history/{id}",
        "history",
        "How much an id has sent in each minute, hour or day, and when it did so last.",
        "History",
        _history,
        in_path=(_PATH_ID,),
        in_query=(
            _STEP,
            whole("number", "How many minutes, hours or days.", 1, MOST_LISTED, default=48),
            whole("last", "How many of the last mails.", 0, MOST_LISTED, default=10),
            _RULE,
        ),
    ),
    Operation(
        "POST",
        "/allow",
        "allow",
        "Give an id other limits for a while, in place of all that it has.",
        "Overridden",
        _allow,
        changes=True,
        in_body=(_BODY_ID, limits("limits", "[maximum, seconds] each; [] is no limit."), _SECONDS, _NOTE, _RULE),
    ),
    Operation(
        "POST",
        "/block",
        "block",
        "Let nothing of an id pass for a while.",
        "Overridden",
        _block,
        changes=True,
        in_body=(_BODY_ID, _SECONDS, _NOTE, _RULE),
    ),
    Operation(
        "POST",
        "/revoke",
        "revoke",
        "End what allow or block has begun: the usual limits of an id are in force again.",
        "Revoked",
        _revoke,
        changes=True,
        in_body=(_BODY_ID, _NOTE_OF_AUDIT, _RULE),
    ),
    Operation(
        "POST",
        "/reset",
        "reset",
        "Take back all that was counted for an id, at once and in all daemons.",
        "Reset",
        _reset,
        changes=True,
        in_body=(_BODY_ID, _NOTE_OF_AUDIT, _RULE),
    ),
    Operation(
        "GET",
        "/audit",
        "audit",
        "What was changed, by whom, from where and why; the latest first. Of an id, or of all.",
        "Audit",
        _audit,
        in_query=(
            text("id", "Only what was done to this id.", longest=LONGEST_ID, least=1),
            whole("since", "Only since this Unix second.", 0, LARGEST, default=0),
            whole("number", "How many.", 1, MOST_AUDITED, default=100),
            whole("before", "Only entries with lower numbers: the next page.", 1, LARGEST),
        ),
    ),
)
