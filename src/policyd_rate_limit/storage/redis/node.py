"""A connection to one server, Redis or Valkey: what is said over it, and what comes of it.

redis-py makes the connections, and logs in. Its clients are not used: those try again by themselves, each time for as
long as the timeout, and do not tell a command that was refused from one of which nobody knows whether it was carried
out. Nor do they send a command before the one before it is answered.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import math
import select
import time
from collections import deque
from ssl import SSLWantReadError, SSLWantWriteError
from typing import TYPE_CHECKING, Any, NamedTuple

from policyd_rate_limit.errors import StoreError
from policyd_rate_limit.storage.drivers import missing_driver
from policyd_rate_limit.storage.redis.source import source

try:
    import hiredis
    from redis import exceptions as errors
    from redis.crc import key_slot
except ImportError as error:
    raise missing_driver("Redis and Valkey", "redis", error) from error

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Argument = bytes | str | int

_line: Any = hiredis.pack_command  # whose types are wrong

SCRIPT = source()
SCRIPT_SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()  # by which the server knows it

LONGEST_MESSAGE = 200  # characters of a server's error
READ_BYTES = 65_536  # at once

# After these nothing of a script has been done; after others its first demands may have been.
_BEFORE_ANYTHING = frozenset(
    {"ASK", "BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "MOVED"}
    | {"NOPERM", "NOREPLICAS", "NOSCRIPT", "OOM", "READONLY", "TRYAGAIN"}
)
# What a server says to everybody, whatever they ask for; older ones put it behind words of their own.
_OF_SERVER = frozenset(
    {"ASK", "BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "MOVED", "NOAUTH"}
    | {"NOREPLICAS", "NOSCRIPT", "OOM", "READONLY", "TRYAGAIN", "WRONGPASS"}
)
_NOT_NOW = (BlockingIOError, SSLWantReadError, SSLWantWriteError)
_NOTHING = object()  # what has no end yet is no reply


class Remedy(enum.IntEnum):
    """What may help after a failure, the least first."""

    REPEAT = 1  # on the same connections
    RECONNECT = 2
    NONE = 3  # within the time of one batch


class NodeError(StoreError):
    """A server does not do what it was asked."""

    def __init__(self, message: str, remedy: Remedy, code: str = "", rest: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy
        self.code = code  # the first word of what the server has answered, and the others
        self.rest = rest

    def or_cause(self, before: NodeError | None) -> NodeError:
        """What tells more: this, or the failure of the try ``before``, where the deadline has cut this one short."""
        return self if before is None or not isinstance(self, DeadlineExceeded) else before

    @property
    def may_be_of_keys(self) -> bool:
        """Whether a command with other keys may well be carried out: a key may be of another type, for instance."""
        return (
            bool(self.code) and self.code not in _OF_SERVER and not any(f"-{code} " in self.rest for code in _OF_SERVER)
        )


class DeadlineExceeded(NodeError):
    """The time for the batch is over: this says little about the server, the failure of the try before says more."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Remedy.RECONNECT)


class Address(NamedTuple):
    """Of one server; a UNIX socket has its path as the host."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host


class Command:
    """One command; ``key`` says which node of a Cluster it is for, None for any.

    ``reply`` stays None until there is one; ``failure`` is why there will be none, as long as it is not sent again.
    ``open``: it was sent, and nobody knows whether it was carried out.
    ``may_be_refused``: that its keys are refused is an answer as well, and no failure of the server.
    """

    __slots__ = ("arguments", "asks", "failure", "key", "may_be_refused", "node", "open", "reply")

    def __init__(self, key: bytes | None, *arguments: Argument) -> None:
        self.key = key
        self.arguments = arguments
        self.reply: Any = None
        self.failure: NodeError | None = None
        self.open = False
        self.may_be_refused = False
        self.node: Node | None = None  # to which it was sent last
        self.asks: Address | None = None  # whom to ask this once, while a Cluster moves a slot

    @property
    def is_refused(self) -> bool:
        """Whether the server has refused it for its keys, as it seems."""
        return self.may_be_refused and self.failure is not None and self.failure.may_be_of_keys


def script(keys: Sequence[bytes], arguments: Iterable[Argument]) -> Command:
    """A call of the script with ``keys``, which are of one slot, and ``arguments``."""
    return Command(keys[0], "EVALSHA", SCRIPT_SHA, len(keys), *keys, *arguments)


def refusable(command: Command) -> Command:
    """``command``, with ``may_be_refused``."""
    command.may_be_refused = True
    return command


def slot_of(key: bytes) -> int:
    """The slot of a Cluster that ``key`` belongs to."""
    return key_slot(key)


class Node:
    """A connection to one server, which answers in the order in which it is asked.

    Commands may be sent before those before them are answered. The socket does not block: what takes time is in
    :meth:`wait` alone. redis-py has made the connection and logged in.

    :raises NodeError: from every method.
    """

    def __init__(self, address: Address, connection: Any, timeout: float) -> None:
        self.address = address
        self.broken: NodeError | None = None
        self._connection = connection
        self._timeout = timeout
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._sent: deque[Command | None] = deque()  # what has no reply yet, None: ASKING
        self._unsent = b""
        try:
            connection.connect()
            # redis-py has no public way to it, and its own methods that read and write wait.
            self._socket = connection._sock
            self._socket.setblocking(False)
        except (errors.RedisError, OSError) as error:
            raise self._failure(error) from error
        self.descriptor = int(self._socket.fileno())
        self._undecrypted = getattr(self._socket, "pending", None)

    @property
    def is_sending(self) -> bool:
        """Whether something is still to be sent."""
        return bool(self._unsent)

    def ask(self, *arguments: Argument) -> Any:
        """The reply to one command, waited for."""
        command = Command(None, *arguments)
        self.send((command,))
        self.wait((command,), time.monotonic() + self._timeout)
        if command.failure is not None:
            command.failure.remedy = Remedy.RECONNECT
            raise command.failure
        return command.reply

    def send(self, commands: Sequence[Command]) -> None:
        """Send ``commands`` as far as that can be done without waiting: :meth:`wait` sends the rest."""
        if not self._sent:
            # Nobody says anything unasked, but goodbye: better not to send what would then be unknown.
            self.take()
        if self.broken:
            raise self.broken
        lines = [self._unsent] if self._unsent else []
        for command in commands:
            if command.asks:
                lines.append(_line(("ASKING",)))
                self._sent.append(None)
            lines.append(_line(command.arguments))
            command.open = True
            command.failure = None
            command.node = self
            self._sent.append(command)
        self._unsent = b"".join(lines)
        self._flush()

    def take(self) -> None:
        """Take what the server has said by now. What it refused has a failure then; if it hung up, all has."""
        reader = self._reader
        try:
            more = True
            while more:
                data = self._socket.recv(READ_BYTES)
                if not data:
                    self._break(NodeError(f"Redis {self.address}: connection closed by the server", Remedy.RECONNECT))
                    return
                reader.feed(data)
                # TLS may have read more from the socket than it has told.
                more = bool(self._undecrypted and self._undecrypted())
        except _NOT_NOW:
            pass
        except OSError as error:
            self._break(self._failure(error))
            return
        try:
            while self._sent and (reply := reader.gets()) is not _NOTHING:
                command = self._sent.popleft()
                if command is None:
                    continue
                command.asks = None
                if isinstance(reply, hiredis.ReplyError):
                    code, rest = _code(reply)
                    command.failure = NodeError(f"Redis {self.address}: {_one_line(reply)}", Remedy.NONE, code, rest)
                    command.open = code not in _BEFORE_ANYTHING
                else:
                    command.reply = reply
                    command.open = False
        except hiredis.ProtocolError as error:
            self._break(self._failure(error))

    def wait(self, commands: Sequence[Command], end: float) -> None:
        """Wait until each of ``commands``, which were sent, has a reply or a failure, until ``end``."""
        while any(command.reply is None and command.failure is None for command in commands):
            if not wait_for([self], end):
                self.give_up()
            self.go_on()

    def go_on(self) -> None:
        """Send and take what can be sent and taken by now."""
        if not self.broken:
            self._flush()
            self.take()

    def give_up(self) -> None:
        """No answer has come in time: what is still in flight has failed."""
        self._break(DeadlineExceeded(f"Redis {self.address}: no answer in time"))

    def load_script(self) -> None:
        """Have the server keep the script, unless it does."""
        # To be asked for a password first: without one, so long a command is a "protocol error".
        if self.ask("SCRIPT", "EXISTS", SCRIPT_SHA) == [0]:
            self.ask("SCRIPT", "LOAD", SCRIPT)

    def close(self) -> None:
        """Close the connection. Never raises."""
        self._break(NodeError(f"Redis {self.address}: connection closed", Remedy.RECONNECT))
        with contextlib.suppress(errors.RedisError, OSError):
            self._connection.disconnect()

    def _flush(self) -> None:
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except _NOT_NOW:
                return
            except OSError as error:
                self._break(self._failure(error))
                return
            self._unsent = self._unsent[sent:]

    def _break(self, failure: NodeError) -> None:
        self.broken = self.broken or failure
        self._unsent = b""
        for command in self._sent:
            if command is not None:
                command.failure = failure
        self._sent.clear()

    def _failure(self, error: Exception) -> NodeError:
        return NodeError(f"Redis {self.address}: {_one_line(error)}", Remedy.RECONNECT)


def wait_for(nodes: Iterable[Node], end: float) -> list[Node]:
    """Those of ``nodes`` that have something to be read, or where sending goes on, as soon as one has; none: too late.

    ``end`` is by the monotonic clock.
    """
    by_descriptor = {node.descriptor: node for node in nodes}
    poll = select.poll()  # select() knows no descriptors beyond 1023
    for descriptor, node in by_descriptor.items():
        poll.register(descriptor, select.POLLIN | (select.POLLOUT if node.is_sending else 0))
    left = max(end - time.monotonic(), 0.0)
    return [by_descriptor[descriptor] for descriptor, _ in poll.poll(math.ceil(left * 1000))]


def _code(error: Exception) -> tuple[str, str]:
    """The first word of what the server answered, and the rest."""
    code, _, rest = str(error).partition(" ")
    return code, rest


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}..."
