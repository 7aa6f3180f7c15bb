"""How servers of Redis or Valkey are found: one, the master that Sentinels name, or the masters of a Cluster."""

from __future__ import annotations

import contextlib
import inspect
from typing import TYPE_CHECKING, Any

from policyd_rate_limit.errors import ConfigError, Problem
from policyd_rate_limit.storage.drivers import check_options, missing_driver
from policyd_rate_limit.storage.redis.node import Address, Node, NodeError, Remedy
from policyd_rate_limit.storage.redis.session import Session

try:
    from redis import connection as _connection
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError as error:
    raise missing_driver("Redis and Valkey", "redis", error) from error

if TYPE_CHECKING:
    from collections.abc import Mapping

driver: Any = _connection  # whose types are incomplete

DEFAULT_URL = "redis://localhost:6379/0"
DEFAULT_PORT = 6379
SLOTS = 16_384  # of a Cluster
MOST_SEEDS = 1_000  # addresses of a Cluster's nodes that are remembered

_OURS = frozenset({"url", "cluster", "nodes", "prefix", "sentinels", "service_name", "sentinel_options"})


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
