"""Listeners: who is told at once that a limit has refused somebody."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policyd_rate_limit.domain.decision import Decision
    from policyd_rate_limit.domain.limits import Limit


class Listener(ABC):
    """Is told of refusals in the event loop, but only of those that it wants."""

    @abstractmethod
    def wants(self, key: str, exceeded: Limit) -> bool:
        """Whether to be told that ``exceeded`` has just refused something that ``key`` is charged for."""

    @abstractmethod
    def tell(self, decision: Decision) -> None:
        """A refusal that was wanted, with the use of each limit where that could be found out. Never waits."""
