"""One connection of a client: its requests are asked in order, and answered in order."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Final, cast

from policyd_rate_limit.errors import ProtocolError
from policyd_rate_limit.protocol.codec import Decoder, encode
from policyd_rate_limit.server.flow import FlowControl
from policyd_rate_limit.service import Asking

if TYPE_CHECKING:
    from policyd_rate_limit.domain.outcome import Outcome
    from policyd_rate_limit.domain.request import Request
    from policyd_rate_limit.server.connections import Connections
    from policyd_rate_limit.sharing import Peer

MAX_PIPELINED: Final = 64  # requests of one connection without an answer; Postfix sends one at a time
PARTIAL_REQUEST_SECONDS: Final = 30.0  # for a request to arrive once it has begun; Postfix sends it in one write

# What becomes of a connection, in this order.
OPEN: Final = 0
CLOSING: Final = 1  # nothing more is read; it is closed once all that has come is answered
LEFT: Final = 2  # likewise, and the client has gone first: nobody waits for the answers

# What has come and is not asked yet.
NOTHING: Final = 0  # or no whole request
QUEUED: Final = 1  # it waits for its turn
BLOCKED: Final = 2  # too much is without an answer, or not read by the client

_logger = logging.getLogger(__name__)


class Connection(asyncio.BufferedProtocol):
    """One policy client of ``peer``, such as an smtpd process; a :class:`policyd_rate_limit.sharing.Sharer`."""

    __slots__ = (
        "_answered",
        "_answers",
        "_backlog",
        "_count",
        "_decoder",
        "_flow",
        "_life",
        "_partial_since",
        "_transport",
        "connections",
        "heard",
        "held",
        "name",
        "peer",
    )

    def __init__(self, connections: Connections, peer: str) -> None:
        self.connections = connections
        self.name = peer  # for the log
        self.heard = connections.now
        self.held = 0
        self.peer: Peer = connections.shares.join(peer, self)
        self._transport: asyncio.Transport | None = None
        self._decoder = Decoder()
        self._answers: list[_Answer] = []  # in the order of the requests; MAX_PIPELINED at the most
        self._answered: Request | None = None
        self._count = -1
        self._partial_since: float | None = None
        self._flow = FlowControl()
        self._backlog = NOTHING
        self._life = OPEN

    @property
    def waits(self) -> bool:
        """Whether the client waits for an answer."""
        return bool(self._answers) or (self._backlog == QUEUED and self._partial_since is None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        # uvloop's transports do not inherit from asyncio's.
        self._transport = transport = cast("asyncio.Transport", transport)
        if self._life != OPEN:
            transport.abort()
            return
        self._flow.attach(transport)
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            self.name = f"[{name[0]}]:{name[1]}"

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone; what it has asked is decided all the same, and nobody gets the answer."""
        self._close(CLOSING)
        self._transport = None
        self._flow.detach()
        self.connections.leave(self)
        if exc is not None:
            self._take_back_answered()
        self._give_up_answers()

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where to put what has come. One place for all connections: nothing of it stays there."""
        return self.connections.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Some bytes have come."""
        if self._life != OPEN:
            return
        connections = self.connections
        self.heard = connections.now
        if self._count != connections.count:
            self._count = connections.count
            connections.asking += 1
        self._answered = None  # whoever asks on has read it
        self._decoder.push(bytes(connections.buffer[:nbytes]))
        if self._backlog != NOTHING:
            self._flow.pause_reading()
            self._account()
        elif connections.turns.take_at_once():
            self._take()
            if self._partial_since is not None:
                # The rest waits for its turn as well: many that send much and ask nothing are to hold up nobody.
                self._flow.pause_reading()
                self._queue(fresh=False)
        else:
            self._queue(fresh=True)
            self._account()

    def eof_received(self) -> bool:
        """The client sends nothing more; it may still wait for answers, but Postfix does not."""
        self._close(LEFT)
        self._give_up_answers()
        if self._transport is not None and _was_reset(self._transport):
            self._take_back_answered()
        self.close_when_done()
        return True

    def pause_writing(self) -> None:
        """The client does not read its answers."""
        self._flow.writing_paused = True

    def resume_writing(self) -> None:
        """The client has read its answers."""
        self._flow.writing_paused = False
        if self._backlog == BLOCKED:
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
        if self._backlog == BLOCKED:
            self._unblock()
        elif self._life != OPEN and not answers and self._backlog == NOTHING:
            transport.close()

    def check_time(self, now: float, idle_seconds: float) -> None:
        """Close the connection when it has been idle, or in the middle of a request, for too long."""
        if self.waits:
            # The client waits for us, and what it has sent since may not have been read.
            self.heard = now
            if self._partial_since is not None:
                self._partial_since = now
        elif self._partial_since is not None and now - self._partial_since >= PARTIAL_REQUEST_SECONDS:
            self.connections.complain(
                "partial", self.name, f"half a request and nothing more for {PARTIAL_REQUEST_SECONDS:g} s; closing"
            )
            self.abort()
        elif now - self.heard >= idle_seconds:
            # Closing takes as long as the client does not read its answers.
            self.abort() if self._flow.writing_paused or self._life != OPEN else self.close_when_done()

    def take_turn(self) -> bool:
        self._backlog = NOTHING
        asked = False
        if self._transport is not None:
            asked = self._take()
            if self._backlog == NOTHING:
                self._flow.resume_reading()
            if self._life != OPEN:
                self.flush()
        return asked

    def close_when_done(self) -> None:
        """Read nothing more, and close the connection once all that has come is answered."""
        self._close(CLOSING)
        self.flush()

    def abort(self) -> None:
        """Close the connection at once, and let go of all that it has."""
        self._close(CLOSING)
        self._drop_rest()
        self.connections.leave(self)
        if self._transport is not None:
            self._transport.abort()

    def _close(self, life: int) -> None:
        """Go on to ``life``, if it is not further already: there is no way back."""
        if self._life < life:
            self._life = life

    def _give_up_answers(self) -> None:
        """Whoever has not got an answer by now asks again, over another connection."""
        for answer in self._answers:
            if answer.request is not None:
                self.connections.service.unanswered(answer.request)
                answer.request = None

    def _take_back_answered(self) -> None:
        """The connection was reset: its client has closed it without reading the last answer."""
        if self._answered is not None:
            self.connections.service.unanswered(self._answered)
            self._answered = None

    def _take(self) -> bool:
        """Ask the next that has come, if it is whole; those behind it wait for their turns, whoever sends much at once.

        :returns: whether something was asked.
        """
        if self._flow.writing_paused or len(self._answers) >= MAX_PIPELINED:
            self._backlog = BLOCKED
            return False
        connections = self.connections
        decoder = self._decoder
        try:
            request = decoder.next_request()
        except ProtocolError as error:
            connections.complain("protocol", self.name, f"{error}; closing the connection")
            self._drop_rest()
            self.close_when_done()
            return False
        if request is None:
            if self._partial_since is None or not decoder.held:
                self._partial_since = connections.now if decoder.held else None
            self._account()
            return False
        self._partial_since = None
        answer = _Answer(self, request)
        self._answers.append(answer)
        if decoder.held:
            self._queue(fresh=False)
        connections.turns.in_flight += 1
        try:
            connections.service.ask(request, answer)
        except Exception:
            _logger.exception("a request of client %s failed", self.name)
            connections.turns.in_flight -= 1
            self.abort()
            return True
        if self._life == LEFT:
            self._give_up_answers()
        if self.held or decoder.held:
            self._account()
        return True

    def _queue(self, *, fresh: bool) -> None:
        self._backlog = QUEUED
        self.connections.turns.queue(self.peer, self, fresh=fresh)

    def _unblock(self) -> None:
        """Ask on, if there is room for answers."""
        if not self._flow.writing_paused and len(self._answers) <= MAX_PIPELINED // 2:
            self._queue(fresh=False)

    def _account(self) -> None:
        """Tell how much memory is needed for what has come."""
        connections = self.connections
        connections.shares.hold(self.peer, self, self._decoder.held)
        connections.relieve()

    def _drop_rest(self) -> None:
        """Ask nothing more."""
        self._decoder = Decoder()
        if self._backlog == BLOCKED:
            self._backlog = NOTHING
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

    def answer(self, outcome: Outcome) -> None:
        connection = self._connection
        connection.connections.turns.answered()
        if outcome.action is None:
            connection.abort()
            return
        self.data = encode(outcome.action)
        connection.flush()
