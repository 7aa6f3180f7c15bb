"""Connections: bytes to requests, actions to bytes, in order; time limits; fair shares; an orderly end."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from typing import TYPE_CHECKING, Final, cast

from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.errors import ProtocolError
from policyd_rate_limit.protocol.codec import Decoder, encode
from policyd_rate_limit.service import Asking
from policyd_rate_limit.sharing import Shares
from policyd_rate_limit.system.peers import peer_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.domain.request import Request
    from policyd_rate_limit.service import PolicyService
    from policyd_rate_limit.sharing import Peer
    from policyd_rate_limit.system.throttle import Throttle

MAX_CONNECTIONS: Final = 8_192  # Postfix needs one for each smtpd process, default_process_limit (100) of them
MAX_IN_FLIGHT: Final = 256  # requests of all connections without an answer; what comes then waits for its turn
MAX_PIPELINED: Final = 64  # of these, of one connection; Postfix sends one at a time
READ_BYTES: Final = 4_096  # in one go; a request of Postfix has less than 1,000
READ_COST: Final = 8  # a turn that reads on, and asks nothing, counts as so many
MAX_HELD: Final = 64 << 20  # bytes of all connections that have come and are not asked yet
MAX_UNREAD: Final = 4_096  # bytes of answers that a client has not read, besides what the kernel keeps of them
PARTIAL_REQUEST_SECONDS: Final = 30.0  # for a request to arrive once it has begun; Postfix sends it in one write
MAX_ACCEPTED: Final = 16  # connections in one turn of the event loop
SPARE_FILES: Final = 64  # descriptors that connections leave to all else that is opened
ACCEPT_REST_SECONDS: Final = 0.1  # after a connection could not be accepted
SETTLE_SECONDS: Final = 0.2  # at the end: what clients have sent already is still read
DRAIN_SECONDS: Final = 10.0  # at the end: for answers that wait for the store
TICK_SECONDS: Final = 1.0
# About clients: too many, no Postfix policy client, half a request, too much that is not asked yet.
COMPLAINTS = ("connections", "protocol", "partial", "memory")

_logger = logging.getLogger(__name__)


class Server:
    """All connections of the listening sockets.

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
        self.count = 0  # changes when clients are counted anew
        self.asking = 0  # clients since then
        self.in_flight = 0  # requests that are asked and not answered
        self.at_once = MAX_IN_FLIGHT  # requests that may still be asked in this turn of the event loop
        self._giving_turns = False
        self.buffer = memoryview(bytearray(READ_BYTES))  # of whatever connection reads at the moment
        self.complaints = dict.fromkeys(COMPLAINTS, 0)
        self._listeners: list[socket.socket] = []
        self._arriving: set[asyncio.Task[None]] = set()
        self._tick_handle: asyncio.TimerHandle | None = None
        self._closing = False

    def reconfigure(self, settings: Settings) -> None:
        """Go on with ``settings``."""
        self.idle_seconds = settings.delay_to_close

    async def start(self, listeners: Iterable[socket.socket], backlog: int) -> None:
        """Accept connections on ``listeners``, which are bound."""
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._first_spare = files - SPARE_FILES if files != resource.RLIM_INFINITY else 1 << 30
        self.most_connections = max(1, min(MAX_CONNECTIONS, self._first_spare))
        self._tick()
        for listener in listeners:
            listener.setblocking(False)
            listener.listen(backlog)
            self._listeners.append(listener)
            self._listen(listener)

    async def stop(self) -> None:
        """Accept nothing more, answer what has been asked, close all connections."""
        loop = asyncio.get_running_loop()
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            loop.remove_reader(listener.fileno())
            listener.close()
        await asyncio.sleep(self._settle_seconds)
        self._closing = True
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

    def _listen(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            asyncio.get_running_loop().add_reader(listener.fileno(), self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        """Take some of the connections that wait to be accepted; the others wait for the next turn of the loop."""
        for _ in range(MAX_ACCEPTED):
            try:
                accepted, _ = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                # Out of descriptors, most likely. Whoever wants to connect waits in the queue of the listening socket.
                loop = asyncio.get_running_loop()
                loop.remove_reader(listener.fileno())
                loop.call_later(ACCEPT_REST_SECONDS, self._listen, listener)
                ended = self._make_room("")
                self.complain("connections", "", f"cannot accept a connection: {error.strerror}; {ended or 'waiting'}")
                return
            try:
                self._admit(accepted)
            except (OSError, ValueError):  # it has gone
                accepted.close()

    def _admit(self, accepted: socket.socket) -> None:
        """Take on a new connection; where there are too many, in the place of one that is missed less.

        :raises OSError: it is gone already.
        """
        if self._closing:
            accepted.close()
            return
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

    # --- Turns

    def queue(self, connection: Connection, *, fresh: bool) -> None:
        """``connection`` waits for its turn; see :meth:`policyd_rate_limit.sharing.Shares.queue`."""
        self.shares.queue(connection.peer, connection, fresh=fresh)
        if self.in_flight < MAX_IN_FLIGHT:
            self.give_turns_soon()

    def give_turns_soon(self) -> None:
        """Let those ask who wait for that, in the next turn of the event loop."""
        if not self._giving_turns:
            self._giving_turns = True
            asyncio.get_running_loop().call_soon(self._give_turns)

    def _give_turns(self) -> None:
        self._giving_turns = False
        self.at_once = MAX_IN_FLIGHT
        left = MAX_IN_FLIGHT
        while left > 0:
            if self.in_flight >= MAX_IN_FLIGHT:
                return  # an answer brings us here again
            connection = self.shares.next_turn()
            if connection is None:
                return
            left -= 1 if connection.take_turn() else READ_COST
        self.give_turns_soon()

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


class Connection(asyncio.BufferedProtocol):
    """One policy client of ``peer``, such as an smtpd process. See :class:`policyd_rate_limit.sharing.Sharer`."""

    __slots__ = (
        "_answered",
        "_answers",
        "_blocked",
        "_count",
        "_decoder",
        "_ended",
        "_ending",
        "_partial_since",
        "_paused",
        "_queued",
        "_transport",
        "_unread",
        "heard",
        "held",
        "name",
        "peer",
        "server",
    )

    def __init__(self, server: Server, peer: str) -> None:
        self.server = server
        self.name = peer  # for the log
        self.heard = server.now
        self.held = 0
        self.peer: Peer = server.shares.join(peer, self)
        self._transport: asyncio.Transport | None = None
        self._decoder = Decoder()
        self._answers: list[_Answer] = []  # in the order of the requests; MAX_PIPELINED at the most
        self._answered: Request | None = None
        self._count = -1
        self._partial_since: float | None = None
        self._queued = False  # there is something to ask, and it waits for its turn
        self._blocked = False  # there is something to ask, and too much without an answer, or unread
        self._paused = False
        self._unread = False
        self._ended = False  # the client sends nothing more
        self._ending = False  # nothing more is read

    @property
    def waits(self) -> bool:
        """Whether the client waits for an answer."""
        return bool(self._answers) or (self._queued and self._partial_since is None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        # uvloop's transports do not inherit from asyncio's.
        self._transport = transport = cast("asyncio.Transport", transport)
        if self._ending:
            transport.abort()
            return
        transport.set_write_buffer_limits(high=MAX_UNREAD)
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            self.name = f"[{name[0]}]:{name[1]}"

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone; what it has asked is decided all the same, and nobody gets the answer."""
        self._ending = True
        self._transport = None
        self.server.leave(self)
        if exc is not None:
            self._take_back_answered()
        self._give_up_answers()

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where to put what has come. One place for all connections: nothing of it stays there."""
        return self.server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Some bytes have come."""
        if self._ending:
            return
        server = self.server
        self.heard = server.now
        if self._count != server.count:
            self._count = server.count
            server.asking += 1
        self._answered = None  # whoever asks on has read it
        self._decoder.push(bytes(server.buffer[:nbytes]))
        if self._queued or self._blocked:
            self._pause()
            self._account()
        elif server.at_once <= 0 or server.in_flight >= MAX_IN_FLIGHT or server.shares.turns:
            self._queue(fresh=True)
            self._account()
        else:
            server.at_once -= 1
            self._take()
            if self._partial_since is not None:
                # The rest waits for its turn as well: many that send much and ask nothing are to hold up nobody.
                self._pause()
                self._queue(fresh=False)

    def eof_received(self) -> bool:
        """The client sends nothing more; it may still wait for answers, but Postfix does not."""
        self._ended = True
        self._give_up_answers()
        if self._transport is not None and _was_reset(self._transport):
            self._take_back_answered()
        self.close_when_done()
        return True

    def pause_writing(self) -> None:
        """The client does not read its answers."""
        self._unread = True

    def resume_writing(self) -> None:
        """The client has read its answers."""
        self._unread = False
        if self._blocked:
            self._unblock()

    def flush(self) -> None:
        """Send the answers that are known, as far as their order allows."""
        answers = self._answers
        data = b""
        known = 0
        for answer in answers:
            if answer.data is None:
                break
            data = data + answer.data if known else answer.data
            known += 1
            self._answered = answer.request
        if known == len(answers):
            answers.clear()
        else:
            del answers[:known]
        transport = self._transport
        if transport is None:
            return
        if data:
            transport.write(data)
        if self._blocked:
            self._unblock()
        elif self._ending and not answers and not self._queued:
            transport.close()

    def check_time(self, now: float, idle_seconds: float) -> None:
        """Close the connection when it has been idle, or in the middle of a request, for too long."""
        if self.waits:
            # The client waits for us, and what it has sent since may not have been read.
            self.heard = now
            if self._partial_since is not None:
                self._partial_since = now
        elif self._partial_since is not None and now - self._partial_since >= PARTIAL_REQUEST_SECONDS:
            self.server.complain(
                "partial", self.name, f"half a request and nothing more for {PARTIAL_REQUEST_SECONDS:g} s; closing"
            )
            self.abort()
        elif now - self.heard >= idle_seconds:
            # Closing takes as long as the client does not read its answers.
            self.abort() if self._unread or self._ending else self.close_when_done()

    def take_turn(self) -> bool:
        """See :meth:`policyd_rate_limit.sharing.Sharer.take_turn`."""
        self._queued = False
        asked = False
        if self._transport is not None:
            asked = self._take()
            if not self._queued and not self._blocked:
                self._read_on()
            if self._ending:
                self.flush()
        return asked

    def close_when_done(self) -> None:
        """Read nothing more, and close the connection once all that has come is answered."""
        self._ending = True
        self.flush()

    def abort(self) -> None:
        """Close the connection at once, and let go of all that it has."""
        self._ending = True
        self._drop_rest()
        self.server.leave(self)
        if self._transport is not None:
            self._transport.abort()

    def _give_up_answers(self) -> None:
        """Whoever has not got an answer by now asks again, over another connection."""
        for answer in self._answers:
            if answer.request is not None:
                self.server.service.unanswered(answer.request)
                answer.request = None

    def _take_back_answered(self) -> None:
        """The connection was reset: its client has closed it without reading the last answer."""
        if self._answered is not None:
            self.server.service.unanswered(self._answered)
            self._answered = None

    def _take(self) -> bool:
        """Ask the next that has come, if it is whole; those behind it wait for their turns, whoever sends much at once.

        :returns: whether something was asked.
        """
        if self._unread or len(self._answers) >= MAX_PIPELINED:
            self._blocked = True
            return False
        server = self.server
        decoder = self._decoder
        try:
            request = decoder.next_request()
        except ProtocolError as error:
            server.complain("protocol", self.name, f"{error}; closing the connection")
            self._drop_rest()
            self.close_when_done()
            return False
        if request is None:
            if self._partial_since is None or not decoder.held:
                self._partial_since = server.now if decoder.held else None
            self._account()
            return False
        self._partial_since = None
        answer = _Answer(self, request)
        self._answers.append(answer)
        if decoder.held:
            self._queue(fresh=False)
        server.in_flight += 1
        try:
            server.service.ask(request, answer)
        except Exception:
            _logger.exception("a request of client %s", self.name)
            server.in_flight -= 1
            self.abort()
            return True
        if self._ended:
            self._give_up_answers()
        if self.held or decoder.held:
            self._account()
        return True

    def _queue(self, *, fresh: bool) -> None:
        self._queued = True
        self.server.queue(self, fresh=fresh)

    def _unblock(self) -> None:
        """Ask on, if there is room for answers."""
        if not self._unread and len(self._answers) <= MAX_PIPELINED // 2:
            self._blocked = False
            self._queue(fresh=False)

    def _pause(self) -> None:
        """Read nothing more for now."""
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _read_on(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def _account(self) -> None:
        """Tell how much memory is needed for what has come."""
        size = self._decoder.held
        shares = self.server.shares
        shares.hold(self.peer, self, size)
        if shares.held > MAX_HELD:
            self.server.relieve()

    def _drop_rest(self) -> None:
        """Ask nothing more."""
        self._decoder = Decoder()
        self._blocked = False
        self._partial_since = None
        self._account()


def _was_reset(transport: asyncio.Transport) -> bool:
    """Whether the peer had no more use for what was sent: the end of its own data may hide that."""
    try:
        return bool(transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    except OSError:
        return True


class _Answer(Asking):
    """The place of one answer in the order of a connection."""

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection = connection
        self.request: Request | None = request
        self.data: bytes | None = None

    def answer(self, action: str | None) -> None:
        """See :meth:`policyd_rate_limit.service.Asking.answer`."""
        connection = self._connection
        server = connection.server
        server.in_flight -= 1
        if server.shares.turns:
            server.give_turns_soon()
        if action is None:
            connection.abort()
            return
        self.data = encode(action)
        connection.flush()
