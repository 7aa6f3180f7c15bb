"""Who is told of refusals."""

from __future__ import annotations

from policyd_rate_limit.domain.decision import REFUSED, WOULD_REFUSE, Decision
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.domain.listener import Listener
from policyd_rate_limit.domain.request import RCPT, Request


class Counting(Listener):
    """Counts refusals, and asks for nothing more."""

    def __init__(self) -> None:
        self.count = 0

    def refused(self, counter: str, limit: Limit) -> bool:
        self.count += 1
        return False


def test_who_only_counts_has_nothing_else_to_do() -> None:
    listener = Counting()
    assert not listener.refused("user:alice", Limit(10, 60))
    listener.explained(Decision(Request(RCPT, "", "", "alice", "", "", "", 0), REFUSED, "user:alice"))
    assert listener.count == 1


def test_what_only_would_be_refused_is_no_refusal() -> None:
    listener = Counting()
    assert not listener.exceeded("user:alice", Limit(10, 60), WOULD_REFUSE)
    assert listener.count == 0
    assert not listener.exceeded("user:alice", Limit(10, 60), REFUSED)
    assert listener.count == 1
