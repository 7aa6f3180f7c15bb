"""How ids and what is known of them are put into words for templates."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.admin.standing import share
from policyd_rate_limit.domain.charge import free_in
from policyd_rate_limit.domain.counter import prefix_and_key, unit_of

if TYPE_CHECKING:
    from markupsafe import Markup

    from policyd_rate_limit.admin.desk import InForce
    from policyd_rate_limit.admin.senders import Sender
    from policyd_rate_limit.domain.charge import Usage
    from policyd_rate_limit.domain.limits import Limit, Limits
    from policyd_rate_limit.storage.administration import AuditEntry, HitDetails, HourOfHits, Override
    from policyd_rate_limit.web.wording import Wording


class SenderRow(NamedTuple):
    """One of those who are limited or close, by the limit that says so."""

    key: str
    counter: str
    shadow: bool
    raised: bool
    used: str
    limit: Limit
    share: float
    free: Markup


class OverrideRow(NamedTuple):
    """One of what is set."""

    key: str
    counter: str
    blocks: bool
    limits: Limits
    until: int
    by: str | Markup
    note: str


class HitRow(NamedTuple):
    """An hour in which an id ran into a limit."""

    id: str
    key: str
    kind: str
    limit: Limit
    hits: int
    last: int
    details: HitDetails


class ChangeRow(NamedTuple):
    """An entry of the audit trail; ``id``: its subject without the rule."""

    date: int
    who: str
    from_where: str
    action: str
    id: str
    subject: str
    detail: str
    note: str


def id_of(counter: str) -> str:
    """What ``counter`` counts, as it is asked for: ``user:alice``."""
    return prefix_and_key(counter)[1]


def sender_row(sender: Sender, t: Wording, now: int) -> SenderRow:
    """``sender`` with the limit that stops it longest, or else the one of which most is used."""
    usage = _telling(sender.usages)
    return SenderRow(
        id_of(sender.key),
        sender.key,
        sender.in_force.shadow,
        sender.in_force.override is not None,
        t.counted(usage.used, unit_of(sender.key)),
        usage.limit,
        share(usage.used, usage.limit),
        free_again(sender.usages, sender.in_force, t, now),
    )


def override_row(override: Override, set_by: AuditEntry | None, t: Wording) -> OverrideRow:
    """``override``, and who has set it: a daemon leaves no entry, but says for which limit it was."""
    by = set_by.who if set_by is not None else t("state.by_daemon") if is_block(override) else t("state.unknown")
    note = override.note if set_by is not None else t.own(override.note)
    return OverrideRow(id_of(override.key), override.key, is_block(override), override.limits, override.until, by, note)


def hit_row(one: HourOfHits) -> HitRow:
    """``one``, and its id."""
    return HitRow(id_of(one.key), one.key, one.kind, one.limit, one.hits, one.last, one.details)


def change_row(one: AuditEntry) -> ChangeRow:
    """``one``, and its id."""
    subject = one.subject
    return ChangeRow(one.date, one.who, one.from_where, one.action, id_of(subject), subject, one.detail, one.note)


def free_again(usages: tuple[Usage, ...], in_force: InForce, t: Wording, now: int) -> Markup:
    """When one more is admitted, given how limits stand ``now`` (Unix second)."""
    seconds = free_in(usages)
    if seconds is None:
        override = in_force.override
        return t("state.free_when_lifted", until=t.moment(override.until, now)) if override else t("state.free_never")
    if not seconds:
        return t("state.free_now")
    return t("state.free_at", duration=t.duration(seconds), time=t.moment(now + seconds, now))


def is_block(override: Override) -> bool:
    """Whether ``override`` lets nothing pass."""
    return any(limit.maximum == 0 for limit in override.limits)


def _telling(usages: tuple[Usage, ...]) -> Usage:
    def weight(usage: Usage) -> tuple[float, float]:
        longest = float("inf") if usage.free_in is None else usage.free_in
        return (longest, share(usage.used, usage.limit))

    return max(usages, key=weight)
