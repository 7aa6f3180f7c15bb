"""Mailbox between event loop and store thread: hits and blocks for the database, overrides from it."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from policyd_rate_limit.storage.administration import MOST_BLOCKS, Hits
from policyd_rate_limit.storage.engine.waiting_history import WaitingHistory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from policyd_rate_limit.domain.limits import Limit
    from policyd_rate_limit.storage.administration import Override
    from policyd_rate_limit.storage.heartbeat import Introduction

MOST_HITS = 10_000  # keys and windows whose hits wait to be written, some 200 bytes each

_logger = logging.getLogger(__name__)


class Mailbox:
    """Keeps hits and blocks for the database, however long it is away, and passes overrides on.

    ``clock``: Unix seconds. Hits beyond :data:`MOST_HITS` different ones are dropped, which is said once until there is
    room again; beyond ``MOST_BLOCKS`` blocks no other is taken. ``history`` is what waits for the hit history.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.history = WaitingHistory(clock)
        self.introduction: Introduction | None = None  # which daemon this is, for the heartbeats
        self._lock = threading.Lock()
        self._hits: dict[tuple[str, int], Hits] = {}
        self._is_full = False
        self._publish: Callable[[list[Override], int], object] | None = None
        self._blocks: dict[str, Override] = {}
        self._asked = 0  # for blocks, so often

    def subscribe(self, publish: Callable[[list[Override], int], object]) -> None:
        """Have ``publish`` called, in the store thread, with the overrides in force whenever they have changed.

        It is told as well of which call of :meth:`block` the last blocks were that have been brought before: they are
        among the overrides, or others are in force in their place.
        """
        self._publish = publish

    def publish(self, overrides: list[Override], brought: int) -> None:
        """These are the overrides in force now, after the blocks of the ``brought``-th call of :meth:`block`."""
        if self._publish is not None:
            self._publish(overrides, brought)

    def block(self, blocks: Sequence[Override]) -> int:
        """``blocks`` are to be put in force; the number of this call, 0: there is no room for them."""
        with self._lock:
            if len(self._blocks) + len(blocks) > MOST_BLOCKS:
                return 0
            self._asked += 1
            for block in blocks:
                self._blocks.setdefault(block.key, block)
            return self._asked

    def take_blocks(self) -> tuple[list[Override], int]:
        """All blocks that wait, and the number of the last call that has brought any.

        Give them to :meth:`block_later` if they cannot be put in force.
        """
        with self._lock:
            blocks, self._blocks = self._blocks, {}
            return list(blocks.values()), self._asked

    def block_later(self, blocks: Iterable[Override]) -> None:
        """``blocks`` were taken, and go on waiting; those that have ended meanwhile do not."""
        now = self.clock()
        with self._lock:
            self._blocks.update((block.key, block) for block in blocks if block.until > now)

    def hit(self, key: str, limit: Limit) -> None:
        """``key`` ran into ``limit`` just now."""
        self.add((Hits(key, limit.seconds, 1, int(self.clock())),))

    def add(self, hits: Iterable[Hits]) -> None:
        """``hits`` are to be written, too."""
        with self._lock:
            for hit in hits:
                known = self._hits.get(hit[:2])
                if known is not None:
                    hit = Hits(hit.key, hit.seconds, known.hits + hit.hits, max(known.last, hit.last))
                elif len(self._hits) >= MOST_HITS:
                    self._drop()
                    continue
                self._hits[hit[:2]] = hit

    def take(self) -> list[Hits]:
        """All hits that wait, each key and window once. :meth:`add` them again if they cannot be written."""
        if not self._hits:
            return []
        with self._lock:
            hits, self._hits = self._hits, {}
            self._is_full = False
        return list(hits.values())

    def _drop(self) -> None:
        if not self._is_full:
            self._is_full = True
            _logger.warning("more than %d hits wait for the database: the report will lack some", MOST_HITS)
