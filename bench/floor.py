"""What the machine allows: a policy server on uvloop that answers ``dunno`` without looking.

``--durable FILE`` shows what durability costs: each batch of answers is appended to FILE and on disk before
it leaves. While one batch is written the next one gathers, as any server that commits in groups does.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
from collections.abc import Callable
from typing import cast

import uvloop

ANSWER = b"action=dunno\n\n"
RECORD = b"user0000000 1700000000 1\n"
END = b"\n\n"


class Blind(asyncio.Protocol):
    """One connection: counts the ends of requests, and has that many answers sent by ``answer``."""

    transport: asyncio.Transport

    def __init__(self, answer: Callable[[asyncio.Transport, int], None]) -> None:
        self.answer = answer
        self.last = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.last == b"\n" == data[:1]:
            requests = 1 + data.count(END, 1)
        else:
            requests = data.count(END)
        self.last = data[-1:]
        if requests:
            self.answer(self.transport, requests)


def answer_at_once(transport: asyncio.Transport, requests: int) -> None:
    """Without looking, without keeping anything."""
    transport.write(ANSWER * requests)


class AnswerWhenOnDisk:
    """Gathers answers, appends a record for each to a file, and lets them leave after ``fdatasync``."""

    def __init__(self, path: str) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.waiting: list[tuple[asyncio.Transport, int]] = []
        self.writing = False

    def __call__(self, transport: asyncio.Transport, requests: int) -> None:
        self.waiting.append((transport, requests))
        self._write_next()

    def _write_next(self) -> None:
        if self.writing or not self.waiting:
            return
        self.writing = True
        batch, self.waiting = self.waiting, []
        asyncio.get_running_loop().run_in_executor(None, self._keep, batch).add_done_callback(self._written)

    def _keep(self, batch: list[tuple[asyncio.Transport, int]]) -> list[tuple[asyncio.Transport, int]]:
        os.write(self.file, RECORD * sum(requests for _, requests in batch))
        os.fdatasync(self.file)
        return batch

    def _written(self, done: asyncio.Future[list[tuple[asyncio.Transport, int]]]) -> None:
        self.writing = False
        for transport, requests in done.result():
            if not transport.is_closing():
                transport.write(ANSWER * requests)
        self._write_next()


async def serve(host: str, port: int, durable: str | None) -> None:
    """Listen on ``host``:``port`` until SIGTERM."""
    answer = AnswerWhenOnDisk(durable) if durable else answer_at_once
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(
        lambda: Blind(answer), host, port, family=socket.AF_INET, backlog=socket.SOMAXCONN
    )
    await stop.wait()
    server.close()


def main() -> None:
    """Serve as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--durable", metavar="FILE", help="append every batch to FILE and fdatasync it first")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    uvloop.run(serve(options.host, options.port, options.durable))


if __name__ == "__main__":
    main()
