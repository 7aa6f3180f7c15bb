"""Mails of the past, and what a rehearsal makes of them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from policyd_rate_limit.config import Settings
from policyd_rate_limit.config.checking import check
from policyd_rate_limit.config.yaml_file import read_yaml
from policyd_rate_limit.maillog.mail import Decided, Mail, Origin
from policyd_rate_limit.maillog.tally import Tally
from policyd_rate_limit.rehearsal.rehearsing import rehearse
from policyd_rate_limit.rehearsal.result import IdResult, Rehearsal, RuleResult
from policyd_rate_limit.rehearsal.stages import find_stages

NOON = 1_790_000_000.0 - 1_790_000_000.0 % 86_400 + 12 * 3600
"""A noon, in UTC."""

REPLY = "<bob@example.net>: Recipient address rejected: Rate limit reach, retry later"
"""What Postfix told a client of ``fail_action``, as it is logged."""

TO = ("bob@example.net",)


def settings_of(text: str, name: str = "new.yaml") -> Settings:
    """What a ``.yaml`` of this text says."""
    return check(read_yaml(textwrap.dedent(text), name)).settings


def mail(seconds: float, user: str = "alice@example.org", **others: Any) -> Mail:
    """One that was accepted so many seconds after noon."""
    given: dict[str, Any] = {
        "origin": Origin.SMTP,
        "host": "mx",
        "service": "postfix/submission/smtpd",
        "queue_id": f"Q{seconds}{user}",
        "client_address": "192.0.2.1",
        "client_name": "client.example",
        "sasl_username": user,
        "sender": user or "news@example.org",
        "size": 1000,
        "recipient_count": 1,
        **others,
    }
    given.setdefault("began", NOON + seconds)
    return Mail(NOON + seconds, **given)


def refusal(seconds: float, user: str = "alice@example.org", **others: Any) -> Mail:
    """One recipient of a mail, whom a rate limit refused so many seconds after noon."""
    given = {"origin": Origin.REJECTED, "queue_id": "", "recipients": TO, "stage": "RCPT", "reply": REPLY, "size": 0}
    return mail(seconds, user, **{**given, **others})


def decided(seconds: float, verdict: str, instance: str, stage: str = "RCPT", **others: Any) -> Decided:
    """A decision about alice's mail, so many seconds after noon."""
    given: dict[str, Any] = {
        "kind": "user",
        "id": "alice@example.org",
        "cost": 1,
        "sasl_username": "alice@example.org",
        "sender": "alice@example.org",
        "client_address": "192.0.2.1",
        **others,
    }
    return Decided(NOON + seconds, "limiter", verdict, stage=stage, instance=instance, **given)


def rehearsed(
    text: str, items: Iterable[Mail | Decided], *, old: str | None = None, stages: Sequence[str] = ()
) -> Rehearsal:
    """What a ``.yaml`` of this text makes of ``items``, compared with one of the text ``old``."""
    new = settings_of(text)
    before = None if old is None else settings_of(old, "old.yaml")
    found = find_stages(stages, [new] if before is None else [new, before], None)
    return rehearse(new, before, found, items, Tally())


def rule(result: Rehearsal, name: str) -> RuleResult:
    """What the rule of that name has done on the new side."""
    return next(one for one in result.new.rules if one.name == name)


def of_id(found: RuleResult, key: str) -> IdResult:
    """What it has done with whom it charges as ``key``."""
    return next(one for one in found.ids if one.key == key)
