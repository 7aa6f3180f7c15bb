"""The queue of a channel, and the thread that sends from it, so that a slow receiver delays nobody else."""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import TYPE_CHECKING

from policyd_rate_limit.errors import DeliveryFailed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from policyd_rate_limit.notify.alert import Alert
    from policyd_rate_limit.notify.channel import Channel

MOST_QUEUED = 100
"""The most alerts that wait for one channel out; what comes then is dropped and counted."""

PAUSES = (2.0, 15.0, 60.0, 300.0)
"""Seconds between one try and the next; after the last one an alert is given up."""

STOP_SECONDS = 3.0
"""How long the end of the daemon waits for the last alerts."""

_logger = logging.getLogger(__name__)


class Outbox:
    """Sends alerts on one ``channel``, in order, each tried a few times.

    What goes wrong is logged when it begins and when it ends, not for each alert.
    """

    def __init__(self, channel: Channel, pauses: tuple[float, ...] = PAUSES) -> None:
        self._channel = channel
        self._pauses = pauses
        self._queue: queue.SimpleQueue[Alert | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"alerts: {channel.name}", daemon=True)
        self._failing = False
        self._lost = 0
        self._full = False
        self._dropped = 0  # by put() alone
        self._dropped_told = 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether something is still to be sent, or may still come."""
        return self._thread.is_alive()

    def put(self, alert: Alert) -> None:
        """Queue ``alert``; never waits."""
        if self._queue.qsize() >= MOST_QUEUED:
            self._dropped += 1
            if not self._full:
                self._full = True
                _logger.warning("%s: more than %d alerts wait; new ones are dropped", self._channel.name, MOST_QUEUED)
            return
        self._queue.put(alert)

    def stop(self) -> None:
        """Have what waits tried once more, without pauses; see :meth:`join`."""
        self._stopping.set()
        self._queue.put(None)

    def join(self, patience: float) -> None:
        """Wait for at most ``patience`` seconds for the end after :meth:`stop`; then leave it undone."""
        self._thread.join(patience)
        if self._thread.is_alive():
            self._channel.abandon()
            _logger.warning("%s: the daemon ends before its last alerts are sent", self._channel.name)

    def _run(self) -> None:
        while (alert := self._queue.get()) is not None:
            try:
                self._send(alert)
            except Exception:
                # The next one may be another matter.
                self._lost += 1
                _logger.exception("%s: an alert could not be sent", self._channel.name)

    def _send(self, alert: Alert) -> None:
        for pause in (*self._pauses, None):
            try:
                self._channel.deliver(alert)
            except DeliveryFailed as failure:
                if not self._failing:
                    self._failing = True
                    _logger.warning("%s: %s; retrying", self._channel.name, failure)
                if pause is None or self._stopping.wait(pause):
                    break
            else:
                self._tell_recovery()
                return
        self._lost += 1

    def _tell_recovery(self) -> None:
        dropped = self._dropped
        lost = self._lost + dropped - self._dropped_told
        if self._failing or lost:
            _logger.info("%s: alerts are sent again; %d were lost", self._channel.name, lost)
        self._lost, self._dropped_told = 0, dropped
        self._failing = self._full = False


def end_all(outboxes: Iterable[Outbox], ending: Iterable[Outbox]) -> None:
    """End ``outboxes``, and those that are ``ending`` already, within STOP_SECONDS in all, whatever hangs."""
    running = tuple(outboxes)
    for outbox in running:
        outbox.stop()
    deadline = time.monotonic() + STOP_SECONDS
    for outbox in (*ending, *running):
        outbox.join(max(0.0, deadline - time.monotonic()))
