"""The metrics and the state of health by HTTP, for the host's own monitoring.

In a thread with an event loop of its own: it answers when the daemon's is stuck, and that one never waits for it.
It speaks as little HTTP as a scraper needs, within bounds: who may connect is for ``metrics_address`` to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.exposition import choose_encoder

from policyd_rate_limit.sharing import Shares
from policyd_rate_limit.system.peers import peer_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from prometheus_client.registry import CollectorRegistry

    from policyd_rate_limit.observe.health import Health
    from policyd_rate_limit.sharing import Sharer

MOST_CONNECTIONS = 32
"""At once; beyond that the one that has been silent for longest is closed, of the peer with most of them."""

MOST_BYTES = 8_192
"""Of a request."""

REQUEST_SECONDS = 5.0
"""In which a request has to come, and its answer to be read."""

STOP_SECONDS = 2.0

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
"""The Accept field by which the library chooses OpenMetrics."""

_WEIGHT = re.compile(r"q=((?:0(?:\.[0-9]{0,3})?)|(?:1(?:\.0{0,3})?))")  # RFC 9110, section 12.4.2

_logger = logging.getLogger(__name__)


class _Response(NamedTuple):
    status: str
    body: bytes
    kind: str = "text/plain; charset=utf-8"


LAST_TURNS = 8
"""Turns of the event loop at the end: who was just accepted appears, and transports let go of their sockets."""


class _Connection:
    """A place of one that asks: :class:`policyd_rate_limit.sharing.Sharer`."""

    def __init__(self, shares: Shares, name: str, transport: asyncio.WriteTransport, heard: float) -> None:
        self.name = name
        self.heard = heard
        self.held = 0
        self.waits = False  # its request has come
        self._transport = transport
        self._shares = shares
        self._peer = shares.join(name, self)

    def take_turn(self) -> bool:
        """Nobody here has to wait for a turn."""
        return False

    def abort(self) -> None:
        self._shares.leave(self._peer, self)
        self._transport.abort()


class Exporter:
    """Answers ``GET /metrics`` from ``registry`` and ``GET /healthz`` from ``health`` on ``listener``, which listens.

    ``health`` is asked in the exporter's thread.
    """

    def __init__(self, listener: socket.socket, registry: CollectorRegistry, health: Callable[[], Health]) -> None:
        self._listener = listener
        self._registry = registry
        self._health = health
        self._connections: set[Sharer] = set()
        self._shares = Shares()
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._loop = self._runner.get_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the thread; answers that are not read are cut."""
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        try:
            with self._runner:
                self._runner.run(self._serve())
        except Exception:
            _logger.exception("metrics are no longer served")

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._talk, sock=self._listener, limit=MOST_BYTES)
        await self._end.wait()
        server.close()
        for _ in range(LAST_TURNS):
            for connection in tuple(self._connections):
                connection.abort()
            await asyncio.sleep(0)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            peer = peer_of(writer.get_extra_info("socket"))
        except (OSError, ValueError):  # it has gone
            writer.transport.abort()
            return
        now = self._loop.time()
        if len(self._connections) >= MOST_CONNECTIONS:
            found = self._shares.replaceable(peer, now)
            if found is None:
                writer.transport.abort()
                return
            _, silent = found
            silent.abort()
            self._connections.discard(silent)
        connection = _Connection(self._shares, peer, writer.transport, now)
        self._connections.add(connection)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self._answer(reader, writer, connection)
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # whoever asks and goes away is nobody's problem
        except Exception:
            _logger.exception("a request for metrics failed")
        finally:
            self._connections.discard(connection)
            connection.abort()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: _Connection
    ) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            connection.waits = True
        except asyncio.LimitOverrunError:
            response, method = _Response("431 Request Header Fields Too Large", b"too long\n"), ""
        else:
            response, method = self._respond(head)
        writer.write(
            f"HTTP/1.1 {response.status}\r\nContent-Type: {response.kind}\r\n"
            f"Content-Length: {len(response.body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n".encode()
        )
        if method != "HEAD":
            writer.write(response.body)
        await writer.drain()

    def _respond(self, head: str) -> tuple[_Response, str]:
        """The response to a request, and its method."""
        request, *fields = head.split("\r\n")
        words = request.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _Response("400 Bad Request", b"this is no HTTP/1.1\n"), ""
        method, target, _ = words
        if method not in ("GET", "HEAD"):
            return _Response("405 Method Not Allowed", b"GET or HEAD\n"), method
        match target.partition("?")[0]:
            case "/metrics":
                encode, kind = choose_encoder(OPENMETRICS if _wants_openmetrics(_field(fields, "accept")) else "")
                return _Response("200 OK", encode(self._registry), kind), method
            case "/healthz":
                health = self._health()
                status = "200 OK" if health.ok else "503 Service Unavailable"
                return _Response(status, f"{health.text}\n".encode()), method
            case _:
                return _Response("404 Not Found", b"there are /metrics and /healthz\n"), method


def _wants_openmetrics(accept: str) -> bool:
    """Whether ``accept`` (RFC 9110, section 12.5.1) prefers OpenMetrics to Prometheus' text.

    Nothing else of it matters, such as versions: what a client makes up is not for a library to choke on.
    """
    best = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for one in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in one.split(";"))
        if kind in best:
            weights = [float(found[1]) for parameter in parameters if (found := _WEIGHT.fullmatch(parameter))]
            best[kind] = max(best[kind], weights[0] if weights else 1.0)
    return best["application/openmetrics-text"] > 0 and best["application/openmetrics-text"] >= best["text/plain"]


def _field(fields: list[str], name: str) -> str:
    for field in fields:
        key, _, value = field.partition(":")
        if key.strip().lower() == name:
            return value.strip()
    return ""
