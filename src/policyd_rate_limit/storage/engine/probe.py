"""The probe, which looks for a database that is away, in a thread of its own.

To look may take as long as the database has for a batch. After that a batch is worth the same time: with less, a daemon
of several would not find its turn at a disk that is slow, and would stay away for as long as the others are busy.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from policyd_rate_limit.errors import StoreError
from policyd_rate_limit.storage.engine.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_WHILE_AWAY = 0.05  # seconds that looking for it may hold up the answers that memory could give at once
PATIENCE_WITH_SIGNS = 1.0  # likewise, where somebody seems to have mended something

_logger = logging.getLogger(__name__)


class Probe:
    """Looks for the database while it is away, now and then, and as soon as there are other signs of it.

    ``look`` raises StoreError where it is not there. ``monotonic``: a clock for the tries, in seconds. ``signs`` of the
    database: when they change somebody has mended something, and it is looked for at once.
    """

    def __init__(
        self, look: Callable[[], None], monotonic: Callable[[], float], signs: Callable[[], object] | None = None
    ) -> None:
        self._look = look
        self._signs = signs
        self._seen: object = None
        self._backoff = Backoff(monotonic)
        self._thread: threading.Thread | None = None
        self._reached = False

    def lost(self) -> None:
        """The database is away, as somebody else has found out."""
        if self._signs is not None:
            self._seen = self._signs()
        self._backoff.failed()

    def found(self) -> None:
        """The database is there."""
        self._backoff.succeeded()

    def has_reached(self) -> bool:
        """Whether the database, which is away, was within reach a moment ago; if it is time to, look for it."""
        if self._signs is not None and (signs := self._signs()) != self._seen:
            if self._thread is not None:
                self._thread.join(PATIENCE_WHILE_AWAY)
            if self._thread is None or not self._thread.is_alive():
                self._seen = signs
                self._start()
                if self._thread is not None:
                    self._thread.join(PATIENCE_WITH_SIGNS)
        elif self._thread is None:
            if self._backoff.due:
                self._start()
            return False
        if self._thread is None or self._thread.is_alive():
            return False
        self._thread = None
        if not self._reached:
            self._backoff.failed()
        return self._reached

    def join(self) -> None:
        """Wait until nobody is looking."""
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        self._thread = None
        thread = threading.Thread(target=self._run, name="probe", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no room for another thread
            _logger.warning("cannot start the thread that looks for the database: %s", error)
            self._backoff.failed()
        else:
            self._thread = thread

    def _run(self) -> None:
        try:
            self._look()
        except StoreError:
            self._reached = False
        except Exception:
            self._reached = False
            _logger.exception("looking for the database failed")
        else:
            self._reached = True
