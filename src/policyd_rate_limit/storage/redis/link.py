"""The session that is kept: made when it is needed or has broken, and used until all has been answered."""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

from policyd_rate_limit.storage.redis.node import Command, DeadlineExceeded, NodeError, Remedy
from policyd_rate_limit.storage.redis.session import Session
from policyd_rate_limit.storage.redis.topology import Servers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

CONNECTING_SECONDS = 0.5  # for tries to connect, one of which may meet with an accident
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.2  # seconds between two tries within the time of a batch

_LATER = 3  # what the script replies to a record whose predecessor it does not know

_logger = logging.getLogger(__name__)


class Link:
    """Asks the servers of ``redis_config``, within ``timeout`` (seconds) each time.

    ``clock`` (Unix seconds) takes the place of theirs in tests. ``monotonic`` and ``sleep``: how the time of the tries
    passes. ``session``: the connections in use, None as long as there are none.

    :raises ConfigError: something in ``config`` is wrong.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        timeout: float,
        clock: Callable[[], float] | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.servers = Servers(config, timeout)
        self.timeout = timeout
        self.session: Session | None = None
        self.monotonic = monotonic
        self._clock = clock
        self._sleep = sleep
        self._spare: Session | None = None  # opened by a probe

    @property
    def time(self) -> str:
        """The time as the script takes it; empty for the server's own."""
        return repr(self._clock()) if self._clock else ""

    def time_of(self, clock: Command) -> float:
        """The time (Unix seconds) that ``clock``, which asked for it, was told."""
        seconds, microseconds = map(int, clock.reply)
        return self._clock() if self._clock else seconds + microseconds / 1e6

    def end(self, most: float = math.inf) -> float:
        """When what begins now has to be done, by the monotonic clock; ``most``: seconds, if the timeout is longer."""
        return self.monotonic() + min(self.timeout, most)

    def connect(self, seconds: float) -> Session:
        """The connections in use, or new ones within ``seconds``.

        One that is cut while it is made says little: a server that is there is retried before it counts as away.

        :raises NodeError: there are none.
        """
        spare, self._spare = self._spare, None
        if self.session is not None and self.session.is_broken:
            self.disconnect()
        if self.session is None:
            end = self.monotonic() + seconds
            last_try = min(self.monotonic() + CONNECTING_SECONDS, end)
            until = end  # there is a second try, however long the first takes
            failure: NodeError | None = None
            while spare is None:
                try:
                    spare = _within(end - self.monotonic(), self.servers.connect)
                except NodeError as error:
                    failure = error.or_cause(failure)
                    if self.monotonic() + FIRST_PAUSE >= until:
                        raise failure from None
                    until = last_try
                    self._sleep(FIRST_PAUSE)
            self.session = spare
            for warning in self.session.warnings:
                _logger.warning("%s", warning)
        elif spare is not None:
            spare.close()
        return self.session

    def disconnect(self) -> None:
        """Give up the connections in use."""
        if self.session is not None:
            self.session.close()
            self.session = None

    def probe(self) -> None:
        """See whether the servers are there; may be called from another thread than the rest.

        :raises NodeError: they are not.
        """
        spare, self._spare = self._spare, self.servers.connect()
        if spare is not None:
            spare.close()

    def run(
        self, commands: Sequence[Command], end: float, clock: Command | None = None, sent: Session | None = None
    ) -> float:
        """Have ``commands`` answered until ``end`` (of the monotonic clock).

        What has no answer is sent again, over new connections if need be. ``sent``: where all, with ``clock``, which
        asks for the time, has been sent already.

        :returns: the time of the servers (Unix seconds).
        :raises NodeError: not all have a reply, or are refused for their keys where that may be.
        """
        clock = clock or Command(None, "TIME")
        waiting = [*commands, clock]
        pause = FIRST_PAUSE
        session = sent if sent is self.session else None
        failure: NodeError | None = None
        while True:
            before = failure
            try:
                if session is None:
                    session = self.connect(end - self.monotonic())
                    session.send(waiting)
                failure = session.receive(waiting, end)
            except NodeError as error:
                failure = error.or_cause(before)
                if not any(command.open for command in waiting):
                    raise failure from None  # nothing is to be found out by waiting
            else:
                failure = failure and failure.or_cause(before)
            for command in waiting:
                if command.reply == [_LATER]:
                    command.reply = None
            waiting = [command for command in waiting if command.reply is None and not command.is_refused]
            if not waiting:
                return self.time_of(clock)
            if failure is None:
                failure = NodeError("Redis has lost what was replayed before", Remedy.NONE)
            left = end - self.monotonic()
            if session is not None and (session.is_broken or any(command.open for command in waiting)):
                self.disconnect()
            session = None
            if failure.remedy is Remedy.NONE or left <= pause:
                raise failure
            self._sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def close(self) -> None:
        """Close all connections. Never raises."""
        self.disconnect()
        if self._spare is not None:
            self._spare.close()
            self._spare = None


def _within(seconds: float, connect: Callable[[], Session]) -> Session:
    """What ``connect`` returns. It takes as long as the resolver and all servers together take; this does not."""
    outcome: queue.SimpleQueue[Session | NodeError] = queue.SimpleQueue()
    late = threading.Event()

    def run() -> None:
        try:
            outcome.put(connect())
        except NodeError as error:
            outcome.put(error)
        if late.is_set():
            close_late()

    def close_late() -> None:
        with contextlib.suppress(queue.Empty):
            found = outcome.get_nowait()
            if isinstance(found, Session):
                found.close()

    try:
        threading.Thread(target=run, name="connect", daemon=True).start()
    except RuntimeError as error:  # the system has no room for another thread
        raise NodeError(f"Redis: {error}", Remedy.RECONNECT) from error
    try:
        found = outcome.get(timeout=max(seconds, 0))
    except queue.Empty:
        late.set()
        close_late()
        raise DeadlineExceeded("Redis: no connection in time") from None
    if isinstance(found, NodeError):
        raise found
    return found
