"""A TCP proxy between a daemon and its database that does what bad networks do."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Self

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close at once, with a reset


class TcpProxy:
    """Passes everything between its ``port`` and ``target``, unless it is told otherwise.

    ``delay``: seconds that each piece of a request waits. ``intercept`` is called with each piece of a request; what it
    returns is passed on in its place, and None cuts the connection.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.delay = 0.0
        self.intercept: Callable[[bytes], bytes | None] = lambda piece: piece
        self.connections = 0
        self._flowing = threading.Event()
        self._flowing.set()
        self._refusing = False
        self._open: set[socket.socket] = set()
        self._unanswered: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def mute(self) -> None:
        """Nothing gets through any more, as if all packets were dropped; new connections are accepted."""
        self._flowing.clear()

    def unmute(self) -> None:
        """What was held back goes through."""
        self._flowing.set()

    def swallow(self) -> None:
        """What the server answers on the connections of now gets lost; on later ones it does not."""
        self._unanswered |= self._open

    def cut(self) -> None:
        """Reset all connections."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def refuse(self) -> None:
        """Cut everything, and every new connection as soon as it is there."""
        self._refusing = True
        self.cut()

    def admit(self) -> None:
        """The end of :meth:`refuse`."""
        self._refusing = False

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed by __exit__
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self._refusing:
            client.close()
            return
        try:
            server = socket.create_connection(self.target, timeout=10)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        self._open |= {client, server}
        back = threading.Thread(target=self._pass, args=(server, client, partial(self._answer, server)), daemon=True)
        back.start()
        self._pass(client, server, self._request)
        back.join()
        self._open -= {client, server}
        self._unanswered -= {client, server}
        client.close()
        server.close()

    def _request(self, piece: bytes) -> bytes | None:
        if self.delay:
            time.sleep(self.delay)
        return self.intercept(piece)

    def _answer(self, server: socket.socket, piece: bytes) -> bytes | None:
        return b"" if server in self._unanswered else piece

    def _pass(self, source: socket.socket, sink: socket.socket, change: Callable[[bytes], bytes | None]) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                changed = change(piece)
                self._flowing.wait()
                if changed is None:
                    break
                sink.sendall(changed)
        for connection in (source, sink):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.unmute()
        self.cut()
