"""The tables beside the batch table, as one daemon uses them: hits and their history, overrides, windows in use."""

from __future__ import annotations

import contextlib
import logging
import secrets
from typing import TYPE_CHECKING

from policyd_rate_limit.storage.heartbeat import Heartbeat
from policyd_rate_limit.storage.log import daemons, hit_history, tables, trails
from policyd_rate_limit.storage.log.contract import LogError
from policyd_rate_limit.storage.log.refusals import store_in_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from policyd_rate_limit.storage.administration import Hits, HourOfHits, Override
    from policyd_rate_limit.storage.heartbeat import Introduction
    from policyd_rate_limit.storage.log.contract import Log

ANNOUNCED_EACH = 3600  # seconds
TRIED_EACH = 3600  # seconds between two tries to make tables

_logger = logging.getLogger(__name__)


class SideTables:
    """Writes hits and their history, learns of overrides, and announces how far back this daemon looks.

    ``open_log`` connects to the database. ``patience``: how many seconds what is not urgent may wait for others. All
    of it raises LogError where the database fails.
    """

    def __init__(self, open_log: Callable[[], Log], patience: float) -> None:
        self._open_log = open_log
        self._patience = patience
        self._overrides: list[Override] = []
        self._overrides_version: Hashable = None
        self._lacks_overrides = False  # a table that was rebuilt
        self._name = secrets.token_hex(16)  # of this daemon
        self._with_trails: Hashable = None  # the identity of the table beside which those of the trails are
        self._without_trails = -1  # the hour in which they could not be made
        self._with_daemons: Hashable = None  # the identity of the table beside which this daemon is known by another
        self._without_daemons = -1  # the hour in which it could not be told of
        self._announced: tuple[Hashable, int, int] | None = None

    def rebuilt(self) -> None:
        """The batch table lacked what this daemon knows, and has it again; so are these to have it."""
        self._lacks_overrides = True

    def add_hits(self, log: Log, hits: Sequence[Hits]) -> None:
        """Write ``hits``, all or none of them."""
        tables.add_hits(log, hits, self._patience)

    def add_hits_in_parts(self, hits: Sequence[Hits], error: Exception) -> bool:
        """Write those of ``hits`` that the database takes, which refuses them together; whether there were any."""
        dropped = store_in_parts(self._open_log, hits, self.add_hits)
        if len(dropped) == len(hits):
            return False
        for hit in dropped:
            _logger.error("the database refuses the hits of %r, which no report will tell of: %s", hit.key, error)
        return True

    def add_history(self, log: Log, rows: Sequence[HourOfHits], now: int) -> None:
        """Add ``rows`` to the hit history, all or none of them; ``now``: Unix second."""
        if self._has_trails(log, now):
            with self._trails_in_doubt():
                hit_history.add(log, rows, self._patience)

    def add_history_in_parts(self, rows: Sequence[HourOfHits], error: Exception) -> bool:
        """Add those of ``rows`` that the database takes, which refuses them together; whether there were any."""
        dropped = store_in_parts(self._open_log, rows, lambda log, some: hit_history.add(log, some, self._patience))
        if len(dropped) == len(rows):
            return False
        for row in dropped:
            _logger.error("the database refuses what %r ran into, which its history lacks: %s", row.key, error)
        return True

    def clean_trails(self, log: Log, now: int) -> bool:
        """Delete some of what is too old at ``now`` (Unix second) of both trails; whether there is more."""
        if not self._has_trails(log, now):
            return False
        with self._trails_in_doubt():
            return trails.clean(log, now, self._patience)

    def _has_trails(self, log: Log, now: int) -> bool:
        """Whether there are the tables that older versions do not make; they are made if that is allowed."""
        if self._with_trails != log.identity:
            if now // TRIED_EACH == self._without_trails:
                return False
            try:
                if not trails.are_kept(log):
                    # A connection that is refused this is of no more use.
                    with contextlib.closing(self._open_log()) as another:
                        another.add_tables()
            except LogError as error:
                self._without_trails = now // TRIED_EACH
                _logger.warning(
                    "no hit history is kept, and commands change nothing, for the tables of that and of the audit trail"
                    " cannot be made; policyd-rate-limit doctor prints them: %s",
                    error,
                )
                return False
            self._with_trails = log.identity
        return True

    def beat(self, log: Log, who: Introduction, uptime: int, waiting: int) -> None:
        """Tell of this daemon that it is at work, by the clock of the database."""
        now = int(log.time())
        heartbeat = Heartbeat(self._name, *who, since=now - uptime, heard=now, waiting=waiting)
        if self._with_daemons == log.identity:
            self._with_daemons = None
            daemons.beat(log, heartbeat, self._patience, is_first=False)
            self._with_daemons = log.identity
        elif now // TRIED_EACH != self._without_daemons:
            try:
                # A connection that is refused this is of no more use.
                with contextlib.closing(self._open_log()) as another:
                    if not daemons.are_kept(another):
                        another.add_tables()
                    daemons.beat(another, heartbeat, self._patience, is_first=True)
            except LogError as error:
                self._without_daemons = now // TRIED_EACH
                _logger.warning("nobody sees in the database that this daemon is at work: %s", error)
            else:
                self._with_daemons = log.identity

    def leave(self, log: Log) -> None:
        """This daemon ends."""
        if self._with_daemons is not None:
            daemons.leave(log, self._name, self._patience)

    def clean_daemons(self, log: Log, now: int) -> None:
        """Forget the daemons that nobody has heard of for long ``now`` (Unix second)."""
        if self._with_daemons is not None:
            daemons.clean(log, now, self._patience)

    @contextlib.contextmanager
    def _trails_in_doubt(self) -> Iterator[None]:
        """Have the tables looked for again when something fails."""
        try:
            yield
        except LogError:
            self._with_trails = None
            raise

    def block(self, log: Log, blocks: Sequence[Override], now: int) -> int:
        """Put ``blocks`` in force at ``now`` (Unix second), all or none of them; for how many there was no room."""
        return tables.block(log, blocks, now, self._patience)

    def block_in_parts(self, blocks: Sequence[Override], now: int, error: Exception) -> None:
        """Put those of ``blocks`` in force that the database takes, which refuses them together."""
        for one in store_in_parts(self._open_log, blocks, lambda log, some: self.block(log, some, now)):
            _logger.error("the database refuses the block of %r: %s", one.key, error)

    def overrides(self, log: Log, now: int) -> list[Override] | None:
        """Those in force at ``now`` (Unix second), None: as at the last call."""
        if self._lacks_overrides:
            for override in self._overrides:
                tables.set_override(log, override, now, self._patience)
            self._lacks_overrides = False
        version = (log.identity, tables.overrides_version(log))
        if version == self._overrides_version:
            return None
        self._overrides = tables.overrides(log, now)
        self._overrides_version = version
        return self._overrides

    def announce(self, log: Log, seconds: int, date: int) -> None:
        """Have everybody's ``--clean`` know that this daemon looks back ``seconds``; ``date``: the second it is now.

        Said now and then, and when it changes.
        """
        announcement = (log.identity, seconds, date // ANNOUNCED_EACH)
        if announcement != self._announced:
            self._announced = announcement  # or a right that is missing would be met each second
            # Once it is gone for as long as its longest window, nobody needs what it has counted.
            tables.announce_window(log, self._name, seconds, date + seconds + 2 * ANNOUNCED_EACH, self._patience)
