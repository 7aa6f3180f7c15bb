"""Batches under way: sent and answered in the event loop, several at once, and the thread for all that goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import pytest
import uvloop

from policyd_rate_limit.domain.charge import Charge, Demand, Usage, Verdict
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage import worker as worker_module
from policyd_rate_limit.storage.base import MOST_UNDERWAY, Underway
from policyd_rate_limit.storage.pace import Pace
from policyd_rate_limit.storage.worker import Worker
from support.callbacks import Concluding

PATIENCE = 20.0  # seconds, for a machine that is very busy
RARELY = 3600.0


class Server:
    """A store whose batches are answered when :meth:`answer` says so, over a real socket.

    ``fails``: receiving does, so that only ``commit`` helps.
    """

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.batches: list[list[int]] = []
        self.open_batches: deque[list[int]] = deque()
        self.committed: list[list[int]] = []
        self.answers = 0
        self.fails = False
        self.seconds = RARELY
        self.is_split = False
        self.calls: list[str] = []
        self.commits = threading.Event()
        self.commits.set()

    def open(self) -> None:
        """Nothing is to be done."""

    def answer(self) -> None:
        """One more batch has its answers."""
        self.theirs.send(b"x")

    def prepare(self, demands: Sequence[Demand]) -> Underway | None:
        if self.is_split:
            return None
        costs = [demand.charges[0].cost for demand in demands]
        self.batches.append(costs)
        self.open_batches.append(costs)
        return Underway(
            [self.ours.fileno()],
            time.monotonic() + self.seconds,
            partial(self._receive, costs),
            partial(self._commit, costs),
        )

    def _receive(self, costs: list[int]) -> list[Verdict] | None:
        assert self.open_batches[0] is costs
        if self.fails:
            raise StoreUnavailable("broken")
        with contextlib.suppress(BlockingIOError):
            self.answers += len(self.ours.recv(100))
        if not self.answers:
            return None
        self.answers -= 1
        self.open_batches.popleft()
        return [Verdict(True, charged=cost) for cost in costs]

    def _commit(self, costs: list[int]) -> list[Verdict]:
        assert self.open_batches.popleft() is costs
        assert self.commits.wait(PATIENCE)
        self.committed.append(costs)
        return [Verdict(True, charged=cost) for cost in costs]

    def admit(self, demands: Sequence[Demand]) -> list[Verdict]:
        assert not self.open_batches
        self.calls.append("admit")
        return [Verdict(True, charged=demand.charges[0].cost) for demand in demands]

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


class World:
    """A worker on such a store, and who has been answered."""

    def __init__(self) -> None:
        self.store = Server()
        self.worker = Worker(self.store, asyncio.get_running_loop())
        self.answered: list[int] = []

    async def submit(self, *costs: int) -> None:
        """These have come at once, and the worker has looked at them."""
        for cost in costs:
            demand = Demand((Charge("k", "", cost, (Limit(1, 1),)),))
            self.worker.submit(demand, Concluding(partial(self._keep, cost)))
        for _ in range(3):
            await asyncio.sleep(0)

    def _keep(self, cost: int, result: Verdict | Exception) -> None:
        assert result == Verdict(True, charged=cost)
        self.answered.append(cost)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.001)

    async def idle(self) -> None:
        await self.until(lambda: not self.worker._running)


Run = Callable[[Callable[[World], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a scenario, with its first maintenance done, and ends it."""
    monkeypatch.setattr(worker_module, "MAINTENANCE_SECONDS", RARELY)

    async def all_of(scenario: Callable[[World], Coroutine[Any, Any, None]]) -> None:
        world = World()
        with world.store.ours, world.store.theirs:
            world.worker.start()
            await world.until(lambda: world.store.calls == ["maintain"])
            await world.idle()
            await scenario(world)
            await world.worker.stop()
            assert world.store.calls[-1] == "close"

    runner = asyncio.run if request.param == "asyncio" else uvloop.run
    return lambda scenario: runner(all_of(scenario))


def test_another_batch_goes_while_one_is_under_way(run: Run) -> None:
    async def scenario(world: World) -> None:
        await world.submit(1, 2)
        assert world.store.batches == [[1, 2]]
        await world.submit(3, 4)
        assert world.store.batches == [[1, 2], [3, 4]]
        await world.submit(5, 6, 7, 8, 9)
        assert len(world.store.batches) == MOST_UNDERWAY  # no more
        world.store.answer()
        await world.until(lambda: world.answered == [1, 2])
        assert world.store.batches == [[1, 2], [3, 4], [5, 6, 7, 8, 9]]
        world.store.answer()
        world.store.answer()
        await world.until(lambda: world.answered == [1, 2, 3, 4, 5, 6, 7, 8, 9])
        assert not world.store.committed

    run(scenario)


def test_a_batch_beside_another_is_not_small(run: Run) -> None:
    """It would cost more than the few would wait."""

    async def scenario(world: World) -> None:
        await world.submit(1, 2, 3)
        await world.submit(4)
        await world.submit(5)
        assert world.store.batches == [[1, 2, 3]]
        world.store.answer()
        await world.until(lambda: world.answered == [1, 2, 3])
        assert world.store.batches == [[1, 2, 3], [4, 5]]
        world.store.answer()
        await world.until(lambda: world.answered == [1, 2, 3, 4, 5])

    run(scenario)


def test_half_of_a_batch_is_enough_where_another_may_be_beside_it(run: Run) -> None:
    """Or the store would rest until those ask anew who have just been answered."""

    async def scenario(world: World) -> None:
        await world.submit(1)
        world.store.answer()
        await world.until(lambda: world.answered == [1])
        world.worker.pace = Pace()
        world.worker.pace.enough = 4
        world.worker.pace._began = asyncio.get_running_loop().time() + RARELY
        await world.submit(2)
        assert world.store.batches == [[1]]
        await world.submit(3)
        assert world.store.batches == [[1], [2, 3]]
        world.store.answer()
        await world.until(lambda: world.answered == [1, 2, 3])

    run(scenario)


def test_answers_that_come_at_once_are_all_taken(run: Run) -> None:
    async def scenario(world: World) -> None:
        await world.submit(1)
        await world.submit(2)
        world.store.theirs.send(b"xx")
        await world.until(lambda: world.answered == [1, 2])

    run(scenario)


def test_many_clients_share_what_may_be_under_way(run: Run) -> None:
    """Else all of them would wait for one batch, and nobody would have anything to do meanwhile."""

    async def scenario(world: World) -> None:
        await world.submit(1)  # the worker learns that batches of this store are under way
        world.store.answer()
        await world.until(lambda: world.answered == [1])
        world.worker.pace._counted = asyncio.get_running_loop().time() + RARELY
        world.worker.pace.clients = 40
        await world.submit(*range(2, 42))
        assert world.store.batches[1:] == [[*range(2, 22)], [*range(22, 42)]]
        world.store.answer()
        world.store.answer()
        await world.until(lambda: len(world.answered) == 41)
        # Of few there are no halves.
        world.worker.pace.clients = 4
        await world.submit(*range(42, 46))
        assert world.store.batches[3:] == [[*range(42, 46)]]
        world.store.answer()
        await world.until(lambda: len(world.answered) == 45)

    run(scenario)


def test_the_thread_concludes_what_went_wrong_and_what_is_behind_it(run: Run) -> None:
    async def scenario(world: World) -> None:
        await world.submit(1)
        await world.submit(2)
        world.store.fails = True
        world.store.answer()
        await world.until(lambda: world.answered == [1, 2])
        assert world.store.committed == [[1], [2]]
        world.store.fails = False
        world.store.ours.recv(1)
        await world.submit(3)
        world.store.answer()
        await world.until(lambda: world.answered == [1, 2, 3])
        assert world.store.committed == [[1], [2]]

    run(scenario)


def test_the_thread_concludes_what_takes_too_long(run: Run) -> None:
    async def scenario(world: World) -> None:
        world.store.seconds = 0.01
        await world.submit(1)
        world.store.seconds = RARELY
        await world.submit(2)
        await world.until(lambda: world.answered == [1, 2])
        assert world.store.committed == [[1], [2]]

    run(scenario)


def test_nobody_is_given_anything_while_the_thread_concludes(run: Run) -> None:
    async def scenario(world: World) -> None:
        await world.submit(1)
        world.store.commits.clear()
        world.store.fails = True
        world.store.answer()
        await world.until(lambda: not world.store.open_batches)
        await world.submit(2)
        assert world.store.batches == [[1]]
        world.store.fails = False
        world.store.ours.recv(1)
        world.store.commits.set()
        await world.until(lambda: world.store.batches == [[1], [2]])
        world.store.answer()
        await world.until(lambda: world.answered == [1, 2])

    run(scenario)


def test_maintenance_and_explanations_come_when_nothing_is_under_way(run: Run) -> None:
    async def scenario(world: World) -> None:
        explained: list[object] = []
        await world.submit(1)
        world.worker.explain(Demand(()), explained.append)
        await world.until(lambda: explained)
        assert world.answered == [1]
        await world.submit(2)
        await world.submit(3)
        world.worker._maintain()
        await world.until(lambda: world.store.calls[1:] == ["explain", "maintain"])
        assert world.answered == [1, 2, 3]

    run(scenario)


def test_what_can_only_be_admitted_comes_after_what_is_under_way(run: Run) -> None:
    async def scenario(world: World) -> None:
        await world.submit(1)
        world.store.is_split = True
        await world.submit(2)
        await world.until(lambda: world.answered == [1, 2])
        assert world.store.calls[1:] == ["admit"]

    run(scenario)


def test_stop_concludes_what_is_under_way(run: Run) -> None:
    async def scenario(world: World) -> None:
        await world.submit(1)
        await world.submit(2)
        await world.worker.stop()
        assert world.answered == [1, 2]

    run(scenario)


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


def test_stop_does_not_return_before_the_last_answers(run: Run) -> None:
    async def scenario(world: World) -> None:
        await world.submit(1)
        await world.submit(2)
        world.worker._loop = AtOnce()  # type: ignore[assignment]
        await world.worker.stop()
        assert world.answered == [1, 2]

    run(scenario)


def test_a_connection_that_ends_while_nothing_is_asked_wakes_nobody(run: Run) -> None:
    async def scenario(world: World) -> None:
        await world.submit(1)
        world.store.answer()
        await world.until(lambda: world.answered == [1])
        world.store.theirs.shutdown(socket.SHUT_WR)
        await world.until(lambda: not world.worker._watched)

    run(scenario)
