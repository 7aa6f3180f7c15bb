"""The heartbeats of daemons in a database with SQL.

::

    policyd_daemon  id, place, heard, words

``id``: the run of a daemon; ``place``, ``heard`` and ``words``: see :mod:`policyd_rate_limit.storage.heartbeat`. A
database of an older version lacks the table; its daemons do not mind it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.storage.heartbeat import FORGOTTEN_SECONDS, MOST_DAEMONS, heartbeat_of
from policyd_rate_limit.storage.log.contract import Statement

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from policyd_rate_limit.storage.heartbeat import Heartbeat
    from policyd_rate_limit.storage.log.contract import Log

TABLE: Final = "policyd_daemon"

SELECT: Final = "SELECT id, heard, words FROM policyd_daemon ORDER BY heard DESC, id LIMIT %s"

_INSERT = "INSERT INTO policyd_daemon (id, place, heard, words) VALUES (%s, %s, %s, %s) "

_logger = logging.getLogger(__name__)


def are_kept(log: Log) -> bool:
    """Whether there is the table."""
    return log.has_table(TABLE)


def beat(log: Log, heartbeat: Heartbeat, patience: float, *, is_first: bool) -> None:
    """Keep ``heartbeat``; the first one of a run takes the place of those that were at work there before."""
    changed = dict.fromkeys(("place", "heard", "words"), "{new}")
    text = _INSERT + log.on_conflict("id", changed)
    statements = [Statement(text, (heartbeat.run, heartbeat.place, heartbeat.heard, heartbeat.words))]
    if is_first:
        others = "DELETE FROM policyd_daemon WHERE place = %s AND id <> %s"
        statements.insert(0, Statement(others, (heartbeat.place, heartbeat.run)))
    log.write(statements, patience)


def leave(log: Log, run: str, patience: float) -> None:
    """The daemon of that ``run`` ends by itself: nobody has to miss it."""
    log.write([Statement("DELETE FROM policyd_daemon WHERE id = %s", (run,))], patience)


def heartbeats(log: Log) -> list[Heartbeat]:
    """Those of all daemons, heard of last first."""
    return list(understood(log.read(SELECT, MOST_DAEMONS)))


def understood(rows: Iterable[Sequence[object]]) -> Iterator[Heartbeat]:
    """What ``rows`` of :data:`SELECT` say."""
    for run, heard, words in rows:
        try:
            yield heartbeat_of(str(run), int(str(heard)), str(words))
        except ValueError as error:
            _logger.error("a row of %s cannot be understood and is left out: %s", TABLE, error)


def clean(log: Log, now: int, patience: float) -> None:
    """Forget the daemons of which nothing was heard for long ``now``, or that are too many."""
    edge = now - FORGOTTEN_SECONDS
    beyond = log.read("SELECT heard FROM policyd_daemon ORDER BY heard DESC LIMIT 1 OFFSET %s", MOST_DAEMONS)
    if beyond:
        edge = max(edge, int(beyond[0][0]) + 1)
    if int(log.read("SELECT count(*) FROM policyd_daemon WHERE heard < %s", edge)[0][0]):
        log.write([Statement("DELETE FROM policyd_daemon WHERE heard < %s", (edge,))], patience)
