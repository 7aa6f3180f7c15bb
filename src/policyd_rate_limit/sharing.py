"""Fair shares between peers: places for connections, memory for what they send, turns to ask.

A peer is a user of this host or an address, see :mod:`policyd_rate_limit.system.peers`; Postfix is one, with a
connection for each smtpd process. Each share is fair in the max-min sense: whoever wants less than an equal part gets
it, whatever the others want. So at a bound it is the heaviest peer that gives up something, and of its connections the
one that is missed least.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final, Protocol

MOST_LOOKED_AT: Final = 64
"""Connections that are looked at, to find one that can be ended, where all have been in use this second."""


class Sharer(Protocol):
    """A connection. ``heard``: when something has come last; ``held``: bytes of memory for what is not asked yet."""

    heard: float
    held: int
    name: str

    @property
    def waits(self) -> bool:
        """Whether it waits for an answer."""

    def take_turn(self) -> bool:
        """Ask one thing, or read on where nothing is whole; whether something was asked."""

    def abort(self) -> None:
        """End it at once, and leave."""


class Peer:
    """One peer, and what it has of what is shared. ``name`` is how the log calls it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.held = 0
        # With the time of `heard` by which they are ordered; see Shares.order.
        self.connections: OrderedDict[Sharer, float] = OrderedDict()
        # Those that have something to ask: that did not until now, and that have had turns and have more.
        self.fresh: OrderedDict[Sharer, None] = OrderedDict()
        self.going_on: OrderedDict[Sharer, None] = OrderedDict()
        self.last_was_fresh = False
        self.has_turn = False  # is among those of Shares.turns


class Shares:
    """All peers that are connected."""

    def __init__(self) -> None:
        self.held = 0
        self._peers: dict[str, Peer] = {}
        self._by_number: dict[int, OrderedDict[Peer, None]] = {}  # of connections
        self._highest = 0  # number of those
        self.turns: deque[Peer] = deque()  # each that has something to ask, once

    # --- Connections

    def join(self, name: str, connection: Sharer) -> Peer:
        """``connection`` is one more of the peer called ``name``."""
        peer = self._peers.get(name)
        if peer is None:
            peer = self._peers[name] = Peer(name)
        self._move(peer, len(peer.connections), 1)
        peer.connections[connection] = connection.heard
        return peer

    def leave(self, peer: Peer, connection: Sharer) -> None:
        """``connection`` is gone, and all that it has held. May be called again."""
        if connection not in peer.connections:
            return
        self.hold(peer, connection, 0)
        self._move(peer, len(peer.connections), -1)
        del peer.connections[connection]
        peer.fresh.pop(connection, None)
        peer.going_on.pop(connection, None)
        if not peer.connections:
            del self._peers[peer.name]

    def _move(self, peer: Peer, number: int, step: int) -> None:
        if number:
            same = self._by_number[number]
            del same[peer]
            if not same:
                del self._by_number[number]
        if number + step:
            self._by_number.setdefault(number + step, OrderedDict())[peer] = None
        if step > 0:
            self._highest = max(self._highest, number + step)
        elif self._highest not in self._by_number:
            self._highest -= 1

    def order(self) -> None:
        """Order the connections of each peer by when they were heard. To be called before the time changes."""
        for peer in self._peers.values():
            for connection, heard in tuple(peer.connections.items()):
                if connection.heard > heard:
                    peer.connections[connection] = connection.heard
                    peer.connections.move_to_end(connection)

    def replaceable(self, name: str, now: float) -> tuple[Peer, Sharer] | None:
        """Which connection is to end for one more of the peer called ``name``, and whose it is; None: the new one.

        That is the longest idle of the peer with most connections. One that waits for an answer ends only for a peer
        that has less than half as many.
        """
        if not self._peers:
            return None
        newcomer = self._peers.get(name)
        number = len(newcomer.connections) if newcomer is not None else 0
        if newcomer is None or number < self._highest:
            heaviest = next(iter(self._by_number[self._highest]))
        else:
            heaviest = newcomer
        connections = heaviest.connections
        left = MOST_LOOKED_AT
        while left:
            connection, heard = next(iter(connections.items()))
            if not connection.waits and connection.heard <= heard:
                return heaviest, connection
            # In use: it comes last.
            connections[connection] = now
            connections.move_to_end(connection)
            if heard >= now:  # as all others are
                left -= 1
        return (heaviest, next(iter(connections))) if 2 * number < self._highest else None

    # --- Memory

    def hold(self, peer: Peer, connection: Sharer, size: int) -> None:
        """``connection`` holds ``size`` bytes of what its client has sent."""
        more = size - connection.held
        connection.held = size
        peer.held += more
        self.held += more

    def greediest(self) -> list[Sharer]:
        """The connections of the peer that holds most, from the one that holds most to the one that holds least."""
        peer = max(self._peers.values(), key=lambda peer: peer.held)
        return sorted(peer.connections, key=lambda connection: connection.held, reverse=True)

    # --- Turns

    def queue(self, peer: Peer, connection: Sharer, *, fresh: bool) -> None:
        """``connection`` has something to ask. ``fresh``: and had nothing until now."""
        if not peer.has_turn:
            peer.has_turn = True
            self.turns.append(peer)
        (peer.fresh if fresh else peer.going_on)[connection] = None

    def next_turn(self) -> Sharer | None:
        """Whose turn it is; it is no longer queued then. None: nobody waits.

        One peer after the other. Of each, by turns, one of the connections that ask now and then, as Postfix's do, and
        one of those that always have more to ask, of each kind one after the other.
        """
        while self.turns:
            peer = self.turns.popleft()
            peer.has_turn = False
            waiting = peer.fresh
            if not waiting or (peer.last_was_fresh and peer.going_on):
                waiting = peer.going_on
            if waiting:
                peer.last_was_fresh = waiting is peer.fresh
                connection, _ = waiting.popitem(last=False)
                if peer.fresh or peer.going_on:
                    peer.has_turn = True
                    self.turns.append(peer)
                return connection
        return None
