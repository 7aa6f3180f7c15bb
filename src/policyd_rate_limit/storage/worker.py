"""The thread that the store lives in, and the batches that it is fed with.

Demands queue while the store is busy. As soon as it is free it gets all of them, in one batch: an idle daemon
answers at once, a busy one has one commit pay for many answers, and the event loop never waits for a disk.

What needs no waiting, deciding, is done in the event loop where the store can: two threads that both want the
interpreter cost more than that. The store's thread is then left with the commit.
"""

from __future__ import annotations

import logging
import queue
import threading
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from policyd_rate_limit.domain.charge import Demand, Usage, Verdict
    from policyd_rate_limit.storage.base import Commit

_Unexplained = list[tuple["Demand", "Callable[[tuple[Usage, ...]], None]"]]

MOST_DEMANDS: Final = 1_000  # of one batch, so that no answer waits for much more than its own commit
MAINTENANCE_SECONDS: Final = 1.0

_logger = logging.getLogger(__name__)


class Decider(Protocol):
    """What the thread drives; all of it blocks, but for ``prepare``."""

    def open(self) -> None:
        """Called first."""

    def prepare(self, demands: Sequence[Demand]) -> Commit | list[Verdict] | None:
        """In the event loop: decide ``demands`` in order, if nothing is to be waited for but the commit, if that."""

    def admit(self, demands: Sequence[Demand]) -> list[Verdict]:
        """Decide ``demands`` in order; the verdicts hold when this returns."""

    def explain(self, demands: Sequence[Demand]) -> list[tuple[Usage, ...]]:
        """How the limits of each of ``demands`` stand; nothing is counted."""

    def maintain(self) -> None:
        """Called about once a second."""

    def close(self) -> None:
        """Called last."""


class Worker:
    """Runs ``store`` in a thread of its own, for one event loop.

    How many demands may queue is bounded by whoever submits them: connections times what each may ask at once.
    """

    def __init__(self, store: Decider, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop
        self._demands: list[Demand] = []
        self._waiting: list[Callable[[Verdict | Exception], None]] = []
        self._unexplained: _Unexplained = []
        # For the metrics: how many demands there have been, and how many batches by the length of their size in bits.
        self.batched = 0
        self.batch_sizes = [0] * (MOST_DEMANDS.bit_length() + 1)
        self._busy = False
        self._running = 0  # jobs
        self._stopping = False
        self._maintenance: asyncio.TimerHandle | None = None
        self._maintenance_due = False
        self._jobs: queue.SimpleQueue[Callable[[], Sequence[Verdict]] | None] = queue.SimpleQueue()
        self._in_hand: list[Callable[[Verdict | Exception], None]] = []
        self._store_thread = threading.Thread(target=self._run, name="store", daemon=True)

    def start(self) -> None:
        """Start the thread; the store opens there, so that a database that is away holds up nothing."""
        self._store_thread.start()
        self._maintain()

    def submit(self, demand: Demand, done: Callable[[Verdict | Exception], None]) -> None:
        """Have ``demand`` decided, and ``done`` called in the event loop with its verdict or the error."""
        self._demands.append(demand)
        self._waiting.append(done)
        self._begin()

    def explain(self, demand: Demand, done: Callable[[tuple[Usage, ...]], None]) -> None:
        """Have ``done`` called in the event loop with how the limits of ``demand`` stand once it has been decided.

        Empty: it cannot be found out. For each verdict it is to be asked once at the most, which bounds how many wait.
        """
        self._unexplained.append((demand, done))
        self._begin()

    async def stop(self) -> None:
        """Let the store finish what it has in hand, and close it."""
        if self._maintenance is not None:
            self._maintenance.cancel()
        self._stopping = True
        self._jobs.put(None)
        await self._loop.run_in_executor(None, self._store_thread.join)
        _tell(self._unexplained, [()] * len(self._unexplained))

    def _begin(self) -> None:
        """Have the store begin, once all is read that has come by now."""
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        """Give the store all that waits; what it has to do besides comes after the answers."""
        if self._stopping:
            return
        if self._demands:
            demands = self._demands[:MOST_DEMANDS]
            self._in_hand = self._waiting[:MOST_DEMANDS]
            del self._demands[:MOST_DEMANDS], self._waiting[:MOST_DEMANDS]
            self.batched += len(demands)
            self.batch_sizes[len(demands).bit_length()] += 1
            try:
                job = self._store.prepare(demands)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told to those who wait
                job = partial(_raise, error)
            if isinstance(job, list):
                self._running += 1
                self._loop.call_soon(self._deliver, job)
            else:
                self._put(job or partial(self._store.admit, demands))
        if self._unexplained or self._maintenance_due:
            unexplained, self._unexplained = self._unexplained, []
            maintain, self._maintenance_due = self._maintenance_due, False
            self._put(partial(self._do_besides, unexplained, maintain=maintain))

    def _put(self, job: Callable[[], Sequence[Verdict]]) -> None:
        self._running += 1
        self._jobs.put(job)

    def _deliver(self, results: Sequence[Verdict | Exception] | Exception) -> None:
        done, self._in_hand = self._in_hand, []
        if isinstance(results, Exception):
            results = (results,) * len(done)
        self._running -= 1
        waits = False
        if not self._running:
            self._busy = bool(self._demands or self._unexplained or self._maintenance_due)
            # A batch that is about as large is begun before these answers are written, so that both go on at once. A
            # smaller one had better wait for what these answers bring: a commit costs as much for few as for many.
            waits = self._busy and 2 * len(self._demands) < len(done)
            if self._busy and not waits:
                self._next()
        for call, result in zip(done, results, strict=True):
            try:
                call(result)
            except Exception:
                # The others wait for their answers all the same.
                _logger.exception("an answer")
        if waits:
            # Two turns of the event loop: between them it reads.
            self._loop.call_soon(self._loop.call_soon, self._next)

    def _maintain(self) -> None:
        self._maintenance = self._loop.call_later(MAINTENANCE_SECONDS, self._maintain)
        self._maintenance_due = True
        self._begin()

    def _run(self) -> None:
        self._guard(self._store.open)
        while (job := self._jobs.get()) is not None:
            results: Sequence[Verdict] | Exception
            try:
                results = job()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told to those who wait
                results = error
            self._loop.call_soon_threadsafe(self._deliver, results)
        self._guard(self._store.close)

    def _do_besides(self, unexplained: _Unexplained, *, maintain: bool) -> tuple[()]:
        if unexplained:
            self._guard(partial(self._explain, unexplained))
        if maintain:
            self._guard(self._store.maintain)
        return ()

    def _explain(self, unexplained: _Unexplained) -> None:
        explained: Sequence[tuple[Usage, ...]] = [()] * len(unexplained)
        try:
            explained = self._store.explain([demand for demand, _ in unexplained])
        finally:
            self._loop.call_soon_threadsafe(_tell, unexplained, explained)

    def _guard(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:
            _logger.exception("the store")


def _tell(unexplained: _Unexplained, explained: Sequence[tuple[Usage, ...]]) -> None:
    for (_, done), usages in zip(unexplained, explained, strict=True):
        try:
            done(usages)
        except Exception:
            _logger.exception("an explanation")


def _raise(error: Exception) -> NoReturn:
    raise error
