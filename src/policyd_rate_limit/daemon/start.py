"""Starting the daemon: sockets, the pidfile and the account come before anything is served."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from policyd_rate_limit.backends import backend_of
from policyd_rate_limit.daemon.daemon import Daemon
from policyd_rate_limit.server.server import MAX_CONNECTIONS
from policyd_rate_limit.system import accounts, logs, signals, sockets
from policyd_rate_limit.system.directories import ensure_directory
from policyd_rate_limit.system.open_files import allow_open_files
from policyd_rate_limit.system.pidfile import Pidfile
from policyd_rate_limit.system.service_manager import ServiceManager

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from policyd_rate_limit.config import Settings

FILES_BESIDE_CONNECTIONS = 128
METRICS_PERMISSION = 0o660  # of a UNIX socket for the metrics

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
    inherited = sockets.inherited(os.environ)
    daemon = Daemon(settings, manager)
    account = accounts.resolve(settings.user, settings.group) if os.geteuid() == 0 else None
    ensure_directory(Path(settings.pidfile).absolute().parent, account)
    backend_of(settings).make_state_directories(account)
    with Pidfile(settings.pidfile, account), contextlib.ExitStack() as bound:
        if settings.metrics_address is not None:
            daemon.export(_bind(settings.metrics_address, METRICS_PERMISSION, account, bound))
        listeners = _listeners(settings, inherited, account, bound)
        allow_open_files(MAX_CONNECTIONS + FILES_BESIDE_CONNECTIONS)
        if account is not None:
            accounts.drop_privileges(account)
        os.umask(accounts.UMASK)
        with logs.in_background():
            uvloop.run(daemon.serve(listeners))


def _listeners(
    settings: Settings,
    inherited: list[socket.socket],
    account: accounts.Account | None,
    bound: contextlib.ExitStack,
) -> list[socket.socket]:
    """The sockets of the service manager, else that of the configuration; ``bound`` closes them."""
    if not inherited:
        return [_bind(settings.SOCKET, settings.socket_permission, account, bound)]
    _compare(settings.SOCKET, inherited)
    for listener in inherited:
        bound.callback(_unbind, listener)
    return inherited


def _bind(
    address: sockets.Address, permission: int, account: accounts.Account | None, bound: contextlib.ExitStack
) -> socket.socket:
    if isinstance(address, str):
        ensure_directory(Path(address).absolute().parent, account)
    listener = sockets.bind(address, permission, account)
    bound.callback(_unbind, listener)
    return listener


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
