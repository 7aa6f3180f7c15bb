"""The server: all connections, how many there may be, how long each may take, and an orderly shutdown."""

from __future__ import annotations

import asyncio
import logging
import resource
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.server.acceptor import Acceptor
from policyd_rate_limit.server.connection import COMPLAINTS, Connection
from policyd_rate_limit.server.turns import MAX_IN_FLIGHT, Turns
from policyd_rate_limit.sharing import Shares
from policyd_rate_limit.system.peers import peer_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.service import PolicyService
    from policyd_rate_limit.system.throttle import Throttle

MAX_CONNECTIONS: Final = 8_192  # Postfix needs one for each smtpd process, default_process_limit (100) of them
READ_BYTES: Final = 4_096  # in one go; a request of Postfix has less than 1,000
MAX_HELD: Final = 64 << 20  # bytes of all connections that have come and are not asked yet
SPARE_FILES: Final = 64  # descriptors that connections leave to all else that is opened
SETTLE_SECONDS: Final = 0.2  # at the end: what clients have sent already is still read
DRAIN_SECONDS: Final = 10.0  # at the end: for answers that wait for the store
TICK_SECONDS: Final = 1.0

_logger = logging.getLogger(__name__)


class Server:
    """Serves all connections of the listening sockets.

    ``idle_seconds`` is ``delay_to_close``. ``bad_client`` bounds how often a client
    that breaks the rules is logged, by kind of fault. ``tick_seconds``: how often the time of connections is looked at.
    At the end the server still reads for ``settle_seconds`` and answers for ``drain_seconds``.
    """

    def __init__(
        self,
        service: PolicyService,
        *,
        idle_seconds: float,
        bad_client: Throttle,
        tick_seconds: float = TICK_SECONDS,
        settle_seconds: float = SETTLE_SECONDS,
        drain_seconds: float = DRAIN_SECONDS,
    ) -> None:
        self.service = service
        self._tick_seconds = tick_seconds
        self._settle_seconds = settle_seconds
        self._drain_seconds = drain_seconds
        self.now = 0.0
        self.idle_seconds = idle_seconds
        self._bad_client = bad_client
        self._connections: set[Connection] = set()
        self.shares = Shares()
        self.most_connections = MAX_CONNECTIONS
        self._first_spare = MAX_CONNECTIONS  # the lowest number of a descriptor that is none for a connection
        self.accepted = 0
        self.count = 0  # changes when counting clients starts from zero
        self.asking = 0  # clients since then
        self.turns = Turns(self.shares)
        self.buffer = memoryview(bytearray(READ_BYTES))  # of whatever connection reads at the moment
        self.complaints = dict.fromkeys(COMPLAINTS, 0)
        self._acceptor = Acceptor(self._admit, self._not_accepted)
        self._arriving: set[asyncio.Task[None]] = set()
        self._tick_handle: asyncio.TimerHandle | None = None

    def reconfigure(self, settings: Settings) -> None:
        """Go on with ``settings``."""
        self.idle_seconds = settings.delay_to_close

    async def start(self, listeners: Iterable[socket.socket], backlog: int) -> None:
        """Accept connections on ``listeners``, which are bound."""
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._first_spare = files - SPARE_FILES if files != resource.RLIM_INFINITY else 1 << 30
        self.most_connections = max(1, min(MAX_CONNECTIONS, self._first_spare))
        self._tick()
        self._acceptor.start(listeners, backlog)

    async def stop(self) -> None:
        """Accept nothing more, answer what has been asked, close all connections."""
        loop = asyncio.get_running_loop()
        self._acceptor.stop()
        await asyncio.sleep(self._settle_seconds)
        for connection in tuple(self._connections):
            connection.close_when_done()
        deadline = loop.time() + self._drain_seconds
        while self._connections and loop.time() < deadline:
            await asyncio.sleep(0.01)
        if self._connections:
            _logger.warning("closing %s that did not finish", quantity(len(self._connections), "connection"))
        for connection in tuple(self._connections):
            connection.abort()
        if self._tick_handle is not None:
            self._tick_handle.cancel()

    # --- Connections

    def _admit(self, accepted: socket.socket) -> None:
        """Take on a new connection; where there are too many, in the place of one that is missed less.

        :raises OSError: it is gone already.
        """
        peer = peer_of(accepted)
        most = self.most_connections
        full = ""
        if len(self._connections) >= most:
            full = f"more than {most} connections"
        elif accepted.fileno() >= self._first_spare:
            # The lowest number is given first: all below are in use, whatever for.
            full = f"{len(self._connections)} connections and fewer than {SPARE_FILES} descriptors left"
        if full:
            ended = self._make_room(peer)
            self.complain("connections", "", f"{full}, {ended or 'closing new ones'}")
            if not ended:
                accepted.close()
                return
        accepted.setblocking(False)
        self.accepted += 1
        connection = Connection(self, peer)
        self._connections.add(connection)
        task = asyncio.get_running_loop().create_task(self._connect(connection, accepted))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    def _not_accepted(self, why: str) -> None:
        ended = self._make_room("")
        self.complain("connections", "", f"cannot accept a connection: {why}; {ended or 'waiting'}")

    async def _connect(self, connection: Connection, accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, accepted)
        except OSError:
            accepted.close()
            self.leave(connection)

    def _make_room(self, peer: str) -> str:
        """End a connection in favour of one of ``peer``, and say whose; empty: there is none that should."""
        found = self.shares.replaceable(peer, self.now)
        if found is None:
            return ""
        heaviest, connection = found
        ended = f"closing the longest idle of {heaviest.name}, which has {len(heaviest.connections)}"
        connection.abort()
        return ended

    @property
    def in_flight(self) -> int:
        """How many requests are asked and not answered."""
        return self.turns.in_flight

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    def clients(self) -> int:
        """How many have sent something since this was called last, as far as they may ask at the same time."""
        asking, self.asking = self.asking, 0
        self.count += 1
        return min(asking, MAX_IN_FLIGHT)

    def leave(self, connection: Connection) -> None:
        """A connection is gone, or as good as that."""
        self._connections.discard(connection)
        self.shares.leave(connection.peer, connection)

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

    # --- Time

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._tick_handle = loop.call_later(self._tick_seconds, self._tick)
        self.look_at_the_time(loop.time())

    def look_at_the_time(self, now: float) -> None:
        """Close what has been idle, or in the middle of a request, for too long at ``now``, of the loop's clock."""
        self.shares.order()
        self.now = now
        for connection in tuple(self._connections):
            connection.check_time(now, self.idle_seconds)
