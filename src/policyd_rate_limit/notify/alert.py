"""An alert that somebody has run into a limit: as text for people and as JSON for programs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from policyd_rate_limit.domain.limits import spell_limit, spell_period
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.mail.wording import local_time, name_and_kind, printable, rule_of

if TYPE_CHECKING:
    from policyd_rate_limit.domain.decision import Decision
    from policyd_rate_limit.domain.limits import Limit

HOUR = 3_600  # seconds
LONGEST_VALUE = 1_000
"""The most characters of a value in JSON: attributes of a request are as long as a client likes."""


class Unsent(NamedTuple):
    """``total`` alerts there would have been before this one; of whom the ``first`` of them were."""

    total: int
    first: tuple[tuple[str, Limit], ...]


class Alert(NamedTuple):
    """At ``time`` (Unix seconds) the daemon on ``host`` made ``decision``, which is a refusal.

    ``number``: no other alert has it.
    """

    number: str
    time: float
    host: str
    decision: Decision
    unsent: Unsent

    @property
    def limit(self) -> Limit:
        """The limit that refused it."""
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
        ("Limit", _limit(alert.limit)),
        ("Time", local_time(alert.time)),
        ("Client address", about.client_address),
        ("Sender", about.sender),
        ("Recipient", about.recipient),
        ("Queue id", about.queue_id),
        ("Stage", about.protocol_state),
        ("Free again", _when_free(alert)),
    ]
    lines = [f"{kind or 'id'} {name} ran into a limit on {alert.host}.", ""]
    lines += [f"{label + ':':16}{printable(value)}" for label, value in facts if value]
    if decision.usages:
        lines += ["", "Sent in each window:", ""]
        lines += [f"    {one.used} of {_limit(one.limit)}{_free(one.free_in)}" for one in decision.usages]
    lines += ["", f"Further hits within {spell_period(told_once_in(alert.limit))} are not reported."]
    if alert.unsent.total:
        lines += ["", _unsent(alert.unsent)]
        lines += [f"    {name_and_kind(counter)[0]} {spell_limit(limit)}" for counter, limit in alert.unsent.first]
    return "\n".join((*lines, ""))


def subject(alert: Alert) -> str:
    """What a person sees first."""
    name, _ = name_and_kind(alert.decision.counter)
    return f"{name} ran into the limit {spell_limit(alert.limit)} on {alert.host}"


def as_json(alert: Alert) -> bytes:
    """What a program reads: one JSON object in ASCII, on one line. docs/report.md says what is in it."""
    decision = alert.decision
    about = decision.request
    content: dict[str, Any] = {
        "type": "limit.hit",
        "id": alert.number,
        "timestamp": datetime.fromtimestamp(alert.time, UTC).isoformat(timespec="seconds"),
        "data": {
            "host": alert.host,
            "key": _value(decision.counter),
            "rule": decision.rule,
            "kind": decision.kind,
            "id": _value(decision.id),
            "limit": _numbers(alert.limit),
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
