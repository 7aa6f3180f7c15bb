"""Threads that ask the store, each with a desk of its own, so that no database holds up the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from policyd_rate_limit.errors import PolicydError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from policyd_rate_limit.admin.desk import Desk

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 4
"""So many ask the store at a time."""

MOST_WAITING = 64
"""So many more may wait for that; whoever comes then is told to come later."""

DEADLINE_SECONDS = 15.0
"""So long somebody waits for the store, from the request on."""

WHOLE_SECONDS = 50.0
"""The same, for what reads all that was counted: less than proxies wait."""

DESK_SECONDS = 60.0
"""So often a desk is made anew, with the configuration and the tables in files as they are by then."""


class Busy(PolicydError):
    """The store is asked for more than it answers: come later."""


class _Job(NamedTuple):
    run: Callable[[Desk], object]
    answer: Future[Any]
    given_up_at: float


class Desks:
    """The threads. ``open_desk`` makes a desk in the thread that uses it. ``clock``: a monotonic one, in seconds.

    ``version``: of what a desk is made of; as soon as it is another one, desks are made anew.
    """

    def __init__(
        self,
        open_desk: Callable[[], AbstractContextManager[Desk]],
        *,
        threads: int = THREADS,
        most_waiting: int = MOST_WAITING,
        deadline: float = DEADLINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        version: Callable[[], object] = lambda: None,
    ) -> None:
        self._open_desk = open_desk
        self._deadline = deadline
        self._clock = clock
        self._version = version
        self._jobs: queue.Queue[_Job | None] = queue.Queue(most_waiting)
        self._threads = [threading.Thread(target=self._work, name=f"desk {n}", daemon=True) for n in range(threads)]
        self._has_begun = False

    async def ask(self, function: Callable[Concatenate[Desk, P], T], *arguments: P.args, **more: P.kwargs) -> T:
        """What ``function(desk, ...)`` returns or raises, in one of the threads.

        :raises Busy: too many wait already, or it takes too long. What has begun then goes on: a change may be made.
        """
        return await self.ask_for(self._deadline, function, *arguments, **more)

    async def ask_for(
        self, seconds: float, function: Callable[Concatenate[Desk, P], T], *arguments: P.args, **more: P.kwargs
    ) -> T:
        """The same, for what may take so many ``seconds``. Raises Busy."""
        if not self._has_begun:
            self._has_begun = True
            for thread in self._threads:
                thread.start()
        answer: Future[T] = Future()
        try:
            self._jobs.put_nowait(
                _Job(lambda desk: function(desk, *arguments, **more), answer, self._clock() + seconds)
            )
        except queue.Full:
            raise Busy("too much is asked at once") from None
        try:
            return await asyncio.wait_for(asyncio.wrap_future(answer), seconds)
        except TimeoutError:
            raise Busy(f"the database has not answered within {seconds:g} seconds") from None

    def close(self) -> None:
        """Have the threads end, each once it has done what it is at."""
        if not self._has_begun:
            return
        for _ in self._threads:
            with contextlib.suppress(queue.Full):
                self._jobs.put_nowait(None)
        for thread in self._threads:
            thread.join(self._deadline / len(self._threads))

    def _work(self) -> None:
        job: _Job | None = None
        while True:
            if job is None:
                job = self._jobs.get()
            if job is None:
                return
            version = self._version()
            # What cannot be opened is told to who has asked, and opened again for the next one.
            try:
                opened = self._open_desk()
                desk = opened.__enter__()
            except BaseException as error:  # noqa: BLE001 - it is raised where somebody waits for it
                _tell(job, error)
                job = None
                continue
            try:
                job, goes_on = self._use(desk, version, job)
            finally:
                opened.__exit__(None, None, None)
            if not goes_on:
                return

    def _use(self, desk: Desk, version: object, job: _Job) -> tuple[_Job | None, bool]:
        """Do what is asked for with ``desk`` until it is old: what is asked for then, and whether to go on."""
        until = self._clock() + DESK_SECONDS
        while True:
            if self._clock() < job.given_up_at and job.answer.set_running_or_notify_cancel():
                try:
                    job.answer.set_result(job.run(desk))
                except BaseException as error:  # noqa: BLE001 - it is raised where somebody waits for it
                    job.answer.set_exception(error)
            found = self._jobs.get()
            if found is None:
                return None, False
            if self._clock() >= until or self._version() != version:
                return found, True
            job = found


def _tell(job: _Job, error: BaseException) -> None:
    if job.answer.set_running_or_notify_cancel():
        job.answer.set_exception(error)
