"""Listening sockets, and the connections that arrive on them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

MAX_ACCEPTED: Final = 16  # connections in one turn of the event loop
ACCEPT_REST_SECONDS: Final = 0.1  # after a connection could not be accepted


class Acceptor:
    """Hands each connection that arrives to ``admit``, which raises OSError or ValueError when it is gone already.

    ``refused`` is told why one could not be accepted; those that wait are retried a little later.
    """

    def __init__(self, admit: Callable[[socket.socket], None], refused: Callable[[str], None]) -> None:
        self._admit = admit
        self._refused = refused
        self._listeners: list[socket.socket] = []

    def start(self, listeners: Iterable[socket.socket], backlog: int) -> None:
        """Accept connections on ``listeners``, which are bound."""
        for listener in listeners:
            listener.setblocking(False)
            listener.listen(backlog)
            self._listeners.append(listener)
            self._listen(listener)

    def stop(self) -> None:
        """Accept nothing more, and close the listening sockets."""
        loop = asyncio.get_running_loop()
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            loop.remove_reader(listener.fileno())
            listener.close()

    def _listen(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            asyncio.get_running_loop().add_reader(listener.fileno(), self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        """Take some of the connections that wait to be accepted; the others wait for the next turn of the loop."""
        for _ in range(MAX_ACCEPTED):
            try:
                accepted, _ = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                # Out of descriptors, most likely. Whoever wants to connect waits in the queue of the listening socket.
                loop = asyncio.get_running_loop()
                loop.remove_reader(listener.fileno())
                loop.call_later(ACCEPT_REST_SECONDS, self._listen, listener)
                self._refused(error.strerror or str(error))
                return
            try:
                self._admit(accepted)
            except (OSError, ValueError):  # it has gone
                accepted.close()
