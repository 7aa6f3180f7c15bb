"""The metrics and the state of health of one daemon, served on one socket."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector

from policyd_rate_limit.observe.collector import DaemonCollector
from policyd_rate_limit.observe.exporter import Exporter
from policyd_rate_limit.observe.health import Health, health
from policyd_rate_limit.observe.metrics import Metrics

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from policyd_rate_limit.observe.collector import Connections, Engine, Windows, Worker


class Monitoring:
    """Serves on ``listener``, which listens, what the parts of the daemon have counted.

    ``windows`` gives the windows of the moment. ``dropped``: how many lines the log has dropped. ``metrics`` is for
    whoever is told of decisions to count with.
    """

    def __init__(
        self,
        listener: socket.socket,
        *,
        backend: str,
        windows: Callable[[], Windows],
        dropped: Callable[[], int],
    ) -> None:
        self.metrics = Metrics()
        self._listener = listener
        self._backend = backend
        self._windows = windows
        self._dropped = dropped
        self._exporter: Exporter | None = None

    def start(
        self,
        connections: Connections,
        worker: Worker,
        engine: Engine,
        *,
        most_connections: int,
        alive: Callable[[], bool],
    ) -> None:
        """Serve; ``connections`` are accepted by now. ``alive``: whether the store thread makes progress."""
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(
            DaemonCollector(
                self.metrics,
                backend=self._backend,
                connections=connections,
                most_connections=most_connections,
                worker=worker,
                engine=engine,
                windows=self._windows,
                dropped=self._dropped,
                monotonic=monotonic,
            )
        )

        def is_well() -> Health:
            return health(monotonic(), loop_turned=connections.now, store_alive=alive(), away_since=engine.away_since)

        self._exporter = Exporter(self._listener, registry, is_well)
        self._exporter.start()

    def stop(self) -> None:
        """Serve no longer; blocks for a moment."""
        if self._exporter is not None:
            self._exporter.stop()
