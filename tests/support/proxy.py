"""A TCP proxy in front of the daemon that loses one message on the way."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from support.daemon import connect

ENDS_MESSAGE = b"\n\n"


class LossyProxy:
    """Passes requests to ``target`` and answers back, one at a time on each connection.

    The first request, or its answer (``lose``: ``"request"`` or ``"answer"``), is not passed on. In its place
    ``meanwhile`` is called, and then the connection to the client is closed. Set ``target`` before use.
    """

    def __init__(self, lose: str, meanwhile: Callable[[], object]) -> None:
        self.target: str | tuple[str, int] | None = None
        self.lose: str | None = lose
        self.meanwhile = meanwhile
        self.requests: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:  # closed by __exit__
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        assert self.target is not None
        with client, contextlib.suppress(EOFError, OSError), connect(self.target, timeout=60) as server:
            while True:
                request = _message(client)
                self.requests.append(request)
                if self._loses("request"):
                    return
                server.sendall(request)
                answer = _message(server)
                if self._loses("answer"):
                    return
                client.sendall(answer)

    def _loses(self, what: str) -> bool:
        if self.lose != what:
            return False
        self.lose = None
        self.meanwhile()
        return True

    def __enter__(self) -> LossyProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def _message(connection: socket.socket) -> bytes:
    """The next request or answer; EOFError at the end of the connection."""
    data = b""
    while not data.endswith(ENDS_MESSAGE):
        received = connection.recv(65536)
        if not received:
            raise EOFError
        data += received
    return data
