"""Keeps for the hit history what ran into limits, and who it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.domain.decision import BLOCKS, WOULD_BLOCK
from policyd_rate_limit.domain.listener import Listener
from policyd_rate_limit.storage.administration import LONGEST_DETAIL, HitDetails

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.domain.decision import Decision
    from policyd_rate_limit.domain.limits import Limit
    from policyd_rate_limit.domain.request import Request


class HitHistory(Listener):
    """``hit`` is told of each excess, of each refusal by a block and of each block by a rule: see
    :meth:`policyd_rate_limit.storage.engine.waiting_history.WaitingHistory.hit`.
    """

    def __init__(self, hit: Callable[[str, Limit, str, HitDetails], None]) -> None:
        self._hit = hit

    def met(self, request: Request, counter: str, limit: Limit, verdict: str) -> None:
        self._hit(counter, limit, verdict, _details(request))

    def refused(self, counter: str, limit: Limit) -> bool:  # noqa: ARG002 - it has been met
        """Nothing more is to be told of it."""
        return False

    def noticed(self, decision: Decision) -> None:
        if decision.verdict in (BLOCKS, WOULD_BLOCK) and decision.exceeded is not None:
            self._hit(decision.counter, decision.exceeded, decision.verdict, _details(decision.request))


def _details(request: Request) -> HitDetails:
    return HitDetails(
        request.queue_id[:LONGEST_DETAIL],
        request.client_address[:LONGEST_DETAIL],
        request.sender[:LONGEST_DETAIL],
        request.recipient[:LONGEST_DETAIL],
        request.instance[:LONGEST_DETAIL],
    )
