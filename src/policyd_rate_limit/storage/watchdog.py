"""Deadlines for what takes none itself: drivers that block, and the resolver of host names."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    Found = list[tuple[str, int]] | OSError | UnicodeError


class Watchdog:
    """Shuts a connection down when its driver is still at work at the end of its time, so that the driver fails.

    ``descriptor`` is that of the connection's socket. It is duplicated: whatever the driver does with its own, the
    watchdog never meets another connection under the same number.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=os.dup(descriptor))
        self._changed = threading.Condition()
        self._end = math.inf
        self._looks_at = math.inf  # when the thread wakes by itself
        self._closed = False
        self.has_bitten = False
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    @contextlib.contextmanager
    def until(self, end: float) -> Iterator[None]:
        """What runs inside has time until ``end`` (of the monotonic clock)."""
        with self._changed:
            self._end = end
            # Mostly the thread is about to wake before: a busy connection does not cost a switch of threads each time.
            if end < self._looks_at:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._end = math.inf

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        with self._changed, self._socket:
            while not self._closed:
                left = self._end - time.monotonic()
                if left <= 0:
                    self.has_bitten = True
                    with contextlib.suppress(OSError):  # it is closed already
                        self._socket.shutdown(socket.SHUT_RDWR)
                    return
                self._looks_at = self._end
                self._changed.wait(None if left == math.inf else left)


def resolve(host: str, port: int, seconds: float) -> list[tuple[str, int]]:
    """The addresses (IP, port) of ``host``, within ``seconds``.

    :raises OSError: there are none, or no answer in time.
    """
    with contextlib.suppress(OSError):
        return _addresses(host, port, socket.AI_NUMERICHOST)
    found: queue.SimpleQueue[Found] = queue.SimpleQueue()
    # The system's resolver takes no time limit; a thread that hangs in it ends by itself.
    threading.Thread(target=_resolve, args=(host, port, found), name="resolver", daemon=True).start()
    try:
        addresses = found.get(timeout=max(seconds, 0))
    except queue.Empty:
        raise TimeoutError(f"no answer about the address of {host} within {seconds:.3g} s") from None
    if isinstance(addresses, UnicodeError):
        raise OSError(f"{host} is no name of a host") from addresses
    if isinstance(addresses, OSError):
        raise OSError(f"address of {host}: {addresses.strerror}") from addresses
    return addresses


def _resolve(host: str, port: int, found: queue.SimpleQueue[Found]) -> None:
    try:
        found.put(_addresses(host, port, 0))
    except (OSError, UnicodeError) as error:
        found.put(error)


def _addresses(host: str, port: int, flags: int) -> list[tuple[str, int]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys((str(address[0]), port) for *_, address in found))
