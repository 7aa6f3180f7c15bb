"""Reads mail logs, several at a time, and tells of mails and decisions in the order of time."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.maillog.outgoing import Outgoing
from policyd_rate_limit.maillog.postfix import Traffic
from policyd_rate_limit.maillog.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import tzinfo
    from pathlib import Path

    from policyd_rate_limit.maillog.mail import Decided, Mail
    from policyd_rate_limit.maillog.tally import Tally

BLOCKS_BYTES: Final = 1 << 22
"""That are read at once of all logs together, at the most."""

_MOST_BLOCK_BYTES: Final = 1 << 18
_LEAST_BLOCK_BYTES: Final = 1 << 14


def read(
    paths: Sequence[Path | str],
    *,
    wants_recipients: bool,
    now: float,
    zone: tzinfo,
    tally: Tally,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Mail | Decided]:
    """The mails and decisions of all logs, in the order of time.

    ``paths``: of the logs, in any order; ``"-"`` is standard input. ``wants_recipients``: whether mails are to have
    their recipients, for which they wait some time. ``now``: Unix seconds; no log is of later. ``zone``: of dates
    without one. ``tally``: is told what was read, and what could not be. ``progress``: is called with the bytes that
    were read and those that there are, as they are stored, 0 where that is not known.

    One that begins as another is the same, such as a compressed copy: it is left out, and told of as damaged.

    Raises MailLogError, before anything is read, where one cannot be opened.
    """
    block_bytes = min(_MOST_BLOCK_BYTES, max(_LEAST_BLOCK_BYTES, BLOCKS_BYTES // max(len(paths), 1)))
    sources: list[Source] = []
    begin: dict[bytes, str] = {}
    for path in paths:
        source = Source(path, zone=zone, now=now, block_bytes=block_bytes)
        if source.beginning in begin:
            source.close()
            tally.damaged.append((source.name, f"it begins as {begin[source.beginning]} does, and is not read"))
            continue
        if source.beginning:
            begin[source.beginning] = source.name
        sources.append(source)
    return _read(sources, wants_recipients, tally, progress)


def _read(
    sources: list[Source], wants_recipients: bool, tally: Tally, progress: Callable[[int, int], None] | None
) -> Iterator[Mail | Decided]:
    outgoing = Outgoing(tally)
    traffic = Traffic(outgoing, tally, wants_recipients=wants_recipients)
    total = sum(source.size for source in sources) if all(source.size for source in sources) else 0
    readings = [source.read(traffic, outgoing, tally) for source in sources]
    turns = [(source.next_time, number) for number, source in enumerate(sources)]
    heapq.heapify(turns)
    done = 0
    try:
        while turns:
            _, number = heapq.heappop(turns)
            source = sources[number]
            source.until = turns[0][0] if turns else float("inf")
            before = source.position
            if next(readings[number], _END) is not _END:
                heapq.heappush(turns, (source.next_time, number))
            if source.position != before:
                done += source.position - before
                if progress is not None:
                    progress(done, total)
            yield from outgoing.take()
    finally:
        for reading in readings:
            reading.close()
    traffic.end()
    outgoing.end()
    yield from outgoing.take()


_END: Final = object()
