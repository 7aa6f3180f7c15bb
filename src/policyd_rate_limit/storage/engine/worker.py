"""The store thread, and the batches that it gets.

Demands queue while the store is busy. As soon as it is free it gets all of them, in one batch: an idle daemon
answers at once, a busy one has one commit pay for many answers, and the event loop never waits for a disk. Where many
ask, but few at once, a batch waits a moment for more (see :mod:`policyd_rate_limit.storage.engine.pacing`).

What needs no waiting, deciding, is done in the event loop where the store can: two threads that both want the
interpreter cost more than that. The store's thread is then left with the commit.

A store behind a network may have several batches in flight: the event loop sends them and takes the answers, and the
thread is there for all that goes wrong or takes its time. The store has one master at a time: before the thread gets
something to do, it gets all that is in flight.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

from policyd_rate_limit.errors import StoreError
from policyd_rate_limit.storage.engine.pacing import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from policyd_rate_limit.domain.charge import Demand, Usage, Verdict, Waiting
    from policyd_rate_limit.storage.batch import Batch

_Unexplained = list[tuple["Demand", "Callable[[tuple[Usage, ...]], None]"]]
_Job = tuple["Callable[[], Sequence[Verdict]]", list["Waiting"]]

MOST_DEMANDS: Final = 1_000  # of one batch, so that no answer waits for much more than its own commit
LEAST_SHARE: Final = 8  # demands: fewer are no reason to have two batches of what could be one
MAINTENANCE_SECONDS: Final = 1.0

_logger = logging.getLogger(__name__)


class Decider(Protocol):
    """What the thread drives; all of it blocks, but for ``prepare``."""

    def open(self) -> None:
        """Called first."""

    def prepare(self, demands: Sequence[Demand]) -> Batch:
        """In the event loop: decide ``demands`` in order, or have them decided, as far as that takes no waiting."""

    def explain(self, demands: Sequence[Demand]) -> list[tuple[Usage, ...]]:
        """How the limits of each of ``demands`` stand; nothing is counted."""

    def maintain(self) -> None:
        """Called about once a second."""

    def close(self) -> None:
        """Called last."""


class Worker:
    """Runs ``store`` in a thread of its own, for one event loop.

    How many demands may queue is bounded by whoever submits them: connections times what each may ask at once. ``pace``
    may be replaced by one that knows the clients. The store is maintained every ``maintenance_seconds``.
    """

    def __init__(
        self, store: Decider, loop: asyncio.AbstractEventLoop, maintenance_seconds: float = MAINTENANCE_SECONDS
    ) -> None:
        self._store = store
        self._loop = loop
        self._maintenance_seconds = maintenance_seconds
        self._demands: list[Demand] = []
        self._waiting: list[Waiting] = []
        self._unexplained: _Unexplained = []
        # For the metrics: how many demands there have been, and how many batches by the length of their size in bits.
        self.batched = 0
        self.batch_sizes = [0] * (MOST_DEMANDS.bit_length() + 1)
        self._is_due = False  # what waits will be looked at in a moment
        self._running = 0  # jobs
        self.pace = Pace()
        self._delayed: asyncio.TimerHandle | None = None  # the next batch
        # Where several batches may be in flight, each is for its share of the clients: the store is not to rest until
        # those ask again who have just been answered.
        self._share = 1
        self._stopping = False
        self._maintenance: asyncio.TimerHandle | None = None
        self._maintenance_due = False
        self._has_hurried = False
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._in_flight: deque[tuple[Batch, list[Waiting]]] = deque()
        self._most_in_flight = 1  # batches, by word of the last one
        self._worth = 1  # so many demands have to wait for one more batch
        self._watched: set[int] = set()  # descriptors
        self._timer: asyncio.TimerHandle | None = None
        self._store_thread = threading.Thread(target=self._run, name="store", daemon=True)

    def start(self) -> None:
        """Start the thread; the store opens there, so that a database that is away holds up nothing."""
        self._store_thread.start()
        self._maintain()

    def submit(self, demand: Demand, waiting: Waiting) -> None:
        """Have ``demand`` decided, and ``waiting`` told of its verdict, or of the error, in the event loop."""
        self._demands.append(demand)
        self._waiting.append(waiting)
        if not self._is_due:
            self._begin()

    def explain(self, demand: Demand, done: Callable[[tuple[Usage, ...]], None]) -> None:
        """Have ``done`` called in the event loop with how the limits of ``demand`` stand once it has been decided.

        Empty: it cannot be found out. For each verdict it is to be asked once at the most, which bounds how many wait.
        """
        self._unexplained.append((demand, done))
        self._begin()

    def hurry(self) -> None:
        """Have the store maintained at once, for what is to be exchanged; once between two turns of that."""
        if not self._has_hurried:
            self._has_hurried = self._maintenance_due = True
            self._begin()

    async def stop(self) -> None:
        """Let the store finish what it has in hand, and close it."""
        if self._maintenance is not None:
            self._maintenance.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self._delayed is not None:
            self._delayed.cancel()
        self._stopping = True
        self._hand_over()
        self._jobs.put(None)
        await self._loop.run_in_executor(None, self._store_thread.join)
        # Its last answers are in the loop's queue, and since Python 3.14 the executor may be done without a turn of it.
        await asyncio.sleep(0)
        _tell(self._unexplained, [()] * len(self._unexplained))

    def _begin(self) -> None:
        """Have the store begin, once all is read that has come by now."""
        if self._delayed is not None and len(self._demands) * self._share < self.pace.enough:
            return
        if not self._is_due and not self._running:
            self._is_due = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._is_due = False
        if not self._running:
            self._next()

    def _next(self) -> None:
        """Give the store what waits; what it has to do besides comes after the answers."""
        if self._stopping:
            return
        waiting = len(self._demands)
        if waiting >= self._worth:
            delay = self.pace.delay(self._loop.time(), waiting * self._share)
            if delay <= 0:
                self._give()
            elif self._delayed is None:
                self._delayed = self._loop.call_later(delay, self._go_on)
        if self._unexplained or self._maintenance_due:
            unexplained, self._unexplained = self._unexplained, []
            maintain, self._maintenance_due = self._maintenance_due, False
            self._put(partial(self._do_besides, unexplained, maintain=maintain), [])

    def _go_on(self) -> None:
        """The next batch has waited long enough."""
        self._delayed = None
        self._look()

    def _give(self) -> None:
        if self._delayed is not None:
            self._delayed.cancel()
            self._delayed = None
        demands, waiting = self._demands, self._waiting
        self.pace.begin(self._loop.time())
        most = MOST_DEMANDS
        if self._share > 1 and self.pace.clients:
            # Or all of them would wait for one batch, with nothing to do for the daemon until it is answered.
            most = min(most, max(LEAST_SHARE, self.pace.clients // self._share))
        if len(demands) > most:
            self._demands, self._waiting = demands[most:], waiting[most:]
            del demands[most:], waiting[most:]
        else:
            self._demands, self._waiting = [], []
        self.batched += len(demands)
        self.batch_sizes[len(demands).bit_length()] += 1
        try:
            batch = self._store.prepare(demands)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told to those who wait
            self._put(partial(_raise, error), waiting)
            return
        if batch.is_done:
            self._running += 1
            self._loop.call_soon(self._deliver, waiting, batch.verdicts)
        elif batch.descriptors:
            self._watch(batch, waiting)
            if self._demands:
                self._begin()
        else:
            self._finish(batch, waiting)

    def _finish(self, batch: Batch, waiting: list[Waiting]) -> None:
        """Have the thread finish ``batch``; whoever is refused does not wait for that."""
        verdicts = batch.verdicts
        refused = [index for index, verdict in enumerate(verdicts) if not verdict.admitted]
        if not refused:
            self._put(batch.finish, waiting)
            return
        admitted = [index for index, verdict in enumerate(verdicts) if verdict.admitted]
        self._put(partial(_finish_some, batch, admitted), [waiting[index] for index in admitted])
        self._answer([waiting[index] for index in refused], [verdicts[index] for index in refused])

    def _put(self, job: Callable[[], Sequence[Verdict]], waiting: list[Waiting]) -> None:
        """Have the thread do ``job``, after what is in flight."""
        self._hand_over()
        self._running += 1
        self._jobs.put((job, waiting))

    def _deliver(self, waiting: list[Waiting], results: Sequence[Verdict | Exception] | Exception) -> None:
        self._running -= 1
        if isinstance(results, Exception):
            results = (results,) * len(waiting)
        self._answer(waiting, results)
        self._begin_later()

    def _answer(self, waiting: list[Waiting], results: Sequence[Verdict | Exception]) -> None:
        for one, result in zip(waiting, results, strict=True):
            try:
                one.conclude(result)
            except Exception:
                # The others wait for their answers all the same.
                _logger.exception("an answer could not be delivered")

    def _begin_later(self) -> None:
        """Have the store begin once what the last answers bring is read: commits of many cost no more."""
        if not self._is_due and not self._running and (self._demands or self._unexplained or self._maintenance_due):
            self._is_due = True
            # Two turns of the event loop: between them it reads.
            self._loop.call_soon(self._loop.call_soon, self._look)

    def _watch(self, batch: Batch, waiting: list[Waiting]) -> None:
        """Look after ``batch`` in the event loop."""
        self._share = self._most_in_flight = batch.most_in_flight
        self._in_flight.append((batch, waiting))
        self._weigh()
        for descriptor in batch.descriptors:
            if descriptor not in self._watched:
                self._watched.add(descriptor)
                self._loop.add_reader(descriptor, self._receive)
        if self._timer is None:
            self._look_at_the_time()

    def _weigh(self) -> None:
        """One more batch costs some work here and there: it is for as many as are in flight, or it waits for them."""
        if len(self._in_flight) < self._most_in_flight:
            self._worth = sum([len(waiting) for _, waiting in self._in_flight]) or 1
        else:
            self._worth = MOST_DEMANDS * MOST_DEMANDS

    def _receive(self) -> None:
        """Something can be read: take the answers that are there."""
        if not self._in_flight:
            self._unwatch()  # the end of the connection, which the next batch will meet
        while self._in_flight:
            batch, waiting = self._in_flight[0]
            try:
                verdicts = batch.poll()
            except Exception:  # noqa: BLE001 - the thread will meet it again, or find a way
                self._hand_over()
                return
            if verdicts is None:
                return
            self._in_flight.popleft()
            self._weigh()
            # The server works on a batch of about the same size while these answers are written.
            begins = not self._running and 2 * len(self._demands) >= len(waiting)
            if begins:
                self._next()
            self._answer(waiting, verdicts)
            if not begins:
                self._begin_later()

    def _hand_over(self) -> None:
        """Have the thread wait for what is in flight."""
        self._unwatch()
        while self._in_flight:
            batch, waiting = self._in_flight.popleft()
            self._running += 1
            self._jobs.put((batch.finish, waiting))
        self._weigh()

    def _unwatch(self) -> None:
        for descriptor in self._watched:
            self._loop.remove_reader(descriptor)
        self._watched.clear()

    def _look_at_the_time(self) -> None:
        """Have the thread conclude what takes too long."""
        self._timer = None
        if self._in_flight:
            left = self._in_flight[0][0].deadline - time.monotonic()
            if left > 0:
                self._timer = self._loop.call_later(left, self._look_at_the_time)
            else:
                self._hand_over()

    def _maintain(self) -> None:
        self._maintenance = self._loop.call_later(self._maintenance_seconds, self._maintain)
        self._maintenance_due = True
        self._has_hurried = False
        self._begin()

    def _run(self) -> None:
        self._guard(self._store.open)
        while (work := self._jobs.get()) is not None:
            job, waiting = work
            results: Sequence[Verdict] | Exception
            try:
                results = job()
            except Exception as error:
                if not isinstance(error, StoreError):
                    _logger.exception("a batch failed")
                results = error
            self._loop.call_soon_threadsafe(self._deliver, waiting, results)
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
            _logger.exception("the store failed")


def _tell(unexplained: _Unexplained, explained: Sequence[tuple[Usage, ...]]) -> None:
    for (_, done), usages in zip(unexplained, explained, strict=True):
        try:
            done(usages)
        except Exception:
            _logger.exception("the usage of limits could not be delivered")


def _finish_some(batch: Batch, indices: Sequence[int]) -> list[Verdict]:
    verdicts = batch.finish()
    return [verdicts[index] for index in indices]


def _raise(error: Exception) -> NoReturn:
    raise error
