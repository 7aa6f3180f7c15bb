"""Batches in flight: sent and answered in the event loop, several at once, and the thread for all that goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

from policyd_rate_limit.domain.charge import Demand, Usage, Verdict
from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.batch import Batch
from policyd_rate_limit.storage.engine.pacing import Pace
from support.callbacks import Concluding, Finishing
from support.feeding import RARELY, FedWorker, demand
from support.wait import PATIENCE, until

MOST_IN_FLIGHT = 2


class Server:
    """A store whose batches are answered when :meth:`answer` says so, over a real socket.

    ``fails``: receiving does, so that only finishing helps.
    """

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.batches: list[list[int]] = []
        self.open_batches: deque[list[int]] = deque()
        self.finished: list[list[int]] = []
        self.answers = 0
        self.fails = False
        self.seconds = RARELY
        self.is_split = False
        self.calls: list[str] = []
        self.may_finish = threading.Event()
        self.may_finish.set()

    def open(self) -> None:
        """Nothing is to be done."""

    def answer(self) -> None:
        """One more batch has its answers."""
        self.theirs.send(b"x")

    def prepare(self, demands: Sequence[Demand]) -> Batch:
        costs = [demand.charges[0].cost for demand in demands]
        if self.is_split:
            return Finishing(partial(self._admit, costs))
        self.batches.append(costs)
        self.open_batches.append(costs)
        return BatchInFlight(self, costs)

    def receive(self, costs: list[int]) -> list[Verdict] | None:
        assert self.open_batches[0] is costs
        if self.fails:
            raise StoreUnavailable("broken")
        with contextlib.suppress(BlockingIOError):
            self.answers += len(self.ours.recv(100))
        if not self.answers:
            return None
        self.answers -= 1
        self.open_batches.popleft()
        return [Verdict((cost,)) for cost in costs]

    def finish(self, costs: list[int]) -> list[Verdict]:
        assert self.open_batches.popleft() is costs
        assert self.may_finish.wait(PATIENCE)
        self.finished.append(costs)
        return [Verdict((cost,)) for cost in costs]

    def _admit(self, costs: list[int]) -> list[Verdict]:
        assert not self.open_batches
        self.calls.append("admit")
        return [Verdict((cost,)) for cost in costs]

    def explain(self, demands: Sequence[Demand]) -> list[tuple[Usage, ...]]:
        assert not self.open_batches
        self.calls.append("explain")
        return [() for _ in demands]

    def maintain(self) -> None:
        assert not self.open_batches
        self.calls.append("maintain")

    def close(self) -> None:
        assert not self.open_batches
        self.calls.append("close")


class BatchInFlight(Batch):
    """One of ``server``, which is known by what its demands cost."""

    def __init__(self, server: Server, costs: list[int]) -> None:
        self._server = server
        self._costs = costs
        self.descriptors = [server.ours.fileno()]
        self.deadline = time.monotonic() + server.seconds
        self.most_in_flight = MOST_IN_FLIGHT

    def poll(self) -> list[Verdict] | None:
        return self._server.receive(self._costs)

    def finish(self) -> list[Verdict]:
        return self._server.finish(self._costs)


class WorkerWithBatchesInFlight(FedWorker[Server]):
    """On a store whose batches are answered when the test says so."""

    async def submit_at_once(self, *numbers: int) -> None:
        """These have come at once, and the worker has looked at them."""
        self.submit(*numbers)
        for _ in range(3):
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def working() -> AsyncIterator[WorkerWithBatchesInFlight]:
    """With its first maintenance done; ends it, when all have been answered as they should."""
    store = Server()
    with store.ours, store.theirs:
        fed = WorkerWithBatchesInFlight(store)
        fed.worker.start()
        await until(lambda: store.calls == ["maintain"])
        await until(lambda: not fed.worker._running)
        yield fed
        await fed.worker.stop()
        assert not asyncio.get_running_loop().remove_reader(store.ours)  # whose number another may have soon
        assert store.calls[-1] == "close"
        assert all(result == Verdict((number,)) for number, result in fed.results)


class StandingPace(Pace):
    """Knows of ``clients``, whatever time passes."""

    def __init__(self, clients: int) -> None:
        super().__init__()
        self.clients = clients

    def begin(self, now: float) -> None:
        pass


async def test_another_batch_goes_while_one_is_in_flight() -> None:
    async with working() as fed:
        await fed.submit_at_once(1, 2)
        assert fed.store.batches == [[1, 2]]
        await fed.submit_at_once(3, 4)
        assert fed.store.batches == [[1, 2], [3, 4]]
        await fed.submit_at_once(5, 6, 7, 8, 9)
        assert len(fed.store.batches) == MOST_IN_FLIGHT  # no more
        fed.store.answer()
        await until(lambda: fed.answered == [1, 2])
        assert fed.store.batches == [[1, 2], [3, 4], [5, 6, 7, 8, 9]]
        fed.store.answer()
        fed.store.answer()
        await until(lambda: fed.answered == [1, 2, 3, 4, 5, 6, 7, 8, 9])
        assert not fed.store.finished


async def test_a_batch_beside_another_is_not_small() -> None:
    """It would cost more than the few would wait."""
    async with working() as fed:
        await fed.submit_at_once(1, 2, 3)
        await fed.submit_at_once(4)
        await fed.submit_at_once(5)
        assert fed.store.batches == [[1, 2, 3]]
        fed.store.answer()
        await until(lambda: fed.answered == [1, 2, 3])
        assert fed.store.batches == [[1, 2, 3], [4, 5]]
        fed.store.answer()
        await until(lambda: fed.answered == [1, 2, 3, 4, 5])


async def test_few_go_once_the_many_before_them_are_answered() -> None:
    """Whether or not anybody asks after them."""
    async with working() as fed:
        await fed.submit_at_once(1, 2, 3)
        await fed.submit_at_once(4)
        assert fed.store.batches == [[1, 2, 3]]
        fed.store.answer()
        await until(lambda: fed.store.batches == [[1, 2, 3], [4]])
        fed.store.answer()
        await until(lambda: fed.answered == [1, 2, 3, 4])


async def test_few_wait_for_those_who_ask_again() -> None:
    """Who has just been answered is there a moment later, and goes with them."""
    async with working() as fed:
        fed.worker.submit(demand(1), Concluding(lambda _verdict: fed.submit(5)))
        await fed.submit_at_once(2, 3)
        await fed.submit_at_once(4)
        fed.store.answer()
        await until(lambda: len(fed.store.batches) == 2)
        assert fed.store.batches == [[1, 2, 3], [4, 5]]
        fed.store.answer()
        await until(lambda: fed.answered == [2, 3, 4, 5])


async def test_half_of_a_batch_is_enough_where_another_may_be_beside_it() -> None:
    """Or the store would rest until those ask again who have just been answered."""
    async with working() as fed:
        await fed.submit_at_once(1)
        fed.store.answer()
        await until(lambda: fed.answered == [1])
        fed.worker.pace = Pace(distance=asyncio.get_running_loop().time() + RARELY)
        fed.worker.pace.enough = 4
        await fed.submit_at_once(2)
        assert fed.store.batches == [[1]]
        await fed.submit_at_once(3)
        assert fed.store.batches == [[1], [2, 3]]
        fed.store.answer()
        await until(lambda: fed.answered == [1, 2, 3])


async def test_answers_that_come_at_once_are_all_taken() -> None:
    async with working() as fed:
        await fed.submit_at_once(1)
        await fed.submit_at_once(2)
        fed.store.theirs.send(b"xx")
        await until(lambda: fed.answered == [1, 2])


async def test_many_clients_share_what_may_be_in_flight() -> None:
    """Else all of them would wait for one batch, and nobody would have anything to do meanwhile."""
    async with working() as fed:
        await fed.submit_at_once(1)  # the worker learns that batches of this store are in flight
        fed.store.answer()
        await until(lambda: fed.answered == [1])
        fed.worker.pace = StandingPace(40)
        await fed.submit_at_once(*range(2, 42))
        assert fed.store.batches[1:] == [[*range(2, 22)], [*range(22, 42)]]
        fed.store.answer()
        fed.store.answer()
        await until(lambda: len(fed.answered) == 41)
        # Of few there are no halves.
        fed.worker.pace.clients = 4
        await fed.submit_at_once(*range(42, 46))
        assert fed.store.batches[3:] == [[*range(42, 46)]]
        fed.store.answer()
        await until(lambda: len(fed.answered) == 45)


async def test_the_thread_concludes_what_went_wrong_and_what_is_behind_it() -> None:
    async with working() as fed:
        await fed.submit_at_once(1)
        await fed.submit_at_once(2)
        fed.store.fails = True
        fed.store.answer()
        await until(lambda: fed.answered == [1, 2])
        assert fed.store.finished == [[1], [2]]
        fed.store.fails = False
        fed.store.ours.recv(1)
        await fed.submit_at_once(3)
        fed.store.answer()
        await until(lambda: fed.answered == [1, 2, 3])
        assert fed.store.finished == [[1], [2]]


async def test_the_thread_concludes_what_takes_too_long() -> None:
    async with working() as fed:
        fed.store.seconds = 0.01
        await fed.submit_at_once(1)
        fed.store.seconds = RARELY
        await fed.submit_at_once(2)
        await until(lambda: fed.answered == [1, 2])
        assert fed.store.finished == [[1], [2]]


async def test_nobody_is_given_anything_while_the_thread_concludes() -> None:
    async with working() as fed:
        await fed.submit_at_once(1)
        fed.store.may_finish.clear()
        fed.store.fails = True
        fed.store.answer()
        await until(lambda: not fed.store.open_batches)
        await fed.submit_at_once(2)
        assert fed.store.batches == [[1]]
        fed.store.fails = False
        fed.store.ours.recv(1)
        fed.store.may_finish.set()
        await until(lambda: fed.store.batches == [[1], [2]])
        fed.store.answer()
        await until(lambda: fed.answered == [1, 2])


async def test_maintenance_and_explanations_come_when_nothing_is_in_flight() -> None:
    async with working() as fed:
        explained: list[object] = []
        await fed.submit_at_once(1)
        fed.worker.explain(Demand(()), explained.append)
        await until(lambda: explained)
        assert fed.answered == [1]
        await fed.submit_at_once(2)
        await fed.submit_at_once(3)
        fed.worker._maintain()
        await until(lambda: fed.store.calls[1:] == ["explain", "maintain"])
        assert fed.answered == [1, 2, 3]


async def test_what_can_only_be_admitted_comes_after_what_is_in_flight() -> None:
    async with working() as fed:
        await fed.submit_at_once(1)
        fed.store.is_split = True
        await fed.submit_at_once(2)
        await until(lambda: fed.answered == [1, 2])
        assert fed.store.calls[1:] == ["admit"]


async def test_stop_concludes_what_is_in_flight() -> None:
    async with working() as fed:
        await fed.submit_at_once(1)
        await fed.submit_at_once(2)
        await fed.worker.stop()
        assert fed.answered == [1, 2]


class AtOnce:
    """The running loop, whose executor is done before anybody waits for it, as it may be since Python 3.14."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def run_in_executor(self, _executor: None, function: Callable[[], None]) -> asyncio.Future[None]:
        function()
        done = self._loop.create_future()
        done.set_result(None)
        return done


async def test_stop_does_not_return_before_the_last_answers() -> None:
    async with working() as fed:
        await fed.submit_at_once(1)
        await fed.submit_at_once(2)
        fed.worker._loop = AtOnce()  # type: ignore[assignment]
        await fed.worker.stop()
        assert fed.answered == [1, 2]


async def test_a_connection_that_ends_while_nothing_is_asked_wakes_nobody() -> None:
    async with working() as fed:
        await fed.submit_at_once(1)
        fed.store.answer()
        await until(lambda: fed.answered == [1])
        fed.store.theirs.shutdown(socket.SHUT_WR)
        await until(lambda: not fed.worker._watched)
