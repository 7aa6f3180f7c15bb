"""Whether the store thread makes progress, told of threads that really do or do not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from policyd_rate_limit.storage.engine.liveness import ENDLESS_SECONDS, STUCK_SECONDS, WORK_SECONDS, Liveness
from support.wait import wait_until

TIMEOUT = 2.0
PATIENCE = 2 * TIMEOUT + STUCK_SECONDS


class Store:
    """Does in its thread what the test says."""

    def __init__(self) -> None:
        self.closed = False

    def open(self) -> None:
        pass

    def prepare(self, demands: Any) -> Any:
        return [*demands, "prepared"]

    def explain(self, questions: Any) -> Any:
        return questions

    def maintain(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class StoreThread:
    """A thread that uses the store as the test says, under a pulse whose clock stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.store = Store()
        self.liveness = Liveness(self.store, TIMEOUT, lambda: self.now)
        self._steps: list[Callable[[], object]] = []
        self._wake = threading.Semaphore(0)
        self._done = threading.Semaphore(0)
        self._over = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.do(self.liveness.open)

    def do(self, step: Callable[[], object]) -> None:
        """Have the thread do ``step``, to its end."""
        self.begin(step)
        assert self._done.acquire(timeout=20)

    def begin(self, step: Callable[[], object]) -> None:
        self._steps.append(step)
        self._wake.release()

    def end(self) -> None:
        """End the thread."""
        self._over = True
        self.begin(lambda: None)
        self._thread.join(20)

    def _run(self) -> None:
        while self._wake.acquire() and not self._over:
            self._steps.pop(0)()
            self._done.release()


@pytest.fixture
def thread() -> Iterator[StoreThread]:
    thread = StoreThread()
    yield thread
    thread.end()


def test_what_is_asked_of_the_store_is_passed_on(thread: StoreThread) -> None:
    demands: Any = [1]
    batch: Any = thread.liveness.prepare(demands)
    assert batch == [1, "prepared"]
    assert thread.liveness.explain(demands) == demands
    thread.do(thread.liveness.close)
    assert thread.store.closed


def test_maintenance_is_a_sign_of_life(thread: StoreThread) -> None:
    for _ in range(5):
        thread.now += PATIENCE - 1
        assert thread.liveness.alive()
        thread.do(thread.liveness.maintain)
    thread.now += PATIENCE
    assert not thread.liveness.alive()
    thread.do(thread.liveness.maintain)
    assert thread.liveness.alive()


def test_a_thread_that_waits_is_stuck_after_a_while(thread: StoreThread) -> None:
    released = threading.Event()
    thread.begin(released.wait)
    thread.now += 2 * TIMEOUT  # as long as a database may hang
    assert thread.liveness.alive()
    thread.now += STUCK_SECONDS - 1
    assert thread.liveness.alive()
    thread.now += 1
    assert not thread.liveness.alive()
    released.set()


def test_a_thread_that_works_is_not_stuck_for_a_long_while(thread: StoreThread) -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread.begin(work)
    began = thread.now
    try:
        while thread.now + PATIENCE < began + ENDLESS_SECONDS:
            thread.now += PATIENCE - 1
            wait_until(lambda: thread.liveness.alive() and thread.liveness._progress == thread.now, "work")
        thread.now = began + ENDLESS_SECONDS
        time.sleep(2 * WORK_SECONDS)
        assert not thread.liveness.alive()
    finally:
        stop.set()


def test_a_thread_that_has_ended_is_stuck(thread: StoreThread) -> None:
    thread.do(thread.liveness.maintain)
    thread.end()
    assert thread.liveness.alive()
    thread.now += PATIENCE
    assert not thread.liveness.alive()
