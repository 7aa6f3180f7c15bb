"""An alert to send, and an HTTP server that takes alerts."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import trustme

from policyd_rate_limit.domain.charge import Usage
from policyd_rate_limit.domain.decision import REFUSED, Decision
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.domain.request import RCPT, Request
from policyd_rate_limit.notify.alert import Alert, Unsent

MINUTE = Limit(10, 60)
ALICE = Request(RCPT, "1f3a.65", "4Xyz", "Alice", "alice@example.org", "bob@example.net", "192.0.2.1", 0)


def an_alert(number: object = "n1") -> Alert:
    """An alert that is known by its number."""
    return Alert(
        str(number),
        1_700_000_000.0,
        "mail.test",
        Decision(ALICE, REFUSED, "user:alice", 1, 0, MINUTE, (Usage("user:alice", MINUTE, 10, 42),)),
        Unsent(0, ()),
    )


class Post(NamedTuple):
    """A request that came."""

    path: str
    headers: Message
    body: bytes


class Hook:
    """The server: what came, and what it answers, from the first on; then 204."""

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self.statuses: list[int] = []
        self.location = ""
        self.arrived = threading.Condition()
        self.port = 0

    def wait_for(self, count: int, seconds: float = 20.0) -> list[Post]:
        """What came, as soon as there are ``count``."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.posts) >= count, seconds), f"{len(self.posts)} requests"
            return list(self.posts)


@contextlib.contextmanager
def http_server(certificate: trustme.LeafCert | None = None) -> Iterator[Hook]:
    """A server on the loopback address, with TLS where it has a ``certificate``."""
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with hook.arrived:
                hook.posts.append(Post(self.path, self.headers, body))
                hook.arrived.notify_all()
            status = hook.statuses.pop(0) if hook.statuses else 204
            self.send_response(status)
            if 300 <= status <= 399:
                self.send_header("Location", hook.location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_PUT = do_POST  # noqa: N815 - so too

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            pass  # a client that does not like the certificate

    server = Server(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    hook.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hook
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Channel:
    """A channel out that a test holds the gate of; ``fails`` takes the next failures."""

    name = "channel"

    def __init__(self) -> None:
        self.tried: list[str] = []
        self.delivered: list[str] = []
        self.fails: list[Exception | None] = []
        self.gate = threading.Event()
        self.gate.set()
        self.abandoned = 0
        self.changed = threading.Condition()
        self.on_try: Callable[[], None] = lambda: None

    def deliver(self, alert: Alert) -> None:
        with self.changed:
            self.tried.append(alert.number)
            self.changed.notify_all()
        self.on_try()
        assert self.gate.wait(20)
        failure = self.fails.pop(0) if self.fails else None
        if failure is not None:
            raise failure
        with self.changed:
            self.delivered.append(alert.number)
            self.changed.notify_all()

    def abandon(self) -> None:
        self.abandoned += 1

    def until_tried(self) -> None:
        """Wait for the first try."""
        self.until(lambda: self.tried)

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for something that deliver() does."""
        with self.changed:
            assert self.changed.wait_for(condition, 20), (self.tried, self.delivered)
