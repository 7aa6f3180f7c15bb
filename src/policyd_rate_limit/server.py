"""Connections: bytes to requests, actions to bytes, in order; time limits; an orderly end."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Final, cast

from policyd_rate_limit.errors import ProtocolError
from policyd_rate_limit.protocol.codec import Decoder, encode
from policyd_rate_limit.service import Asking

if TYPE_CHECKING:
    from collections.abc import Iterable

    from policyd_rate_limit.domain.request import Request
    from policyd_rate_limit.service import PolicyService
    from policyd_rate_limit.system.throttle import Throttle

MAX_CONNECTIONS: Final = 8_192  # Postfix needs one for each smtpd process, default_process_limit (100) of them
MAX_PIPELINED: Final = 64  # requests of one connection without an answer; Postfix sends one at a time
MAX_UNREAD: Final = 65_536  # bytes of answers that a client has not read
PARTIAL_REQUEST_SECONDS: Final = 30.0  # for a request to arrive once it has begun; Postfix sends it in one write
SETTLE_SECONDS: Final = 0.2  # at the end: what clients have sent already is still read
DRAIN_SECONDS: Final = 10.0  # at the end: for answers that wait for the store
TICK_SECONDS: Final = 1.0
COMPLAINTS = ("connections", "protocol", "partial")  # about clients: too many, no Postfix policy client, half a request

_logger = logging.getLogger(__name__)


class Server:
    """All connections of the listening sockets.

    ``idle_seconds`` is ``delay_to_close``, and may be changed at any time. ``bad_client`` bounds how often a client
    that breaks the rules is logged, by kind of fault.
    """

    def __init__(self, service: PolicyService, *, idle_seconds: float, bad_client: Throttle) -> None:
        self.service = service
        self.now = 0.0
        self.idle_seconds = idle_seconds
        self._bad_client = bad_client
        self._connections: set[Connection] = set()
        self.accepted = 0
        self.count = 0  # changes when clients are counted anew
        self.asking = 0  # clients since then
        self.complaints = dict.fromkeys(COMPLAINTS, 0)
        self._listeners: list[asyncio.AbstractServer] = []
        self._tick_handle: asyncio.TimerHandle | None = None
        self._closing = False

    async def start(self, listeners: Iterable[socket.socket], backlog: int) -> None:
        """Accept connections on ``listeners``, which are bound."""
        loop = asyncio.get_running_loop()
        self._tick()
        for listener in listeners:
            self._listeners.append(await loop.create_server(lambda: Connection(self), sock=listener, backlog=backlog))

    async def stop(self) -> None:
        """Accept nothing more, answer what has been asked, close all connections."""
        for listener in self._listeners:
            listener.close()
        await asyncio.sleep(SETTLE_SECONDS)
        self._closing = True
        for connection in tuple(self._connections):
            connection.close_when_done()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DRAIN_SECONDS
        while self._connections and loop.time() < deadline:
            await asyncio.sleep(0.01)
        if self._connections:
            _logger.warning("%d connections are cut, their clients have not finished", len(self._connections))
        for connection in tuple(self._connections):
            connection.abort()
        if self._tick_handle is not None:
            self._tick_handle.cancel()

    def admit(self, connection: Connection) -> bool:
        """Take on a new connection, unless there are too many."""
        if self._closing:
            return False
        if len(self._connections) >= MAX_CONNECTIONS:
            self.complain("connections", "", f"more than {MAX_CONNECTIONS} connections, closing new ones")
            return False
        self._connections.add(connection)
        self.accepted += 1
        return True

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    def clients(self) -> int:
        """How many have sent something since this was called last."""
        asking, self.asking = self.asking, 0
        self.count += 1
        return asking

    def leave(self, connection: Connection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)

    def complain(self, kind: str, peer: str, message: str) -> None:
        """Count, and log, that a client breaks the rules: ``kind`` is one of COMPLAINTS."""
        self.complaints[kind] += 1
        log_it, suppressed = self._bad_client.hit(kind)
        if log_it:
            more = f" ({suppressed} more such clients since the last line)" if suppressed else ""
            _logger.warning("%s%s%s", f"client {peer}: " if peer else "", message, more)

    def _tick(self) -> None:
        """Close what has been idle, or in the middle of a request, for too long."""
        loop = asyncio.get_running_loop()
        self.now = loop.time()
        self._tick_handle = loop.call_later(TICK_SECONDS, self._tick)
        for connection in tuple(self._connections):
            connection.check_time(self.now, self.idle_seconds)


class Connection(asyncio.Protocol):
    """One policy client, such as an smtpd process."""

    __slots__ = (
        "_answered",
        "_answers",
        "_count",
        "_decoder",
        "_ending",
        "_heard",
        "_partial_since",
        "_paused",
        "_peer",
        "_resuming",
        "_server",
        "_transport",
        "_unread",
    )

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._peer = ""
        self._decoder = Decoder()
        self._answers: list[_Answer] = []  # in the order of the requests; MAX_PIPELINED at the most
        self._answered: Request | None = None
        self._heard = server.now
        self._count = -1
        self._partial_since: float | None = None
        self._paused = False
        self._resuming = False
        self._unread = False
        self._ending = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        # uvloop's transports do not inherit from asyncio's.
        self._transport = transport = cast("asyncio.Transport", transport)
        if not self._server.admit(self):
            self.abort()
            return
        transport.set_write_buffer_limits(high=MAX_UNREAD)
        name = transport.get_extra_info("peername")
        self._peer = f"[{name[0]}]:{name[1]}" if isinstance(name, tuple) else "on the UNIX socket"

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone; what it has asked is decided all the same, and nobody gets the answer."""
        self._server.leave(self)
        self._transport = None
        if exc is not None:
            self._take_back_answered()
        self._give_up_answers()

    def data_received(self, data: bytes) -> None:
        """Some bytes have come."""
        if self._ending or self._transport is None:
            return
        server = self._server
        self._heard = server.now
        if self._count != server.count:
            self._count = server.count
            server.asking += 1
        self._answered = None  # whoever asks on has read it
        self._decoder.push(data)
        if not self._paused:
            self._take()

    def eof_received(self) -> bool:
        """The client sends nothing more; it may still wait for answers, but Postfix does not."""
        self._give_up_answers()
        if self._transport is not None and _was_reset(self._transport):
            self._take_back_answered()
        self.close_when_done()
        return True

    def pause_writing(self) -> None:
        """The client does not read its answers."""
        self._unread = True
        self._pause()

    def resume_writing(self) -> None:
        """The client has read its answers."""
        self._unread = False
        if self._paused:
            self._resume()

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
        if self._ending and not answers:
            transport.close()
        elif self._paused:
            self._resume()

    def check_time(self, now: float, idle_seconds: float) -> None:
        """Close the connection when it has been idle, or in the middle of a request, for too long."""
        if self._answers:
            # The client waits for us, and what it has sent since may not have been read.
            self._heard = now
            if self._partial_since is not None:
                self._partial_since = now
        elif self._partial_since is not None and now - self._partial_since >= PARTIAL_REQUEST_SECONDS:
            self._server.complain(
                "partial", self._peer, f"half a request and nothing more for {PARTIAL_REQUEST_SECONDS:g} s; closing"
            )
            self.abort()
        elif now - self._heard >= idle_seconds:
            # Closing takes as long as the client does not read its answers.
            self.abort() if self._unread or self._ending else self.close_when_done()

    def close_when_done(self) -> None:
        """Close the connection once all that was asked is answered."""
        self._ending = True
        self.flush()

    def abort(self) -> None:
        """Close the connection at once."""
        self._ending = True
        if self._transport is not None:
            self._transport.abort()

    def _give_up_answers(self) -> None:
        """Whoever has not got an answer by now asks again, over another connection."""
        for answer in self._answers:
            if answer.request is not None:
                self._server.service.unanswered(answer.request)
                answer.request = None

    def _take_back_answered(self) -> None:
        """The connection was reset: its client has closed it without reading the last answer."""
        if self._answered is not None:
            self._server.service.unanswered(self._answered)
            self._answered = None

    def _take(self) -> None:
        """Ask what has come; read on once that is done, and when not too much of it waits for an answer."""
        for _ in range(MAX_PIPELINED):
            if self._ending or self._unread or len(self._answers) >= MAX_PIPELINED:
                break
            try:
                request = self._decoder.next_request()
            except ProtocolError as error:
                self._server.complain("protocol", self._peer, f"{error}; closing the connection")
                self.close_when_done()
                return
            if request is None:
                if self._partial_since is None or not self._decoder.partial:
                    self._partial_since = self._server.now if self._decoder.partial else None
                self._read_on()
                return
            self._partial_since = None
            answer = _Answer(self, request)
            self._answers.append(answer)
            self._server.service.ask(request, answer)
        self._pause()

    def _pause(self) -> None:
        """Read nothing more for now; who sends much at once lets the others have their turn."""
        if self._transport is not None and not self._ending:
            if not self._paused:
                self._paused = True
                self._transport.pause_reading()
            self._resume()

    def _read_on(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def _resume(self) -> None:
        """Go on with what has come, in the next turn of the event loop, if there is room for answers."""
        if not self._resuming and not self._unread and len(self._answers) <= MAX_PIPELINED // 2:
            self._resuming = True
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._resuming = False
        if not self._ending and self._transport is not None:
            self._take()


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
        if action is None:
            self._connection.abort()
            return
        self.data = encode(action)
        self._connection.flush()
