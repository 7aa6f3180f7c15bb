"""What the daemon tells the service manager: sd_notify(3) and sd_watchdog_enabled(3).

The protocol is lines in datagrams. libsystemd is not needed for it, nor is a package that wraps it: they block.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections import deque
from typing import TYPE_CHECKING

from policyd_rate_limit.system.logs import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

MOST_UNTOLD = 64
"""The most messages that wait for a service manager that takes none; beyond that, the oldest are dropped."""

STATUS_SECONDS = 10.0
"""At least so long is between two STATUS= lines, but for those that come with a change of state."""

_logger = logging.getLogger(__name__)


class ServiceManager:
    """Who has started the daemon, as far as it wants to be told anything.

    Its variables are taken out of ``environment``, so that no child process inherits them.
    ``watchdog_seconds``: within which it wants to hear again and again that all is well; None: it does not.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self.watchdog_seconds: float | None = None
        address = environment.pop("NOTIFY_SOCKET", "")
        process = environment.pop("WATCHDOG_PID", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        self._address = b""
        self._untold: deque[bytes] = deque(maxlen=MOST_UNTOLD)
        self._deaf = False
        if not address:
            return
        if address[0] not in "/@":
            _logger.warning("NOTIFY_SOCKET=%s is of an unknown kind: the service manager is not notified", address)
            return
        # "@" stands for the zero byte of a name in the abstract namespace: unix(7).
        self._address = os.fsencode("\0" + address[1:] if address[0] == "@" else address)
        if process in ("", str(os.getpid())) and microseconds:
            if microseconds.isascii() and microseconds.isdigit() and int(microseconds) > 0:
                self.watchdog_seconds = int(microseconds) / 1_000_000
            else:
                _logger.warning("WATCHDOG_USEC=%s is no number of microseconds: there is no watchdog", microseconds)

    @property
    def listens(self) -> bool:
        """Whether there is anybody to be told anything."""
        return bool(self._address)

    def tell(self, *lines: str) -> None:
        """Send ``lines``, such as ``READY=1``. Never blocks and never raises: what is not taken now waits."""
        if self._address:
            self._untold.append("\n".join(map(one_line, lines)).encode())
            self.retry()

    def retry(self) -> None:
        """Send what the service manager has not taken yet, in order."""
        if not self._untold:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                while self._untold:
                    sender.sendto(self._untold[0], self._address)
                    self._untold.popleft()
        except OSError as error:
            if error.errno != errno.EAGAIN and not self._deaf:
                self._deaf = True
                _logger.warning("cannot notify the service manager: %s", error.strerror)
        else:
            self._deaf = False

    def ping(self) -> None:
        """Say that all is well, unless there are other things that it has not taken yet."""
        if not self._untold:
            self.tell("WATCHDOG=1")
            self._untold.clear()  # one that is late says nothing


class Supervision:
    """Keeps the service manager informed while the daemon serves.

    ``status`` describes what it does in a few words, ``alive`` tells whether it still does: as long as that holds,
    and the event loop comes round to :meth:`tick`, the watchdog is fed. ``clock`` is a monotonic clock in seconds.
    """

    def __init__(
        self,
        manager: ServiceManager,
        status: Callable[[], str],
        alive: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._manager = manager
        self._status = status
        self._alive = alive
        self._clock = clock
        self._told = ""
        self._told_at = 0.0
        self._well = True
        self._note = ""
        self._stopping = False

    @property
    def tick_seconds(self) -> float | None:
        """How often :meth:`tick` is to be called; None: never."""
        if not self._manager.listens:
            return None
        half = (self._manager.watchdog_seconds or 2.0) / 2  # sd_watchdog_enabled(3) recommends half of the time
        return min(half, 1.0)

    def ready(self, note: str = "") -> None:
        """It serves: for the first time, or again after :meth:`reloading`. ``note`` stays part of the status."""
        self._note = note
        if not self._stopping:
            self._tell_status("READY=1")

    def reloading(self) -> None:
        """The configuration is reloaded; :meth:`ready` ends that."""
        # With Type=notify-reload the time tells this reload from an earlier one.
        self._manager.tell(
            "RELOADING=1",
            f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}",
            "STATUS=reloading the configuration",
        )

    def stopping(self) -> None:
        """It ends. From here on the watchdog is not fed: the time to stop is bounded by another setting."""
        self._stopping = True
        self._manager.tell("STOPPING=1", "STATUS=answering what has been asked, then stopping")

    def tick(self) -> None:
        """Feed the watchdog, and tell the status if it has changed."""
        if self._stopping:
            return
        self._manager.retry()
        if self._manager.watchdog_seconds is not None:
            self._feed()
        if self._clock() - self._told_at >= STATUS_SECONDS and self._description() != self._told:
            self._tell_status()

    def _feed(self) -> None:
        well = self._alive()
        if well:
            self._manager.ping()
        if well != self._well:
            self._well = well
            _logger.log(
                logging.WARNING if well else logging.ERROR,
                "the store thread makes progress again"
                if well
                else "the store thread is stuck: the watchdog is not fed",
            )

    def _description(self) -> str:
        return f"{self._status()}; {self._note}" if self._note else self._status()

    def _tell_status(self, *before: str) -> None:
        self._told = self._description()
        self._told_at = self._clock()
        self._manager.tell(*before, f"STATUS={self._told}")
