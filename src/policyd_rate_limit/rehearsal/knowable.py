"""What a log does not tell: which rules cannot be rehearsed, in whole or in part, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from policyd_rate_limit.config.rules import names_in
from policyd_rate_limit.domain.counting import BYTES, RECIPIENTS
from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT
from policyd_rate_limit.domain.rules.attributes import KINDS
from policyd_rate_limit.ruling import make_rules
from policyd_rate_limit.subjects import make_subjects

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.config.rules import RuleSettings
    from policyd_rate_limit.policy import Rule

_LOGGED: Final = frozenset(
    {
        "protocol_state",
        "queue_id",
        "instance",
        "sender",
        "sender_domain",
        "recipient",
        "recipient_domain",
        "recipient_count",
        "client_address",
        "client_name",
        "sasl_method",
        "sasl_username",
        "sasl_domain",
        "size",
        "country",
        "time",
    }
)
"""Attributes that Postfix logs, or that are made of those."""

_PARTLY: Final = {
    "helo_name": "Postfix logs helo_name with refusals alone, so it is empty for all other mails",
    "queue_id": "queue_id is there from the first request on, where Postfix sends none with the first recipient",
    "instance": "instance is another one than Postfix had sent",
}
"""Attributes that differ from those that Postfix sent, and how."""

_OF_USER: Final = frozenset({"sasl_username", "sasl_domain", "sasl_method"})
_OF_RECIPIENT: Final = frozenset({"recipient", "recipient_domain"})


def wants_recipients(settings: Settings) -> bool:
    """Whether any rule looks at who the recipients are."""
    return any(not names_in(rule).isdisjoint(_OF_RECIPIENT) for rule in settings.rules)


def cannot_be_rehearsed(settings: Settings, stages: Collection[str]) -> dict[str, tuple[str, ...]]:
    """By rule of ``settings``, what of it cannot be rehearsed where Postfix asks at ``stages``; only where anything is.

    Each is a sentence without a full stop.
    """
    declared = {rule.name: rule for rule in settings.rules}
    found: dict[str, tuple[str, ...]] = {}
    for rule in make_rules(settings, make_subjects(settings), None):
        told = tuple(_told(rule, declared.get(rule.name), stages))
        if told:
            found[rule.name] = told
    return found


def _told(rule: Rule, declared: RuleSettings | None, stages: Collection[str]) -> Iterator[str]:
    if not any(stage in rule.stages for stage in stages):
        where = " or ".join(stage for stage in (RCPT, DATA, END_OF_MESSAGE) if stage in rule.stages)
        yield f"it counts at {where} alone, where Postfix is not taken to ask: it never applies"
        return
    names = names_in(declared) & KINDS.keys() if declared is not None else frozenset()
    missing = sorted(name for name in names - _LOGGED if name not in _PARTLY)
    if missing:
        be = "are" if len(missing) > 1 else "is"
        yield f"Postfix does not log {', '.join(missing)}, which {be} taken to be empty"
    for name in sorted(names & _PARTLY.keys()):
        yield _PARTLY[name]
    if names & _OF_RECIPIENT:
        yield (
            "recipients are those of the deliveries that the log tells: of a mail that is not delivered yet, or whose"
            " aliases were expanded, the address that the client named at RCPT may not be known"
        )
    if names & _OF_USER or (declared is None and rule.subjects.kinds == ("user",)):
        yield (
            "of mails all of whose recipients were refused at RCPT in the past, most versions of Postfix do not log the"
            " user, who is then taken to be whoever sent from the same client with the same sender address before"
        )
    if "size" in names and stages != {END_OF_MESSAGE}:
        yield "size is that of the whole mail also where Postfix sends what the client has announced, or 0"
    if rule.unit == BYTES:
        yield (
            "the size is that in the queue, with the headers that Postfix has added, some hundred bytes more than it"
            " asks with; of mails that were refused or held in the past it is not known, and counts as 0"
        )
    elif rule.unit == RECIPIENTS and (DATA in stages or END_OF_MESSAGE in stages) and not names & _OF_RECIPIENT:
        yield (
            "an alias counts as all the recipients that Postfix made of it; and of a mail that was refused at DATA or"
            " later in the past the log does not say to how many it was: it counts as one, or as two where it was to"
            " several"
        )
