"""Connections to Redis or Valkey: to one server, to the master that Sentinels name, or to the masters of a Cluster.

redis-py makes the connections, and logs in. Its clients are not used: those try again by themselves, each time for as
long as the timeout, and do not tell a command that was refused from one of which nobody knows whether it was carried
out. Nor do they send a command before the one before it is answered.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import inspect
import math
import select
import time
from collections import deque
from pathlib import Path
from ssl import SSLWantReadError, SSLWantWriteError
from typing import TYPE_CHECKING, Any, NamedTuple

from policyd_rate_limit.errors import ConfigError, Problem, StoreError
from policyd_rate_limit.storage.sql_log import check_options, missing_driver

try:
    import hiredis
    from redis import connection as _connection
    from redis import exceptions as errors
    from redis.backoff import NoBackoff
    from redis.crc import key_slot
    from redis.retry import Retry
except ImportError as error:
    raise missing_driver("Redis and Valkey", "redis", error) from error

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Argument = bytes | str | int

driver: Any = _connection  # whose types are incomplete
_line: Any = hiredis.pack_command  # whose types are wrong

SCRIPT = Path(__file__).with_name("redis_decide.lua").read_bytes()
SCRIPT_SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()  # by which the server knows it

DEFAULT_URL = "redis://localhost:6379/0"
DEFAULT_PORT = 6379
SLOTS = 16_384  # of a Cluster
MOST_SEEDS = 1_000  # addresses of a Cluster's nodes that are remembered
LONGEST_MESSAGE = 200  # characters of a server's error
READ_BYTES = 65_536  # at once

# After these nothing of a script has been done; after others its first demands may have been.
_BEFORE_ANYTHING = frozenset(
    {"ASK", "BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "MOVED"}
    | {"NOPERM", "NOREPLICAS", "NOSCRIPT", "OOM", "READONLY", "TRYAGAIN"}
)
_NOT_NOW = (BlockingIOError, SSLWantReadError, SSLWantWriteError)
_NOTHING = object()  # what has no end yet is no reply
_OURS = frozenset({"url", "cluster", "nodes", "prefix", "sentinels", "service_name", "sentinel_options"})


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
    """

    __slots__ = ("arguments", "asks", "failure", "key", "node", "open", "reply")

    def __init__(self, key: bytes | None, *arguments: Argument) -> None:
        self.key = key
        self.arguments = arguments
        self.reply: Any = None
        self.failure: NodeError | None = None
        self.open = False
        self.node: Node | None = None  # to which it was sent last
        self.asks: Address | None = None  # whom to ask this once, while a Cluster moves a slot


def script(keys: Sequence[bytes], arguments: Iterable[Argument]) -> Command:
    """A call of the script with ``keys``, which are of one slot, and ``arguments``."""
    return Command(keys[0], "EVALSHA", SCRIPT_SHA, len(keys), *keys, *arguments)


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
            if not _wait_for([self], end):
                self.give_up()
            self.go_on()

    def go_on(self) -> None:
        """Send and take what can be sent and taken by now."""
        if not self.broken:
            self._flush()
            self.take()

    def give_up(self) -> None:
        """No answer has come in time: what is still under way has failed."""
        self._break(NodeError(f"Redis {self.address}: no answer in time", Remedy.RECONNECT))

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


class Session:
    """Connections to all servers in use; ``slots`` are the addresses of a Cluster's masters, by slot.

    ``warnings``: what the operator should know of the servers. ``descriptors``: of all sockets.
    """

    def __init__(self, nodes: Sequence[Node], slots: list[Address] | None, warnings: Sequence[str]) -> None:
        self.warnings = warnings
        self.descriptors = [node.descriptor for node in nodes]
        self._nodes = {node.address: node for node in nodes}
        self._first = nodes[0]
        self._slots = slots
        self._is_stale = False

    @property
    def nodes(self) -> list[Node]:
        """The connections to all masters."""
        return list(self._nodes.values())

    @property
    def is_broken(self) -> bool:
        """Whether it is of no more use."""
        return self._is_stale or any(node.broken for node in self._nodes.values())

    @property
    def is_sending(self) -> bool:
        """Whether something is still to be sent, which :meth:`receive` does."""
        return any(node.is_sending for node in self._nodes.values())

    def exchange(self, commands: Sequence[Command], end: float) -> NodeError | None:
        """:meth:`send` and :meth:`receive`."""
        self.send(commands)
        return self.receive(commands, end)

    def send(self, commands: Sequence[Command]) -> None:
        """Send ``commands``, each to where it belongs, without waiting."""
        for node, share in self._shares(commands):
            try:
                node.send(share)
            except NodeError as failure:
                for command in share:
                    command.failure = failure

    def take(self) -> None:
        """Take what the servers have said by now."""
        for node in self._nodes.values():
            if not node.broken:
                node.take()

    def receive(self, commands: Sequence[Command], end: float) -> NodeError | None:
        """Take the replies to ``commands``, which were sent, until ``end`` (of the monotonic clock).

        :returns: the worst of what went wrong; None when all have a reply.
        """
        # No node waits for another one's answers.
        while nodes := {
            command.node
            for command in commands
            if command.reply is None and command.failure is None and command.node is not None
        }:
            ready = _wait_for(nodes, end)
            if not ready:
                for node in nodes:
                    node.give_up()
            for node in ready:
                node.go_on()
        failures: list[NodeError] = []
        for command in commands:
            if command.failure is not None:
                self._judge(command, command.failure)
                failures.append(command.failure)
        for node in {c.node for c in commands if c.node and c.failure and c.failure.code == "NOSCRIPT"}:
            try:
                node.load_script()
            except NodeError as failure:
                self._is_stale = True
                failures.append(failure)
        return max(failures, key=lambda failure: failure.remedy, default=None)

    def close(self) -> None:
        """Close all connections. Never raises."""
        for node in self._nodes.values():
            node.close()

    def _shares(self, commands: Sequence[Command]) -> Iterable[tuple[Node, Sequence[Command]]]:
        """``commands`` by node; those for a server that there is no connection to have failed."""
        if self._slots is None:
            return [(self._first, commands)]
        shares: dict[Address, list[Command]] = {}
        for command in commands:
            address = command.asks
            if address is None:
                address = self._first.address if command.key is None else self._slots[slot_of(command.key)]
            shares.setdefault(address, []).append(command)
        for address in shares.keys() - self._nodes.keys():
            self._is_stale = True
            for command in shares.pop(address):
                command.asks = None
                command.failure = NodeError(f"Redis {address}: no connection", Remedy.RECONNECT)
        return [(self._nodes[address], share) for address, share in shares.items()]

    def _judge(self, command: Command, failure: NodeError) -> None:
        """Say what helps after a node has refused ``command``."""
        if command.node is None or not failure.code:
            return
        if failure.code in ("MOVED", "ASK") and self._slots is not None:
            slot, where = failure.rest.split()
            host, port = where.rsplit(":", 1)
            address = Address(host or command.node.address.host, int(port))
            failure.remedy = Remedy.REPEAT
            if failure.code == "ASK":
                command.asks = address
            else:
                self._slots[int(slot)] = address
        elif failure.code in ("NOSCRIPT", "BUSY", "LOADING", "TRYAGAIN", "CLUSTERDOWN"):
            failure.remedy = Remedy.REPEAT
        # In a script, older servers put it behind words of their own.
        elif failure.code in ("READONLY", "MASTERDOWN") or "-READONLY " in failure.rest:
            failure.remedy = Remedy.RECONNECT
            self._is_stale = True


class Servers:
    """How to reach the servers of ``redis_config``; ``timeout`` (seconds) bounds each connect, write and read.

    :raises ConfigError: something in ``config`` is wrong; none of its values is told.
    """

    def __init__(self, config: Mapping[str, Any], timeout: float) -> None:
        options = {name: value for name, value in config.items() if name not in _OURS}
        try:
            options = {**driver.parse_url(config.get("url") or DEFAULT_URL), **options}
        except (ValueError, AttributeError):
            # Not told what: where a password holds a / or a #, its rest is taken for a port, or for a path.
            raise _wrong("url", f"a url such as {DEFAULT_URL}, special characters of a password as in %23") from None
        self._class = options.pop("connection_class", driver.Connection)
        check_options("redis_config", "redis-py's connections", options, _known(self._class))
        if self._class is driver.SSLConnection and str(options.get("ssl_cert_reqs")) != "none":
            options.setdefault("ssl_check_hostname", True)  # which older versions of redis-py leave out
        self._path = str(options.pop("path", ""))
        self._home = _address("url", (options.pop("host", "localhost"), options.pop("port", DEFAULT_PORT)))
        self._options = {
            **options,
            "protocol": 2,
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": Retry(NoBackoff(), 0),
        }
        self._timeout = timeout
        self._sentinels = _addresses(config, "sentinels")
        self._service = config.get("service_name")
        if bool(self._sentinels) != isinstance(self._service, str):
            raise _wrong("service_name", "the name of the master that the sentinels watch, and sentinels")
        login = dict.fromkeys(("username", "password"))
        self._sentinel_options = {**self._options, "db": 0, **login, **(config.get("sentinel_options") or {})}
        self._cluster = bool(config.get("cluster"))
        if self._cluster and (self._sentinels or self._path or self._options.get("db")):
            raise _wrong("cluster", "no sentinels, no UNIX socket and no db but 0 beside cluster: true")
        self._seeds = [self._home, *_addresses(config, "nodes")]
        self._inspected = False

    def connect(self) -> Session:
        """New connections to all that are needed; this may take several times the timeout.

        :raises NodeError: there is no way to them.
        """
        with contextlib.ExitStack() as opened:

            def connected(address: Address) -> Node:
                node = self._open(address)
                opened.callback(node.close)
                node.load_script()
                return node

            slots = None
            if self._cluster:
                slots = self._masters_by_slot()
                nodes = [connected(address) for address in dict.fromkeys(slots)]
            elif self._sentinels:
                nodes = [connected(self._master())]
                if _text(nodes[0].ask("ROLE")[0]) != "master":
                    raise NodeError(f"Redis {nodes[0].address} is no master yet", Remedy.RECONNECT)
            else:
                nodes = [connected(self._home)]
            warnings: list[str] = []
            if not self._inspected:
                for node in nodes:
                    warnings += _risks(node)
                self._inspected = True
            opened.pop_all()
            return Session(nodes, slots, warnings)

    def _open(self, address: Address, options: Mapping[str, Any] | None = None) -> Node:
        options = self._options if options is None else options
        if self._path:
            return Node(Address(self._path, 0), self._class(path=self._path, **options), self._timeout)
        return Node(address, self._class(host=address.host, port=address.port, **options), self._timeout)

    def _master(self) -> Address:
        """The master's address, as the first Sentinel says that knows it."""
        failure = NodeError(f"no Sentinel knows a master called {self._service}", Remedy.RECONNECT)
        for address in self._sentinels:
            try:
                with contextlib.closing(self._open(address, self._sentinel_options)) as sentinel:
                    found = sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", str(self._service))
            except NodeError as error:
                failure = NodeError(f"Sentinel: {error}", Remedy.RECONNECT)
            else:
                if found:
                    return Address(_text(found[0]), int(found[1]))
        raise failure

    def _masters_by_slot(self) -> list[Address]:
        """The address of each slot's master, as the first node of the Cluster says that answers."""
        failure = NodeError("no node of the Cluster is known", Remedy.RECONNECT)
        for seed in self._seeds:
            try:
                with contextlib.closing(self._open(seed)) as node:
                    ranges = node.ask("CLUSTER", "SLOTS")
            except NodeError as error:
                failure = error
                continue
            slots: list[Address | None] = [None] * SLOTS
            for first, last, (host, port, *_), *_ in ranges:
                # A node that does not know its own address leaves it out.
                slots[first : last + 1] = [Address(_text(host or b"") or seed.host, port)] * (last + 1 - first)
            masters = [address for address in slots if address is not None]
            if len(masters) == SLOTS:
                self._seeds = list(dict.fromkeys([*self._seeds[:MOST_SEEDS], *masters]))
                return masters
            failure = NodeError(f"Redis {seed}: its Cluster does not serve all slots", Remedy.RECONNECT)
        raise failure


def _wait_for(nodes: Iterable[Node], end: float) -> list[Node]:
    """Those of ``nodes`` that have something to be read, or where sending goes on, as soon as one has; none: too late.

    ``end`` is by the monotonic clock.
    """
    by_descriptor = {node.descriptor: node for node in nodes}
    poll = select.poll()  # select() knows no descriptors beyond 1023
    for descriptor, node in by_descriptor.items():
        poll.register(descriptor, select.POLLIN | (select.POLLOUT if node.is_sending else 0))
    left = max(end - time.monotonic(), 0.0)
    return [by_descriptor[descriptor] for descriptor, _ in poll.poll(math.ceil(left * 1000))]


def _risks(node: Node) -> list[str]:
    """What the settings of ``node`` put at risk; one that does not tell them is trusted."""
    settings: dict[str, str] = {}
    for name in ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy"):
        with contextlib.suppress(NodeError):
            settings.update(_pairs(node.ask("CONFIG", "GET", name)))
    risks = []
    if settings.get("appendonly", "yes") != "yes":
        risks.append("appendonly is off: counts may be lost when it restarts")
    elif settings.get("appendfsync", "always") != "always":
        risks.append(f"appendfsync is {settings['appendfsync']}: the last counts may be lost when its machine fails")
    policy = settings.get("maxmemory-policy", "noeviction")
    if settings.get("maxmemory", "0") != "0" and policy != "noeviction":
        risks.append(f"maxmemory-policy is {policy}: counts may be lost when its memory is full")
    return [f"Redis {node.address}: {risk}" for risk in risks]


def slot_of(key: bytes) -> int:
    """The slot of a Cluster that ``key`` belongs to."""
    return key_slot(key)


def _known(connection: Any) -> set[str]:
    """The options that lead to ``connection`` and say how to log in."""
    known = {"db", "username", "password", "client_name"}
    if connection is driver.UnixDomainSocketConnection:
        return known | {"path"}
    known |= {"host", "port", "socket_keepalive"}
    if connection is driver.SSLConnection:
        known |= {name for name in inspect.signature(connection.__init__).parameters if name.startswith("ssl_")}
    return known


def _addresses(config: Mapping[str, Any], name: str) -> list[Address]:
    value = config.get(name) or []
    if not isinstance(value, list | tuple):
        raise _wrong(name, "a list of [host, port]")
    return [_address(name, item) for item in value]


def _address(name: str, value: Any) -> Address:
    try:
        host, port = value
        return Address(str(host), int(port))
    except (TypeError, ValueError):
        raise _wrong(name, "[host, port]") from None


def _wrong(name: str, expected: str) -> ConfigError:
    return ConfigError([Problem("configuration", 0, f"redis_config.{name}", expected, "a value that is not shown")])


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _pairs(reply: Any) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in zip(reply[::2], reply[1::2], strict=True)}


def _code(error: Exception) -> tuple[str, str]:
    """The first word of what the server answered, and the rest."""
    code, _, rest = str(error).partition(" ")
    return code, rest


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}..."
