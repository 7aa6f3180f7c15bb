"""The composition root: the only module that sees everything."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from policyd_rate_limit import stores
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.notify.channel import make_channels
from policyd_rate_limit.notify.notifier import Notifier
from policyd_rate_limit.observe.decisions import Decisions
from policyd_rate_limit.observe.hits import ReportedHits
from policyd_rate_limit.postfix.endpoint import endpoint
from policyd_rate_limit.postfix.lists import asking
from policyd_rate_limit.reloading import Reloader
from policyd_rate_limit.rules import make_rules
from policyd_rate_limit.server import MAX_CONNECTIONS, Server
from policyd_rate_limit.service import Actions, Policy, Service
from policyd_rate_limit.storage.engine.liveness import Pulse
from policyd_rate_limit.storage.engine.mailbox import Notices
from policyd_rate_limit.storage.engine.pacing import Pace
from policyd_rate_limit.storage.engine.worker import Worker
from policyd_rate_limit.storage.replica import Memory
from policyd_rate_limit.system import accounts, logs, signals, sockets
from policyd_rate_limit.system.directories import ensure_directory
from policyd_rate_limit.system.notify import ServiceManager, Supervision
from policyd_rate_limit.system.pidfile import Pidfile
from policyd_rate_limit.system.throttle import Throttle

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.config.changes import Changes
    from policyd_rate_limit.domain.identity import Rules
    from policyd_rate_limit.notify.channel import Channel
    from policyd_rate_limit.observe.monitoring import Monitoring
    from policyd_rate_limit.storage.administration import Override
    from policyd_rate_limit.storage.engine.outage import Fallback
    from policyd_rate_limit.storage.log.store import LogStore
    from policyd_rate_limit.storage.redis.store import RedisStore
    from policyd_rate_limit.tables.sql import Lookup, SqlLimits

FILES_BESIDE_CONNECTIONS = 128
METRICS_PERMISSION = 0o660  # of a UNIX socket for the metrics
HINT_SECONDS = 3_600.0  # between two hints about a stage that does not count
REFUSAL_SECONDS = 60.0  # between two lines about refusals of one key
BAD_CLIENT_SECONDS = 60.0  # between two lines about the same fault of clients
FIRST_OVERRIDES_SECONDS = 10.0  # at the most, to read the database before the first answer

_logger = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Serve until SIGTERM, SIGINT or SIGUSR1.

    :raises PolicydError: the daemon cannot start.
    """
    signals.hold()  # they wait until the loop handles them
    try:
        _start(settings)
    except BaseException:
        signals.drop()
        raise


def _start(settings: Settings) -> None:
    manager = ServiceManager(os.environ)
    listeners = sockets.inherited(os.environ)
    # Drivers, and what alerts need, are loaded while everything can still be read.
    rules = make_rules(settings)
    memory = Memory(Ledger(settings.max_ids), time.time)
    store = stores.make_store(settings, rules, memory)
    lookup = stores.make_lookup(settings)
    longest = stores.longest_window(settings)
    sql_limits = stores.make_sql_limits(settings, lookup, store, longest) if lookup else None
    channels = make_channels(settings)
    account = accounts.resolve(settings.user, settings.group) if os.geteuid() == 0 else None
    ensure_directory(Path(settings.pidfile).absolute().parent, account)
    stores.make_state_directories(settings, account)
    with Pidfile(settings.pidfile, account), contextlib.ExitStack() as bound:
        monitoring = None
        if settings.metrics_address is not None:
            from policyd_rate_limit.observe.monitoring import Monitoring  # its package is for those who want metrics

            exported = _bind(settings.metrics_address, METRICS_PERMISSION, account)
            bound.callback(_unbind, exported)
            monitoring = Monitoring(
                exported, backend=stores.name(settings), windows=lambda: memory.ledger.windows, dropped=logs.dropped
            )
        if listeners:
            _compare(settings.SOCKET, listeners)
        else:
            listeners = [_bind(settings.SOCKET, settings.socket_permission, account)]
        for listener in listeners:
            bound.callback(_unbind, listener)
        _allow_open_files()
        if account is not None:
            accounts.drop_privileges(account)
        os.umask(accounts.UMASK)
        with logs.in_background():
            notices = Notices(memory.shared_time)
            fallback = stores.with_fallback(settings, store, memory, notices)
            status = partial(_status, stores.name(settings), memory, fallback)
            uvloop.run(
                _serve(
                    settings,
                    listeners,
                    rules,
                    store,
                    fallback,
                    sql_limits,
                    notices,
                    channels,
                    manager,
                    status,
                    monitoring,
                )
            )


def _bind(address: sockets.Address, permission: int, account: accounts.Account | None) -> socket.socket:
    if isinstance(address, str):
        ensure_directory(Path(address).absolute().parent, account)
    return sockets.bind(address, permission, account)


def _unbind(listener: socket.socket) -> None:
    sockets.unlink_socket(listener)
    listener.close()


def _compare(configured: sockets.Address, listeners: Sequence[socket.socket]) -> None:
    """Warn when the sockets of the service manager are not where the configuration has them."""
    addresses = [sockets.address_of(listener) for listener in listeners]
    if not any(sockets.is_same(configured, address) for address in addresses):
        _logger.warning(
            "SOCKET is %s, but the service manager has made %s, which is served instead",
            sockets.written(configured),
            ", ".join(map(sockets.written, addresses)),
        )


def _status(backend: str, memory: Memory, store: Fallback) -> str:
    """What the daemon does, in a few words."""
    ids = len(memory.ledger.windows)
    text = f"serving; {backend}; {ids:,} {'id' if ids == 1 else 'ids'}"
    if store.away_since is not None:
        since = time.localtime(time.time() - (time.monotonic() - store.away_since))
        text += time.strftime("; database away since %Y-%m-%d %H:%M:%S", since)
    return text


async def _serve(
    settings: Settings,
    listeners: Sequence[socket.socket],
    rules: Rules,
    store: LogStore | RedisStore,
    fallback: Fallback,
    sql_limits: SqlLimits | None,
    notices: Notices,
    channels: Sequence[Channel],
    manager: ServiceManager,
    status: Callable[[], str],
    monitoring: Monitoring | None,
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in signals.STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    policy_service = endpoint(sockets.address_of(listeners[0]))
    pulse = Pulse(fallback, settings.db_timeout)
    worker = Worker(pulse, loop)
    hits = ReportedHits(_reported(settings), notices.hit)
    notifier = Notifier(os.uname().nodename, time.time)
    decisions = Decisions(
        worker.explain,
        refused=Throttle(REFUSAL_SECONDS, loop.time),
        listeners=[hits, notifier],
        metrics=monitoring.metrics if monitoring else None,
    )
    service = Service(
        _policy(settings, rules, sql_limits),
        worker.submit,
        observer=decisions,
        uncounted=Throttle(HINT_SECONDS, loop.time),
        policy_service=policy_service,
        clock=notices.clock,
    )
    server = Server(
        service,
        idle_seconds=settings.delay_to_close,
        bad_client=Throttle(BAD_CLIENT_SECONDS, loop.time),
    )
    worker.pace = Pace(server.clients)
    supervision = Supervision(manager, status, pulse.alive)
    live = _Live(service, decisions, server, store, fallback, sql_limits, hits, notifier)
    notices.subscribe(lambda overrides: loop.call_soon_threadsafe(live.heed, overrides))
    reloader = Reloader(settings, live.prepare, supervision)
    loop.add_signal_handler(signal.SIGHUP, reloader.request)
    signals.release()  # not later: threads and child processes inherit the mask
    notifier.configure(channels, settings.notify_max_per_hour)
    _calm_garbage_collection()
    worker.start()
    if sql_limits is not None:
        sql_limits.start(loop)
    # Who is blocked stays so from the first request on; clients wait in the listening sockets' queues.
    waits = [asyncio.create_task(event.wait()) for event in (live.has_begun, stop)]
    await asyncio.wait(waits, timeout=FIRST_OVERRIDES_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    await server.start(listeners, sockets.BACKLOG)
    if monitoring is not None:
        monitoring.start(server, worker, fallback, most_connections=server.most_connections, alive=pulse.alive)
    _logger.info("ready; in main.cf: %s", asking(policy_service))
    supervision.ready()
    reloader.start()
    ticking = asyncio.create_task(_tick(supervision))
    await stop.wait()
    _logger.info("stopping")
    supervision.stopping()
    ticking.cancel()
    reloader.stop()
    await server.stop()
    await live.stop()
    await worker.stop()
    await loop.run_in_executor(None, notifier.stop)
    if monitoring is not None:
        await loop.run_in_executor(None, monitoring.stop)
    signals.hold()  # a second one shall not cut the clearing up
    _logger.info("stopped")


class _Live:
    """What a reload reaches of the running daemon."""

    # Those that the table of limits by id is read by.
    _OF_SQL_LIMITS = frozenset({"sql_limits_by_id", "sql_limits_ttl", "limits", "limits_by_id"})
    _OF_ALERTS = ("notify_", "smtp_", "report_from")  # how their names begin

    def __init__(
        self,
        service: Service,
        decisions: Decisions,
        server: Server,
        store: LogStore | RedisStore,
        fallback: Fallback,
        sql_limits: SqlLimits | None,
        hits: ReportedHits,
        notifier: Notifier,
    ) -> None:
        self._service = service
        self._decisions = decisions
        self._server = server
        self._store = store
        self._fallback = fallback
        self._sql_limits = sql_limits
        self._hits = hits
        self._notifier = notifier
        self._retiring: set[asyncio.Task[None]] = set()
        self.has_begun = asyncio.Event()  # to know of overrides

    def heed(self, overrides: Sequence[Override]) -> None:
        """These are the overrides in force now."""
        further = self._service.override(overrides)
        # Not before: what is decided by the old limits may forget what has just been read for a longer window.
        if further and self.has_begun.is_set():
            self._store.look_back(further)
        elif further:
            self._store.need(further)
        self.has_begun.set()

    def prepare(self, change: Changes) -> Callable[[], None]:
        """See :class:`policyd_rate_limit.reloading.Reloader`."""
        rules = make_rules(change.settings, partial(time.sleep, 0))
        lookup = stores.make_lookup(change.settings)
        further = rules.may_look_back_further(self._service.policy.rules) or (
            lookup is not None and self._sql_limits is None  # whose windows nobody knows yet
        )
        channels = make_channels(change.settings)
        longest = stores.longest_window(change.settings)
        return partial(self._put_into_force, change, rules, lookup, longest, further, channels)

    async def stop(self) -> None:
        """End what looks limits up."""
        if self._sql_limits is not None:
            await self._sql_limits.stop()
        await asyncio.gather(*self._retiring)

    def _put_into_force(
        self,
        change: Changes,
        rules: Rules,
        lookup: Lookup | None,
        longest: int,
        further: bool,
        channels: list[Channel],
    ) -> None:
        settings = change.settings
        logs.configure(level=settings.least_severe, to=settings.log_to, form=settings.log_format)
        self._decisions.heed_level()
        if further:
            # Before anybody is judged by the longer windows.
            self._store.look_back(longest)
        if change.changed & self._OF_SQL_LIMITS:
            new = stores.make_sql_limits(settings, lookup, self._store, longest) if lookup else None
            self._replace_sql_limits(new)
        # While both are in force by turns: who waits for memory to decide gets no answer from a store that does not.
        if settings.db_error_action is None:
            self._fallback.enforce(True)
        self._service.policy = _policy(settings, rules, self._sql_limits)
        if settings.db_error_action is not None:
            self._fallback.enforce(False)
        self._hits.windows = _reported(settings)
        if any(name.startswith(self._OF_ALERTS) for name in change.changed):
            self._notifier.configure(channels, settings.notify_max_per_hour)
        self._server.idle_seconds = settings.delay_to_close
        gc.freeze()  # this lives long, too

    def _replace_sql_limits(self, new: SqlLimits | None) -> None:
        loop = asyncio.get_running_loop()
        if new is not None:
            new.start(loop)
        old, self._sql_limits = self._sql_limits, new
        if old is not None:
            # Who has asked the old one still gets an answer.
            retiring = loop.create_task(old.stop())
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)


def _reported(settings: Settings) -> frozenset[int]:
    """The windows whose hits are counted, in seconds."""
    return frozenset(settings.report_limits if settings.report else ())


def _policy(settings: Settings, rules: Rules, sql_limits: SqlLimits | None) -> Policy:
    actions = Actions(
        settings.success_action, settings.fail_action, settings.db_error_action, block=settings.block_action
    )
    return Policy(rules, actions, settings.count_mode, sql_limits)


async def _tick(supervision: Supervision) -> None:
    while supervision.tick_seconds is not None:
        await asyncio.sleep(supervision.tick_seconds)
        supervision.tick()


def _allow_open_files() -> None:
    """Raise the limit of open files, as far as that is allowed, so that all connections fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + FILES_BESIDE_CONNECTIONS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard) if hard >= 0 else wanted, hard))


def _calm_garbage_collection() -> None:
    """Keep the garbage collector from visiting all that lives long, again and again: that stalls every answer.

    The windows are nothing that it visits, and what a request makes goes by reference counts.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10_000)
