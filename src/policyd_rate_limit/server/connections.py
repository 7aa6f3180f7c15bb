"""All connections: what they share, how much of it they may hold, and what is said of clients that break the rules."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol

from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.server.turns import MAX_IN_FLIGHT, Turns
from policyd_rate_limit.sharing import Sharer, Shares

if TYPE_CHECKING:
    from policyd_rate_limit.service import PolicyService
    from policyd_rate_limit.sharing import Peer
    from policyd_rate_limit.system.throttle import Throttle

READ_BYTES: Final = 4_096  # in one go; a request of Postfix has less than 1,000
MAX_HELD: Final = 64 << 20  # bytes of all connections that have come and are not asked yet
# About clients: too many, no Postfix policy client, half a request, too much that is not asked yet.
COMPLAINTS = ("connections", "protocol", "partial", "memory")

_logger = logging.getLogger(__name__)


class Member(Sharer, Protocol):
    """One of them, :class:`policyd_rate_limit.server.connection.Connection`, as far as it is known here."""

    peer: Peer

    def check_time(self, now: float, idle_seconds: float) -> None:
        """End it when it has been idle, or in the middle of a request, for too long at ``now``."""

    def close_when_done(self) -> None:
        """Read nothing more, and end it once all that has come is answered."""


class Connections:
    """Those that are open. ``bad_client`` bounds how often a client that breaks the rules is logged, by kind of fault.

    ``now`` is the time of the event loop's clock, in seconds, when it was looked at last.
    """

    def __init__(self, service: PolicyService, bad_client: Throttle) -> None:
        self.service = service
        self._bad_client = bad_client
        self._members: set[Member] = set()
        self.now = 0.0
        self.shares = Shares()
        self.turns = Turns(self.shares)
        self.buffer = memoryview(bytearray(READ_BYTES))  # of whichever reads at the moment
        self.accepted = 0
        self.count = 0  # changes when counting clients starts from zero
        self.asking = 0  # clients since then
        self.complaints = dict.fromkeys(COMPLAINTS, 0)

    def __len__(self) -> int:
        """How many are open."""
        return len(self._members)

    def members(self) -> tuple[Member, ...]:
        """Those that are open now."""
        return tuple(self._members)

    def join(self, connection: Member) -> None:
        """A connection was accepted."""
        self.accepted += 1
        self._members.add(connection)

    def leave(self, connection: Member) -> None:
        """A connection is gone, or as good as that."""
        self._members.discard(connection)
        self.shares.leave(connection.peer, connection)

    def clients(self) -> int:
        """How many have sent something since this was called last, as far as they may ask at the same time."""
        asking, self.asking = self.asking, 0
        self.count += 1
        return min(asking, MAX_IN_FLIGHT)

    def make_room(self, peer: str) -> str:
        """End a connection in favour of one of ``peer``, and say whose; empty: there is none that should."""
        found = self.shares.replaceable(peer, self.now)
        if found is None:
            return ""
        heaviest, connection = found
        ended = f"closing the longest idle of {heaviest.name}, which has {len(heaviest.connections)}"
        connection.abort()
        return ended

    def relieve(self) -> None:
        """End connections that hold most of the memory, of the peers that hold most, until there is room again."""
        while self.shares.held > MAX_HELD:
            for connection in self.shares.greediest():
                if not connection.held or self.shares.held <= MAX_HELD * 7 // 8:
                    break
                self.complain("memory", connection.name, f"more than {MAX_HELD >> 20} MiB of requests wait; closing")
                connection.abort()

    def complain(self, kind: str, peer: str, message: str) -> None:
        """Count, and log, that a client breaks the rules: ``kind`` is one of COMPLAINTS."""
        self.complaints[kind] += 1
        log_it, suppressed = self._bad_client.hit(kind)
        if log_it:
            more = f" ({quantity(suppressed, 'more such client')} since the last line)" if suppressed else ""
            _logger.warning("%s%s%s", f"client {peer}: " if peer else "", message, more)

    def look_at_the_time(self, now: float, idle_seconds: float) -> None:
        """Close what has been idle, or in the middle of a request, for too long at ``now``, of the loop's clock."""
        self.shares.order()
        self.now = now
        for connection in self.members():
            connection.check_time(now, idle_seconds)
