"""Turns: whoever asks is served at once as long as few do, else one peer after the other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from policyd_rate_limit.sharing import Peer, Sharer, Shares

MAX_IN_FLIGHT: Final = 256  # requests of all connections without an answer; what comes then waits for its turn
READ_COST: Final = 8  # a turn that reads on, and asks nothing, counts as so many


class Turns:
    """Turns of the connections among ``shares``."""

    def __init__(self, shares: Shares) -> None:
        self.in_flight = 0  # requests that are asked and not answered
        self._at_once = MAX_IN_FLIGHT  # requests that may still be asked in this turn of the event loop
        self._shares = shares
        self._giving = False

    def take_at_once(self) -> bool:
        """Whether a connection may ask without waiting for its turn; then it has to."""
        if self._at_once <= 0 or self.in_flight >= MAX_IN_FLIGHT or self._shares.turns:
            return False
        self._at_once -= 1
        return True

    def queue(self, peer: Peer, connection: Sharer, *, fresh: bool) -> None:
        """``connection`` waits for its turn; see :meth:`policyd_rate_limit.sharing.Shares.queue`."""
        self._shares.queue(peer, connection, fresh=fresh)
        if self.in_flight < MAX_IN_FLIGHT:
            self._give_soon()

    def answered(self) -> None:
        """A request is in flight no longer."""
        self.in_flight -= 1
        if self._shares.turns:
            self._give_soon()

    def _give_soon(self) -> None:
        """Let those ask who wait for that, in the next turn of the event loop."""
        if not self._giving:
            self._giving = True
            asyncio.get_running_loop().call_soon(self._give)

    def _give(self) -> None:
        self._giving = False
        self._at_once = MAX_IN_FLIGHT
        left = MAX_IN_FLIGHT
        while left > 0:
            if self.in_flight >= MAX_IN_FLIGHT:
                return  # an answer brings us here again
            connection = self._shares.next_turn()
            if connection is None:
                return
            left -= 1 if connection.take_turn() else READ_COST
        self._give_soon()
