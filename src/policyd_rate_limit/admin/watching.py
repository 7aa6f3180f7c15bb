"""Follows a store in a thread of its own, so that whoever looks at what it holds has it at once, from memory."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING

from policyd_rate_limit.admin.picture import Picture
from policyd_rate_limit.admin.refusals import Refusals
from policyd_rate_limit.admin.remembering import Memory
from policyd_rate_limit.errors import PolicydError, StoreError
from policyd_rate_limit.storage.administration import MayNotList

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.admin.picture import Seen
    from policyd_rate_limit.domain.limits import Limits

LOOK_SECONDS = 1.0
"""How often the store is looked at, at the most."""

IDLE_SHARE = 9
"""A look is followed by a pause of so many times its own length at the least: a tenth of a processor, no more."""

RETRY_SECONDS = 5.0
"""How long a store that is away is left alone."""

UNWATCHED_SECONDS = 120.0
"""Once nobody has asked for so long, looks become rare: a store is not read for nobody."""

UNWATCHED_LOOK_SECONDS = 60.0
"""How often it is looked at then."""

DESK_SECONDS = 60.0
"""How often the configuration, and the tables in files, are looked at for changes."""

_logger = logging.getLogger(__name__)


class Watcher:
    """Follows the store that ``open_desk`` opens, as :func:`policyd_rate_limit.admin.opening.open_desk` does.

    Each call of it has to open a store of its own. ``recounts``: that does not tell what is given back, and reads
    quickly what single ids were charged: Redis. ``clock``: as ``time.monotonic``.
    """

    def __init__(
        self,
        open_desk: Callable[[], AbstractContextManager[Desk]],
        *,
        recounts: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_desk = open_desk
        self._recounts = recounts
        self._clock = clock
        self.refusals = Refusals()
        self._memory: Memory | None = None
        self._picture = Picture(since=clock())
        self._begun = self._done = 0  # looks
        self._changed = threading.Condition()  # of the four above
        self._asked = clock()
        self._wanted = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self, patience: float = 5.0) -> None:
        """End the thread, unless the store keeps it for longer than ``patience`` (seconds)."""
        self._ending.set()
        self._wanted.set()
        if self._thread.ident is not None:
            self._thread.join(patience)

    def picture(self) -> Picture:
        """What is known now."""
        return self._picture

    @property
    def is_unwatched(self) -> bool:
        """Whether nobody has asked for so long that what is known may be old: see :meth:`wake`."""
        return self._clock() - self._asked > UNWATCHED_SECONDS

    def wake(self, patience: float) -> None:
        """Somebody asks again: look at the store often from now on, and at once if that has become rare.

        Returns once that is done, but within ``patience`` (seconds).
        """
        was_unwatched, self._asked = self.is_unwatched, self._clock()
        if was_unwatched:
            self.refresh(patience)

    def age(self, picture: Picture) -> float:
        """How many seconds ago ``picture`` was up to date."""
        return max(0.0, self._clock() - picture.since)

    def refresh(self, patience: float) -> bool:
        """Have the store looked at now, since something was changed there.

        Whether that was done within ``patience`` (seconds).
        """
        with self._changed:
            wanted = self._begun + 1  # a look in progress may have read past what was changed
            self._wanted.set()
            return self._changed.wait_for(lambda: self._done >= wanted or self._ending.is_set(), patience)

    def seen(self, key: str, limits: Limits) -> Seen | None:
        """How ``limits`` of the counter ``key`` stand, and what it was charged.

        None: that is not known here, since it has not been read yet, or since the store knows better.
        """
        memory = self._memory
        if memory is None or self._recounts or not self._picture.is_complete:
            return None
        return memory.seen(key, limits)

    def memory(self) -> Memory | None:
        """What is known of all that lies in the windows; None: not all is, or it is not kept up just now."""
        picture = self._picture
        if not picture.is_complete or picture.failure is not None or picture.hidden is not None:
            return None
        return self._memory

    def matching(self, text: str, most: int, is_wanted: Callable[[str], bool]) -> list[str]:
        """Up to ``most`` counters on record whose id holds ``text``, and that are wanted; none before all is read."""
        memory = self._memory
        return [] if memory is None else memory.matching(text, most, is_wanted)

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                with self._open_desk() as desk:
                    self._follow(Memory(desk, recounts=self._recounts))
            except MayNotList as error:
                self._tell(self._picture._replace(hidden=str(error), failure=None, since=self._clock()))
            except PolicydError as error:
                self._tell(self._picture._replace(failure=str(error)))
            except Exception as error:
                _logger.exception("the store cannot be followed")
                self._tell(self._picture._replace(failure=repr(error)))
            # Rather nothing than what was read before: twice as much would have to be held while it is reread.
            self._memory = None
            self._pause(RETRY_SECONDS)

    def _follow(self, memory: Memory) -> None:
        """Look again and again, until the store is away."""
        with contextlib.ExitStack() as newest:
            renewed = self._clock()
            while not self._ending.is_set():
                began = self._clock()
                self._look(memory, began)
                if self._clock() - renewed >= DESK_SECONDS:
                    renewed = self._clock()
                    self._renew(memory, newest)
                least = UNWATCHED_LOOK_SECONDS if self.is_unwatched else LOOK_SECONDS
                self._pause(max(least, IDLE_SHARE * (self._clock() - began)))

    def _renew(self, memory: Memory, newest: contextlib.ExitStack) -> None:
        """Judge by the configuration as it is now; ``newest`` keeps the desk that has it."""
        opened = contextlib.ExitStack()
        try:
            memory.judge_by(opened.enter_context(self._open_desk()))
        except PolicydError as error:
            _logger.warning("the changed configuration cannot be used: %s; limits are judged by the one before", error)
            return
        newest.close()
        newest.push(opened.pop_all())

    def _look(self, memory: Memory, began: float) -> None:
        with self._changed:
            self._begun += 1
        for found in memory.look():
            if found.is_complete:
                self._memory = memory
                self._tell(found._replace(since=began))
            else:  # what was known before an outage is worth more than the beginning of a list
                self._tell(self._picture._replace(read=found.read, failure=None, hidden=None))
            if self._ending.is_set():
                return
        with contextlib.suppress(
            StoreError
        ):  # if it is away, the next look says so; who is limited is known all the same
            self.refusals.read(memory.store, self._picture.now)
            memory.look_at(self.refusals.latest)

    def _tell(self, picture: Picture) -> None:
        with self._changed:
            self._picture = picture
            if picture.read is None or picture.failure is not None:
                self._done = self._begun
            self._changed.notify_all()

    def _pause(self, seconds: float) -> None:
        if not self._ending.is_set():
            self._wanted.wait(seconds)
        self._wanted.clear()
