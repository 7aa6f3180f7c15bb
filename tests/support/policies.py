"""What a service of a test goes by, and whom it tells."""

from __future__ import annotations

from typing import Any

from policyd_rate_limit.domain.counter import DEFAULT
from policyd_rate_limit.domain.counting import stages
from policyd_rate_limit.domain.identity import Subjects
from policyd_rate_limit.domain.limits import Limits
from policyd_rate_limit.policy import Actions, LimitsOfIds, Policy, Rule
from policyd_rate_limit.service import Observer

_OF_SASL_USERS: dict[str, Any] = {
    "limits_by_id": {},
    "limit_by_sasl": True,
    "limit_by_sender": False,
    "limit_by_ip": False,
    "limited_networks": (),
    "ipv6_prefix": 64,
}


def subjects(limits: Limits, **settings: Any) -> Subjects:
    """``limits`` for each SASL user, and for nobody else; ``settings`` say otherwise."""
    return Subjects(limits=limits, **{**_OF_SASL_USERS, **settings})


class Nobody(Observer):
    """Is told of decisions."""

    def passed(self, *_: object) -> None: ...
    def decided(self, *_: object) -> None: ...
    def blocked(self, *_: object) -> None: ...


def policy(
    subjects: Subjects, actions: Actions, count_mode: int | None, sql_limits: LimitsOfIds | None = None
) -> Policy:
    """The one rule that the settings of version 1 are."""
    return Policy((Rule(DEFAULT, subjects, stages(count_mode), sql_limits),), actions, count_mode)


def default_rule(limits: Limits = ()) -> Rule:
    """That of the settings of version 1."""
    return Rule(DEFAULT, subjects(limits), stages(None))
