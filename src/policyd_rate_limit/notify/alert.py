"""An alert that somebody has run into a limit, is close to one or blocked: as text for people, as JSON for programs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from policyd_rate_limit.domain.decision import BLOCKS, WARNED, WOULD_BLOCK, WOULD_REFUSE
from policyd_rate_limit.domain.ids import fold
from policyd_rate_limit.domain.limits import spell_limit, spell_period
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.mail.wording import counted_of, local_time, name_and_kind, printable, rule_of

if TYPE_CHECKING:
    from policyd_rate_limit.domain.decision import Decision
    from policyd_rate_limit.domain.limits import Limit

HOUR = 3_600  # seconds
_TYPES = {WARNED: "limit.warning", BLOCKS: "limit.block"}
LONGEST_VALUE = 1_000
"""The most characters of a value in JSON: attributes of a request are as long as a client likes."""


class Unsent(NamedTuple):
    """``total`` alerts there would have been before this one; of whom the ``first`` of them were."""

    total: int
    first: tuple[tuple[str, Limit], ...]


class Alert(NamedTuple):
    """At ``time`` (Unix seconds) the daemon on ``host`` made ``decision``: a limit was exceeded, warned of, or blocks.

    ``number``: no other alert has it. ``to``: who gets it, where it is for those whom a rule names; ``is_for_user``:
    that is the user whose mail it was.
    """

    number: str
    time: float
    host: str
    decision: Decision
    unsent: Unsent
    to: tuple[str, ...] = ()
    is_for_user: bool = False

    @property
    def limit(self) -> Limit:
        """The limit that was exceeded, or is warned of."""
        assert self.decision.exceeded is not None  # noqa: S101 - or there would be no alert
        return self.decision.exceeded


def told_once_in(limit: Limit) -> int:
    """For how many seconds a hit is no news once another one was told: as long as the window of ``limit``.

    One per mail has none, and whoever runs into it does so with mail after mail: an hour.
    """
    return HOUR if limit.is_per_mail else limit.seconds


def as_text(alert: Alert) -> str:
    """What a person reads."""
    decision = alert.decision
    name, kind = name_and_kind(decision.counter)
    about = decision.request
    facts = [
        ("Rule", rule_of(decision.counter)),
        ("Counted", counted_of(decision.counter)),
        ("Limit", _limit(alert.limit)),
        ("Time", local_time(alert.time)),
        ("Client address", about.client_address),
        ("Sender", about.sender),
        ("Recipient", about.recipient),
        ("Queue id", about.queue_id),
        ("Stage", about.protocol_state),
        ("Free again", "" if decision.verdict == WARNED else _when_free(alert)),
    ]
    lines = [f"{kind or 'id'} {name} {_what(alert)} on {alert.host}{_unless_in_shadow(alert)}.", ""]
    lines += [f"{label + ':':16}{printable(value)}" for label, value in facts if value]
    if decision.usages:
        of_values = counted_of(decision.counter)
        lines += ["", f"{of_values.capitalize()} in each window:" if of_values else "Sent in each window:", ""]
        lines += [f"    {one.used} of {_limit(one.limit)}{_free(one.free_in)}" for one in decision.usages]
    further = {WARNED: "warnings of it", BLOCKS: "blocks for it"}.get(decision.verdict, "hits")
    lines += ["", f"Further {further} within {spell_period(told_once_in(alert.limit))} are not reported."]
    if alert.unsent.total:
        lines += ["", _unsent(alert.unsent)]
        lines += [f"    {name_and_kind(counter)[0]} {spell_limit(limit)}" for counter, limit in alert.unsent.first]
    return "\n".join((*lines, ""))


def subject(alert: Alert) -> str:
    """What a person sees first."""
    name, _ = name_and_kind(alert.decision.counter)
    limit, period = spell_limit(alert.limit), spell_period(alert.decision.blocked_for or 1)
    what = {
        WARNED: f"has used {_used(alert)} of {limit}",
        WOULD_REFUSE: f"would be refused by the limit {limit}",
        BLOCKS: f"is blocked for {period} by the limit {limit}",
        WOULD_BLOCK: f"would be blocked for {period} by the limit {limit}",
    }.get(alert.decision.verdict, f"ran into the limit {limit}")
    return f"{name} {what} on {alert.host}{' (in shadow)' if _is_warned_in_shadow(alert) else ''}"


def as_text_for_user(alert: Alert) -> str:
    """What the user reads whose mail it was: nothing of others, nor how things are set up."""
    decision = alert.decision
    limit, when = _limit(alert.limit), local_time(alert.time)
    is_own = decision.kind == "user" and decision.id == fold(decision.request.sasl_username)
    if decision.verdict == WARNED:
        used = f"You have used {_used(alert)}" if is_own else "Much has been used"
        lines = [f"{used} of what may be sent: {limit}.", "Mail beyond that is not sent as usual."]
    elif decision.verdict == BLOCKS:
        until = local_time(alert.time + decision.blocked_for)
        lines = [f"More mail came from your account than may be sent: {limit}.", f"Mail is refused until {until}."]
    else:
        lines = [f"More mail came from your account than may be sent: {limit}.", "The mail beyond that was not sent."]
        if is_own and decision.free_in:
            lines.append(f"The next one can be sent in about {spell_period(decision.free_in)}.")
    lines += ["", f"This was noticed at {when}.", f"The mail came from {about_client(alert)}.", ""]
    lines += ["If you did not send it, somebody else may be using your account:"]
    lines += ["change your password, and tell those who run the mail server."]
    return "\n".join((*lines, ""))


def subject_for_user(alert: Alert) -> str:
    """What the user sees first."""
    return {
        WARNED: "You have nearly sent as much mail as you may",
        BLOCKS: "Your account may send no mail for now",
    }.get(alert.decision.verdict, "You have sent as much mail as you may")


def about_client(alert: Alert) -> str:
    """From where the mail came."""
    address = alert.decision.request.client_address
    return f"the address {printable(address, 45)}" if address else "an address that is not known"


def _what(alert: Alert) -> str:
    period = spell_period(alert.decision.blocked_for or 1)
    return {
        WARNED: f"has used {_used(alert)} of {_limit(alert.limit)}",
        WOULD_REFUSE: "would be refused by a limit",
        BLOCKS: f"ran into a limit, and is blocked for {period},",
        WOULD_BLOCK: f"would be blocked for {period}, by a limit",
    }.get(alert.decision.verdict, "ran into a limit")


def _unless_in_shadow(alert: Alert) -> str:
    if alert.decision.verdict in (WOULD_REFUSE, WOULD_BLOCK):
        return ", if its rule were not in shadow"
    return ", of a rule in shadow" if _is_warned_in_shadow(alert) else ""


def _is_warned_in_shadow(alert: Alert) -> bool:
    return alert.decision.verdict == WARNED and alert.decision.shadow


def _used(alert: Alert) -> int:
    return alert.decision.usages[0].used if alert.decision.usages else 0


def as_json(alert: Alert) -> bytes:
    """What a program reads: one JSON object in ASCII, on one line. docs/report.md says what is in it."""
    decision = alert.decision
    about = decision.request
    content: dict[str, Any] = {
        "type": _TYPES.get(decision.verdict, "limit.hit"),
        "id": alert.number,
        "timestamp": datetime.fromtimestamp(alert.time, UTC).isoformat(timespec="seconds"),
        "data": {
            "host": alert.host,
            "key": _value(decision.counter),
            "rule": decision.rule,
            "kind": decision.kind,
            "id": _value(decision.id),
            "shadow": decision.shadow,
            "limit": _numbers(alert.limit),
            "blocked_for": decision.blocked_for,
            "cost": decision.cost,
            "free_in": decision.free_in,
            "usage": [{**_numbers(one.limit), "used": one.used, "free_in": one.free_in} for one in decision.usages],
            "protocol_state": _value(about.protocol_state),
            "instance": _value(about.instance),
            "queue_id": _value(about.queue_id),
            "sasl_username": _value(about.sasl_username),
            "sender": _value(about.sender),
            "recipient": _value(about.recipient),
            "client_address": _value(about.client_address),
            "unsent": {
                "total": alert.unsent.total,
                "first": [{"key": _value(key), "limit": _numbers(limit)} for key, limit in alert.unsent.first],
            },
        },
    }
    return json.dumps(content).encode("ascii") + b"\n"


def _value(text: str) -> str:
    # A byte that is no UTF-8 is U+FFFD: JSON can hold a lone surrogate, and few readers can.
    return text[:LONGEST_VALUE].encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _numbers(limit: Limit) -> dict[str, int]:
    return {"maximum": limit.maximum, "seconds": limit.seconds}


def _limit(limit: Limit) -> str:
    return f"{limit.maximum} in {'one mail' if limit.is_per_mail else spell_period(limit.seconds)}"


def _when_free(alert: Alert) -> str:
    wait = alert.decision.free_in
    if wait is None:
        return "never: such a mail is larger than a limit" if alert.decision.impossible else ""
    return f"in {wait} s, at {local_time(alert.time + wait)}" if wait else "now"


def _free(wait: int | None) -> str:
    return ", which it can never fit into" if wait is None else f", free again in {wait} s" if wait else ""


def _unsent(unsent: Unsent) -> str:
    more = unsent.total - len(unsent.first)
    return (
        f"{quantity(unsent.total, 'more alert')} {'was' if unsent.total == 1 else 'were'} due before this one, and not"
        " sent since notify_max_per_hour was reached"
        f"{f'; the first {len(unsent.first)} of them' if more else ''}:"
    )
