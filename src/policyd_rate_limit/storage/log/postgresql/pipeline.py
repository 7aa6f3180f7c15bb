"""Talks to PostgreSQL by an end: psycopg's generators drive libpq, and each wait is one for the connection's socket."""

from __future__ import annotations

import functools
import itertools
import re
import select
import time
from typing import TYPE_CHECKING, Any, TypeVar

from psycopg import generators
from psycopg.waiting import Ready, Wait

from policyd_rate_limit.storage.log.contract import LogError, Statement

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from psycopg import pq
    from psycopg.abc import PQGen

T = TypeVar("T")

MOST_TEXTS = 256  # different statements that are kept as PostgreSQL wants them


def exchange(connection: pq.abc.PGconn, statements: Sequence[Statement]) -> PQGen[list[pq.abc.PGresult]]:
    """Send ``statements`` at once; the result of each, unless the connection is lost before."""
    for text, parameters in statements:
        # Each is of the type that its place asks for.
        values = [str(value).encode("utf-8", "surrogateescape") for value in parameters]
        connection.send_query_params(_numbered(text), values)
    connection.pipeline_sync()
    yield from generators.send(connection)
    results: list[pq.abc.PGresult] = []
    for _ in statements:
        results += yield from generators.fetch_many(connection)
    yield from generators.fetch_many(connection)  # that all have been answered
    return results


def drive(generator: Generator[Any, Any, T], end: float, descriptor: int = -1) -> T:
    """What ``generator``, one of psycopg's, comes to by ``end``; unless it names the socket, that is ``descriptor``.

    psycopg.waiting does that as well, but only its newest versions keep an end.

    :raises LogError: nothing comes in time.
    """
    try:
        waits = next(generator)
        while True:
            wanted, descriptor = (waits[1], waits[0]) if isinstance(waits, tuple) else (waits, descriptor)
            poll = select.poll()  # select() knows no descriptors beyond 1023
            readable, writable = (select.POLLIN if wanted & Wait.R else 0), (select.POLLOUT if wanted & Wait.W else 0)
            poll.register(descriptor, readable | writable)
            found = poll.poll(max(0.0, end - time.monotonic()) * 1000)
            if not found:
                raise LogError("no answer in time")
            # Of a connection that is lost libpq is to find out by trying.
            happened = found[0][1] if found[0][1] & (readable | writable) else readable | writable
            ready = (Ready.R if happened & readable else 0) | (Ready.W if happened & writable else 0)
            waits = generator.send(Ready(ready))
    except StopIteration as stop:
        result: T = stop.value
        return result


@functools.lru_cache(MOST_TEXTS)
def _numbered(text: str) -> bytes:
    """The text of a statement as PostgreSQL marks parameters: by number."""
    numbers = itertools.count(1)
    return re.sub("%s", lambda _: f"${next(numbers)}", text).encode()


def rows(result: pq.abc.PGresult) -> list[list[str | None]]:
    """The rows of ``result``, each value as text; None: null."""
    columns = range(result.nfields)
    return [
        [
            # A database in SQL_ASCII gives back whatever bytes an older version has put there.
            None if (value := result.get_value(row, column)) is None else value.decode("utf-8", "surrogateescape")
            for column in columns
        ]
        for row in range(result.ntuples)
    ]


def text(message: bytes | None) -> str:
    """The first line of what libpq says."""
    return first_line((message or b"").decode(errors="replace"))


def first_line(message: str) -> str:
    """What libpq adds in further lines is advice."""
    return message.strip().partition("\n")[0]
