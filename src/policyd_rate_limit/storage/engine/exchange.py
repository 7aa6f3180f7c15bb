"""The exchange between mailbox and database: hits, their history and blocks for the database, overrides from it."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from policyd_rate_limit.errors import StoreError
from policyd_rate_limit.storage.administration import MOST_BLOCKS
from policyd_rate_limit.storage.engine.backoff import Backoff
from policyd_rate_limit.storage.heartbeat import BEAT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.storage.administration import Override
    from policyd_rate_limit.storage.contract import Store
    from policyd_rate_limit.storage.engine.mailbox import Mailbox

ROWS_AT_ONCE = 500  # of the hit history: some milliseconds, in which no batch has a turn
CLEANED_EACH = 3_600.0  # seconds between two looks for what of the hit history and the audit trail is too old
FIRST_CLEANING = 60.0  # seconds after the start

_logger = logging.getLogger(__name__)


class Exchange:
    """Brings hits and blocks of ``mailbox`` into the database of ``store``, and has it publish the overrides there.

    What fails is retried after a while, by ``monotonic``, a clock in seconds. ``waiting``: how many batches the
    database does not have.
    """

    def __init__(
        self, store: Store, mailbox: Mailbox, monotonic: Callable[[], float], waiting: Callable[[], int]
    ) -> None:
        self._store = store
        self._mailbox = mailbox
        self._monotonic = monotonic
        self._waiting = waiting
        self._started = self._next_beat = monotonic()
        self._backoff = Backoff(monotonic)
        self._is_failing = False  # which has been said
        self._steps = [self._exchange_overrides, self._bring_hits, self._bring_history, self._clean, self._beat]
        self._next_cleaning = monotonic() + FIRST_CLEANING
        self._has_published = False
        self._overrides: list[Override] = []
        self._brought = 0  # see Mailbox.subscribe
        self._is_full = False  # of blocks, which has been said

    def maintain(self, *, away: bool) -> None:
        """Called about once a second; ``away``: the database is."""
        if not away and self._backoff.due:
            self.run()
        if not self._has_published:
            self._publish()  # whoever waits for the first word of them

    def end(self) -> None:
        """Exchange all there is."""
        self.run()
        with contextlib.suppress(StoreError):  # which run() has said, or the next to come would
            while self._mailbox.history.waits:
                self._bring_history()
            self._store.leave()

    def run(self) -> None:
        """Exchange what there is.

        What ails one of them does not keep back the others: a failure costs the connection, so they are next.
        """
        done = 0
        try:
            for step in self._steps:
                done += 1
                step()
        except StoreError as error:
            self._steps = self._steps[done:] + self._steps[:done]
            self._backoff.failed()
            if not self._is_failing:
                self._is_failing = True
                _logger.warning("hits and overrides cannot be exchanged with the database: %s", str(error))
            return
        self._is_failing = False
        self._backoff.succeeded()

    def _exchange_overrides(self) -> None:
        """Put in force what waits for that, and only then learn what is in force."""
        brought = self._bring_blocks()
        overrides = self._store.overrides()
        if overrides is not None:
            self._overrides = overrides
        if overrides is not None or brought != self._brought:
            self._brought = brought
            self._publish()

    def _bring_blocks(self) -> int:
        blocks, number = self._mailbox.take_blocks()
        if blocks:
            try:
                left_out = self._store.block(blocks)
            except StoreError:
                self._mailbox.block_later(blocks)
                raise
            if left_out and not self._is_full:
                _logger.warning("more than %d overrides are in force: rules block nobody beyond that", MOST_BLOCKS)
            self._is_full = left_out > 0
        return number

    def _bring_hits(self) -> None:
        hits = self._mailbox.take()
        if hits:
            try:
                self._store.add_hits(hits)
            except StoreError:
                self._mailbox.add(hits)
                raise

    def _bring_history(self) -> None:
        rows = self._mailbox.history.take(ROWS_AT_ONCE)
        if rows:
            try:
                self._store.add_history(rows)
            except StoreError:
                self._mailbox.history.add(rows)
                raise

    def _clean(self) -> None:
        """Delete what is too old: so much at a time that no answer has to wait for it."""
        if self._monotonic() >= self._next_cleaning and not self._store.clean_trails():
            self._next_cleaning = self._monotonic() + CLEANED_EACH

    def _beat(self) -> None:
        """Say that this daemon is at work; again when the next one is due, also after an outage."""
        now = self._monotonic()
        if self._mailbox.introduction is not None and now >= self._next_beat:
            self._store.beat(self._mailbox.introduction, int(now - self._started), self._waiting())
            self._next_beat = now + BEAT_SECONDS

    def _publish(self) -> None:
        self._has_published = True
        self._mailbox.publish(self._overrides, self._brought)
