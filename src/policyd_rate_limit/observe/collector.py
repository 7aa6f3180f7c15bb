"""The metrics in Prometheus' terms, gathered when they are asked for. docs/monitoring.md tells what each is."""

from __future__ import annotations

import platform
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from policyd_rate_limit import __version__
from policyd_rate_limit.observe.metrics import SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from policyd_rate_limit.observe.metrics import Metrics

PREFIX = "policyd_rate_limit_"


class Connections(Protocol):
    """:class:`policyd_rate_limit.server.connections.Connections`, as far as they are watched.

    ``now``: their event loop has turned last.
    """

    now: float
    accepted: int
    complaints: dict[str, int]

    def __len__(self) -> int:
        """How many are open."""


class Worker(Protocol):
    """:class:`policyd_rate_limit.storage.engine.worker.Worker`, as far as it is counted."""

    batch_sizes: list[int]
    batched: int


class Engine(Protocol):
    """:class:`policyd_rate_limit.storage.engine.engine.Engine`, as far as it is counted."""

    away_since: float | None

    @property
    def waiting(self) -> int:
        """Batches that wait for the database."""

    @property
    def waiting_bytes(self) -> int:
        """What these take up."""

    @property
    def journal_bytes(self) -> int:
        """What the spool can hold."""


class Windows(Protocol):
    """:class:`policyd_rate_limit.domain.windows.Windows`, as far as it is counted."""

    max_keys: int

    def __len__(self) -> int: ...
    @property
    def overflowing(self) -> int:
        """Common logs in use."""


class DaemonCollector(Collector):
    """Reads what the parts of the daemon have counted; asked by the thread of the exporter.

    ``windows`` gives the windows of the moment. ``monotonic`` is the clock of ``away_since``. ``dropped``: lines of the
    log.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        backend: str,
        connections: Connections,
        most_connections: int,
        worker: Worker,
        engine: Engine,
        windows: Callable[[], Windows],
        dropped: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        self._metrics = metrics
        self._backend = backend
        self._connections = connections
        self._most_connections = most_connections
        self._worker = worker
        self._engine = engine
        self._windows = windows
        self._dropped = dropped
        self._monotonic = monotonic

    def collect(self) -> Iterator[Metric]:
        """All metrics, as they are now."""
        yield from self._of_decisions()
        yield from self._of_the_store()
        yield from self._of_memory()
        yield from self._of_clients()
        yield _counter("log_lines_dropped", "Log lines that the log was too slow to take.", self._dropped())
        build = GaugeMetricFamily(f"{PREFIX}build_info", "Always 1.", labels=("version", "python"))
        build.add_metric((__version__, platform.python_version()), 1)
        yield build

    def _of_decisions(self) -> Iterator[Metric]:
        metrics = self._metrics
        decisions = CounterMetricFamily(
            f"{PREFIX}decisions", "Requests by what is charged and what was decided.", labels=("kind", "verdict")
        )
        for kind, verdicts in tuple(metrics.decisions.items()):
            for verdict, count in verdicts.items():
                decisions.add_metric((kind, verdict), count)
        yield decisions
        of_rules = CounterMetricFamily(
            f"{PREFIX}rule_decisions", "What each rule that a mail was charged by came to.", labels=("rule", "verdict")
        )
        for rule, verdicts in tuple(metrics.rules.items()):
            for verdict, count in verdicts.items():
                of_rules.add_metric((rule, verdict), count)
        yield of_rules
        warnings = CounterMetricFamily(
            f"{PREFIX}rule_warnings", "Limits that came to what their rule warns of.", labels=("rule",)
        )
        for rule, count in tuple(metrics.warnings.items()):
            warnings.add_metric((rule,), count)
        yield warnings
        blocks = CounterMetricFamily(f"{PREFIX}rule_blocks", "Ids that their rule has blocked.", labels=("rule",))
        for rule, count in tuple(metrics.blocks.items()):
            blocks.add_metric((rule,), count)
        yield blocks
        refusals = CounterMetricFamily(
            f"{PREFIX}refusals", "Refused requests by the limit that refused them.", labels=("limit",)
        )
        for limit, count in tuple(metrics.refusals.items()):
            refusals.add_metric((limit,), count)
        yield refusals
        yield _histogram(
            "answer_seconds", "From a request to its answer.", SECONDS, metrics.answers, metrics.answer_seconds
        )

    def _of_the_store(self) -> Iterator[Metric]:
        engine, worker = self._engine, self._worker
        # Sizes are counted by their length in bits: 1, 2 to 3, 4 to 7, ...; no batch is empty.
        bounds = [float((1 << bits) - 1) for bits in range(1, len(worker.batch_sizes) - 1)]
        yield _histogram(
            "batch_demands", "Demands that the store decided at once.", bounds, worker.batch_sizes[1:], worker.batched
        )
        since = engine.away_since
        up = GaugeMetricFamily(f"{PREFIX}store_up", "Whether the database is there.", labels=("backend",))
        up.add_metric((self._backend,), since is None)
        yield up
        away = 0.0 if since is None else self._monotonic() - since
        yield _gauge("store_away_seconds", "For how long the database has been away; 0: it is there.", away)
        yield _gauge("journal_batches", "Batches that wait for the database.", engine.waiting)
        yield _gauge("journal_bytes", "What these take up.", engine.waiting_bytes)
        yield _gauge("journal_size_bytes", "What may wait at the most.", engine.journal_bytes)

    def _of_memory(self) -> Iterator[Metric]:
        windows = self._windows()
        yield _gauge("ids", "Ids with mails in their windows, in memory.", len(windows))
        yield _gauge("max_ids", "Ids that may have a counter of their own.", windows.max_keys)
        yield _gauge("overflow_buckets", "Common counters in use, for ids beyond these.", windows.overflowing)

    def _of_clients(self) -> Iterator[Metric]:
        connections = self._connections
        yield _gauge("connections", "Open connections.", len(connections))
        yield _gauge("max_connections", "Connections that may be open.", self._most_connections)
        yield _counter("connections_accepted", "Connections that were accepted.", connections.accepted)
        bad = CounterMetricFamily(f"{PREFIX}bad_clients", "Clients that broke a rule, by the rule.", labels=("kind",))
        for kind, count in tuple(connections.complaints.items()):
            bad.add_metric((kind,), count)
        yield bad


def _counter(name: str, meaning: str, value: int) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, meaning, value=value)


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, meaning, value=value)


def _histogram(
    name: str, meaning: str, bounds: Sequence[float], counts: Sequence[int], total: float
) -> HistogramMetricFamily:
    """``counts``: how many were within each of ``bounds`` and above the one before, then how many beyond them all."""
    named = [*map(str, bounds), "+Inf"]
    return HistogramMetricFamily(
        PREFIX + name, meaning, list(zip(named, accumulate(counts), strict=True)), sum_value=total
    )
