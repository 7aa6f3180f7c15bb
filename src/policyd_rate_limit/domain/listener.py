"""Listeners: who is told at once that a limit has refused somebody."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from policyd_rate_limit.compiling import mypyc_attr

if TYPE_CHECKING:
    from policyd_rate_limit.domain.decision import Decision
    from policyd_rate_limit.domain.limits import Limit


@mypyc_attr(allow_interpreted_subclasses=True)  # those of the tests; the calls cost no more
class Listener(ABC):
    """Is told of refusals, in the event loop."""

    @abstractmethod
    def refused(self, counter: str, limit: Limit) -> bool:
        """``limit`` of ``counter`` has just refused a mail. Whether to be told more of it, which costs a look-up."""

    def explained(self, decision: Decision) -> None:  # noqa: B027 - who asks for nothing more gets nothing more
        """Take a refusal of which more was to be told: with the use of each limit, where that could be found out.

        Never waits.
        """
