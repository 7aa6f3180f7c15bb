"""The server: takes on connections, as many as there may be, and ends them in order."""

from __future__ import annotations

import asyncio
import logging
import resource
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.server.acceptor import Acceptor
from policyd_rate_limit.server.connection import Connection
from policyd_rate_limit.server.connections import Connections
from policyd_rate_limit.system.peers import peer_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.service import PolicyService
    from policyd_rate_limit.system.throttle import Throttle

MAX_CONNECTIONS: Final = 8_192  # Postfix needs one for each smtpd process, default_process_limit (100) of them
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
        self._tick_seconds = tick_seconds
        self._settle_seconds = settle_seconds
        self._drain_seconds = drain_seconds
        self.idle_seconds = idle_seconds
        self.connections = Connections(service, bad_client)
        self.most_connections = MAX_CONNECTIONS
        self._first_spare = MAX_CONNECTIONS  # the lowest number of a descriptor that is none for a connection
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
        for connection in self.connections.members():
            connection.close_when_done()
        deadline = loop.time() + self._drain_seconds
        while len(self.connections) and loop.time() < deadline:
            await asyncio.sleep(0.01)
        if len(self.connections):
            _logger.warning("closing %s that did not finish", quantity(len(self.connections), "connection"))
        for connection in self.connections.members():
            connection.abort()
        if self._tick_handle is not None:
            self._tick_handle.cancel()

    # --- Connections

    def _admit(self, accepted: socket.socket) -> None:
        """Take on a new connection; where there are too many, in the place of one that is missed less.

        :raises OSError: it is gone already.
        """
        peer = peer_of(accepted)
        connections = self.connections
        most = self.most_connections
        full = ""
        if len(connections) >= most:
            full = f"more than {most} connections"
        elif accepted.fileno() >= self._first_spare:
            # The lowest number is given first: all below are in use, whatever for.
            full = f"{len(connections)} connections and fewer than {SPARE_FILES} descriptors left"
        if full:
            ended = connections.make_room(peer)
            connections.complain("connections", "", f"{full}, {ended or 'closing new ones'}")
            if not ended:
                accepted.close()
                return
        accepted.setblocking(False)
        connection = Connection(connections, peer)
        connections.join(connection)
        task = asyncio.get_running_loop().create_task(self._connect(connection, accepted))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    def _not_accepted(self, why: str) -> None:
        ended = self.connections.make_room("")
        self.connections.complain("connections", "", f"cannot accept a connection: {why}; {ended or 'waiting'}")

    async def _connect(self, connection: Connection, accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, accepted)
        except OSError:
            accepted.close()
            self.connections.leave(connection)

    # --- Time

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._tick_handle = loop.call_later(self._tick_seconds, self._tick)
        self.look_at_the_time(loop.time())

    def look_at_the_time(self, now: float) -> None:
        """Close what has been idle, or in the middle of a request, for too long at ``now``, of the loop's clock."""
        self.connections.look_at_the_time(now, self.idle_seconds)
