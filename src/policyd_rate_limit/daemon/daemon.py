"""The parts of the daemon, put together: they start in order, and end in the reverse."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import time
from functools import partial
from typing import TYPE_CHECKING

from policyd_rate_limit import __version__
from policyd_rate_limit.backends import backend_of
from policyd_rate_limit.backends.limits import make_sql_limits
from policyd_rate_limit.backends.tables import Tables
from policyd_rate_limit.daemon.policing import Policing
from policyd_rate_limit.daemon.reloading import Reloader, all_or_none
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.notify.channel import addresses_of_alerts, make_channels, make_channels_of_rules
from policyd_rate_limit.notify.notifier import Notifier
from policyd_rate_limit.notify.rule_notifier import RuleNotifier
from policyd_rate_limit.observe.decisions import Decisions
from policyd_rate_limit.observe.hit_history import HitHistory
from policyd_rate_limit.observe.hits import ReportedHits
from policyd_rate_limit.postfix.endpoint import endpoint
from policyd_rate_limit.postfix.lists import asking
from policyd_rate_limit.server.server import Server
from policyd_rate_limit.service import Service
from policyd_rate_limit.storage.engine.liveness import Liveness
from policyd_rate_limit.storage.engine.mailbox import Mailbox
from policyd_rate_limit.storage.engine.pacing import Pace
from policyd_rate_limit.storage.engine.worker import Worker
from policyd_rate_limit.storage.heartbeat import Introduction
from policyd_rate_limit.storage.replica import Memory
from policyd_rate_limit.subjects import make_subjects
from policyd_rate_limit.system import logs, signals, sockets
from policyd_rate_limit.system.service_manager import Supervision
from policyd_rate_limit.system.throttle import Throttle
from policyd_rate_limit.tables.countries import Countries, asks_for_countries, open_countries

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.observe.monitoring import Monitoring
    from policyd_rate_limit.storage.administration import Override
    from policyd_rate_limit.storage.engine.engine import Engine
    from policyd_rate_limit.system.service_manager import ServiceManager

HINT_SECONDS = 3_600.0  # between two hints about a stage that does not count
REFUSAL_SECONDS = 60.0  # between two lines about refusals of one key, or two warnings of one limit of one
BAD_CLIENT_SECONDS = 60.0  # between two lines about the same fault of clients
FIRST_OVERRIDES_SECONDS = 10.0  # at the most, to read the database before the first answer

_logger = logging.getLogger(__name__)


class Daemon:
    """One daemon, of ``settings``; ``manager`` has started it.

    It is made while everything can still be read: drivers are loaded, the file of countries, and what alerts need.
    Nothing is connected.

    :raises ConfigError: a driver is not installed, or its options are wrong; or there is no file of countries.
    """

    def __init__(self, settings: Settings, manager: ServiceManager) -> None:
        self._settings = settings
        self._manager = manager
        self._memory = Memory(Ledger(settings.max_ids), time.time)
        self._subjects = make_subjects(settings)
        self._backend = backend_of(settings)
        self._store = self._backend.make_store(self._subjects, self._memory)
        lookup = self._backend.make_lookup()
        self._sql_limits = make_sql_limits(settings, lookup, self._store) if lookup else None
        self._tables = Tables(settings, self._backend)
        self._countries = Countries(open_countries(settings), time.time) if asks_for_countries(settings) else None
        self._channels = make_channels(settings)
        self._channels_of_rules = make_channels_of_rules(settings)
        self._monitoring: Monitoring | None = None

    def export(self, listener: socket.socket) -> None:
        """Have metrics and health served on ``listener``, which listens."""
        from policyd_rate_limit.observe.monitoring import Monitoring  # its package is for those who want metrics

        self._monitoring = Monitoring(
            listener, backend=self._backend.name, windows=lambda: self._memory.ledger.windows, dropped=logs.dropped
        )

    async def serve(self, listeners: Sequence[socket.socket]) -> None:
        """Answer who asks on ``listeners`` until a signal says to stop; as the account that uses the database."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in signals.STOP_SIGNALS:
            loop.add_signal_handler(number, stop.set)
        policy_service = endpoint(sockets.address_of(listeners[0]))
        mailbox = Mailbox(self._memory.shared_time)
        mailbox.introduction = Introduction(os.uname().nodename, policy_service, os.getpid(), __version__)
        engine = self._backend.engine(self._store, self._memory, mailbox)
        liveness = Liveness(engine, settings.db_timeout)
        worker = Worker(liveness, loop)
        hits = ReportedHits((), mailbox.hit)
        notifier = Notifier(os.uname().nodename, time.time)
        of_rules = RuleNotifier(os.uname().nodename, time.time, notifier.mailed)
        decisions = Decisions(
            worker.explain,
            refused=Throttle(REFUSAL_SECONDS, loop.time),
            warned=Throttle(REFUSAL_SECONDS, loop.time),
            # The last asks the one before whom it has told.
            listeners=[hits, HitHistory(mailbox.history.hit), notifier, of_rules],
            metrics=self._monitoring.metrics if self._monitoring else None,
        )
        policing = Policing(
            settings, self._subjects, self._store, engine, self._sql_limits, self._tables, loop, self._countries
        )
        service = Service(
            policing.policy,
            worker.submit,
            observer=decisions,
            uncounted=Throttle(HINT_SECONDS, loop.time),
            policy_service=policy_service,
            explain=worker.explain,
            keep_blocks=partial(_keep_blocks, mailbox, worker),
            clock=mailbox.clock,
        )
        policing.govern(service)
        server = Server(
            service, idle_seconds=settings.delay_to_close, bad_client=Throttle(BAD_CLIENT_SECONDS, loop.time)
        )
        worker.pace = Pace(server.connections.clients)
        hits.reconfigure(settings)
        supervision = Supervision(self._manager, partial(self._status, engine), liveness.alive)
        parts = (_Log(decisions), hits, server, _Collector())
        reloader = Reloader(settings, partial(all_or_none, (policing, notifier, of_rules), parts), supervision)
        loop.add_signal_handler(signal.SIGHUP, reloader.request)
        mailbox.subscribe(lambda *published: loop.call_soon_threadsafe(policing.heed, *published))
        signals.release()  # not later: threads and child processes inherit the mask

        async with contextlib.AsyncExitStack() as running:
            running.callback(signals.ignore)  # a second one shall not cut the end short
            if self._monitoring is not None:
                running.push_async_callback(asyncio.to_thread, self._monitoring.stop)
            running.push_async_callback(_stop_together, notifier.stop, of_rules.stop)
            notifier.configure(self._channels, settings.notify_max_per_hour, addresses_of_alerts(settings))
            of_rules.configure(settings, self._channels_of_rules)
            _calm_garbage_collection()
            running.push_async_callback(worker.stop)
            worker.start()
            running.push_async_callback(policing.stop)
            policing.start()
            # Who is blocked stays so from the first request on; clients wait in the listening sockets' queues.
            await _first_of(policing.has_begun, stop, FIRST_OVERRIDES_SECONDS)
            running.push_async_callback(server.stop)
            await server.start(listeners, sockets.BACKLOG)
            if self._monitoring is not None:
                self._monitoring.start(
                    server.connections,
                    worker,
                    engine,
                    most_connections=server.most_connections,
                    alive=liveness.alive,
                )
            _logger.info("ready; in main.cf: %s", asking(policy_service))
            supervision.ready()
            running.callback(reloader.stop)
            reloader.start()
            ticking = asyncio.create_task(_tick(supervision))
            running.callback(ticking.cancel)
            await stop.wait()
            _logger.info("stopping")
            supervision.stopping()
        _logger.info("stopped")

    def _status(self, engine: Engine) -> str:
        """What the daemon does, in a few words."""
        ids = len(self._memory.ledger.windows)
        text = f"serving; {self._backend.name}; {ids:,} {'id' if ids == 1 else 'ids'}"
        if engine.away_since is not None:
            since = time.localtime(time.time() - (time.monotonic() - engine.away_since))
            text += time.strftime("; database away since %Y-%m-%d %H:%M:%S", since)
        return text


def _keep_blocks(mailbox: Mailbox, worker: Worker, blocks: Sequence[Override]) -> int:
    """Have every daemon heed ``blocks``, soon; see :class:`Service`."""
    number = mailbox.block(blocks)
    worker.hurry()
    return number


async def _stop_together(*stops: Callable[[], None]) -> None:
    """Call ``stops``, each of which may wait, at the same time."""
    await asyncio.gather(*map(asyncio.to_thread, stops))


class _Log:
    """Where to is logged, and how much; ``decisions`` keep in mind whether they are."""

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions

    def reconfigure(self, settings: Settings) -> None:
        """Log as ``settings`` say."""
        logs.configure(level=settings.least_severe, to=settings.log_to, form=settings.log_format)
        self._decisions.heed_level()


class _Collector:
    """Python's garbage collector, which is to leave alone what lives long."""

    def reconfigure(self, _: Settings) -> None:
        """The new settings do, too."""
        gc.freeze()


async def _first_of(one: asyncio.Event, other: asyncio.Event, timeout: float) -> None:
    """Wait for the first of two events, for ``timeout`` seconds at the most."""
    waits = [asyncio.create_task(event.wait()) for event in (one, other)]
    await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


async def _tick(supervision: Supervision) -> None:
    while supervision.tick_seconds is not None:
        await asyncio.sleep(supervision.tick_seconds)
        supervision.tick()


def _calm_garbage_collection() -> None:
    """Keep the garbage collector from visiting all that lives long, again and again: that stalls every answer.

    The windows are nothing that it visits, and what a request makes goes by reference counts.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10_000)
