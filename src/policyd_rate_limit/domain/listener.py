"""Listeners: who is told at once that a limit has refused somebody, is nearly used, or has somebody blocked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from policyd_rate_limit.compiling import mypyc_attr
from policyd_rate_limit.domain.decision import REFUSED

if TYPE_CHECKING:
    from policyd_rate_limit.domain.decision import Decision
    from policyd_rate_limit.domain.limits import Limit
    from policyd_rate_limit.domain.request import Request


@mypyc_attr(allow_interpreted_subclasses=True)  # those of the tests; the calls cost no more
class Listener(ABC):
    """Is told of refusals and the like, in the event loop; none of it may wait."""

    def met(self, request: Request, counter: str, limit: Limit, verdict: str) -> None:  # noqa: B027 - who wants to know of nothing else is told in vain
        """Take that ``request`` ran into ``limit`` of ``counter``, with that ``verdict``: each time."""

    @abstractmethod
    def refused(self, counter: str, limit: Limit) -> bool:
        """``limit`` of ``counter`` has just refused a mail. Whether to be told more of it, which costs a look-up."""

    def exceeded(self, counter: str, limit: Limit, verdict: str) -> bool:
        """``limit`` of ``counter`` was exceeded, with that ``verdict``: whether to be told more, as :meth:`refused`."""
        return verdict == REFUSED and self.refused(counter, limit)

    def noticed(self, decision: Decision) -> None:  # noqa: B027 - who wants to know of nothing else is told in vain
        """Take what a rule has warned of, or whom it has blocked or would have: a decision with such a verdict."""

    def explained(self, decision: Decision) -> None:  # noqa: B027 - who asks for nothing more gets nothing more
        """Take a refusal of which more was to be told: with the use of each limit, where that could be found out."""
