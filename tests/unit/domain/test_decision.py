"""What a decision says of itself."""

from __future__ import annotations

import pytest

from policyd_rate_limit.domain.charge import Usage
from policyd_rate_limit.domain.decision import CLIENT, NOBODY, NOT_LIMITED, REFUSED, USER, Decision
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.domain.request import Request

REQUEST = Request("RCPT", "1.2", "", "alice", "", "", "192.0.2.1", 0)
MINUTE, HOUR = Usage("user:alice", Limit(5, 60), 5, 40), Usage("user:alice", Limit(9, 3600), 9, 500)
NEVER = Usage("user:alice", Limit(0, 60), 0, None)


@pytest.mark.parametrize(
    ("key", "kind", "name"),
    [("user:alice", USER, "alice"), ("client:2001:db8::", CLIENT, "2001:db8::"), ("", NOBODY, "")],
)
def test_who_is_charged(key: str, kind: str, name: str) -> None:
    decision = Decision(REQUEST, NOT_LIMITED, key)
    assert (decision.kind, decision.id, decision.rule) == (kind, name, "default")


def test_which_rule_charges() -> None:
    decision = Decision(REQUEST, NOT_LIMITED, "person|user:a|b")
    assert (decision.kind, decision.id, decision.rule) == ("user", "a|b", "person")


def test_whoever_is_blocked_is_free_when_that_ends() -> None:
    assert Decision(REQUEST, REFUSED, "user:alice", 1, blocked_for=3600).free_in == 3600


@pytest.mark.parametrize(
    ("usages", "impossible", "seconds"),
    [((MINUTE, HOUR), False, 500), ((MINUTE, NEVER), False, None), ((MINUTE,), True, None), ((), False, None)],
)
def test_when_the_same_would_be_admitted(usages: tuple[Usage, ...], impossible: bool, seconds: int | None) -> None:
    decision = Decision(REQUEST, REFUSED, "user:alice", 1, usages=usages, impossible=impossible)
    assert decision.free_in == seconds
