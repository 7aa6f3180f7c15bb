"""The process ``policyd-rate-limit web``: sockets, the account, the accounts file, then requests until a signal."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from policyd_rate_limit.admin.opening import open_desk
from policyd_rate_limit.backends import backend_of
from policyd_rate_limit.errors import PolicydError
from policyd_rate_limit.subjects import make_subjects
from policyd_rate_limit.system import accounts, logs, sockets
from policyd_rate_limit.system.open_files import allow_open_files
from policyd_rate_limit.system.service_manager import ServiceManager
from policyd_rate_limit.web.accounts_file import AccountsFile, load
from policyd_rate_limit.web.app import make_app
from policyd_rate_limit.web.checks import PasswordChecks
from policyd_rate_limit.web.configured import Configured
from policyd_rate_limit.web.connection import MOST_CONNECTIONS, Connection
from policyd_rate_limit.web.desks import Desks
from policyd_rate_limit.web.listening import listeners
from policyd_rate_limit.web.security import MOST_HEAD
from policyd_rate_limit.web.site import Site

if TYPE_CHECKING:
    import socket
    from contextlib import AbstractContextManager
    from types import FrameType

    from starlette.applications import Starlette

    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.config import Settings

KEEP_ALIVE_SECONDS = 65
"""So long a connection waits for a further request: longer than nginx does, which then ends it, and loses none."""

STOP_SECONDS = 5
FILES_BESIDE_CONNECTIONS = 128

_logger = logging.getLogger(__name__)


class WebError(PolicydError):
    """The web page cannot start so; the message says why."""


class _Server(uvicorn.Server):
    """uvicorn's, which tells the service manager once it serves."""

    manager: ServiceManager

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.manager.tell("READY=1")


def run(settings: Settings, address: sockets.Address | None = None) -> None:
    """Serve until SIGTERM or SIGINT. ``address``: where to listen, in place of ``web_address``.

    :raises PolicydError: it cannot start.
    """
    mistakes = settings.mistakes_of("web_")
    if mistakes:
        raise WebError(mistakes)
    manager = ServiceManager(os.environ)
    # Before it becomes an account that may not be able to read the libraries; and a driver that is missing is told.
    backend_of(settings).open_administration(make_subjects(settings)).close()
    app = make_app(make_site(settings))
    account = accounts.resolve(settings.user, settings.group) if os.geteuid() == 0 else None
    bound = listeners(settings, account, address)
    try:
        allow_open_files(MOST_CONNECTIONS + FILES_BESIDE_CONNECTIONS)
        if account is not None:
            accounts.drop_privileges(account)
        os.umask(accounts.UMASK)
        load(Path(settings.web_accounts))  # what is wrong with it is told at once
        with logs.in_background():
            _serve(app, bound, manager)
    finally:
        for listener in bound:
            sockets.unlink_socket(listener)
            listener.close()


def make_site(settings: Settings) -> Site:
    """The site of this process, as ``settings`` have it at its start."""
    configured = Configured(settings)

    def open_one() -> AbstractContextManager[Desk]:
        return open_desk(configured.read(), as_account=False)

    return Site(
        settings=configured.settings,
        open_desk=open_one,
        desks=Desks(open_one, version=configured.version),
        accounts=AccountsFile(Path(settings.web_accounts)),
        passwords=PasswordChecks(),
        url=settings.web_url,
        user_header=settings.web_user_header,
        clock=time.monotonic,
        wall=time.time,
    )


def _serve(app: Starlette, bound: list[socket.socket], manager: ServiceManager) -> None:
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # what the proxy says is looked at by visitors, and believed on the UNIX socket alone
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
        h11_max_incomplete_event_size=MOST_HEAD,
    )
    server = _Server(config)
    server.manager = manager
    # uvicorn raises a signal once more when it has ended; and a reload is none: files are read when they change.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, _nothing)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    _logger.info("web: serving on %s", ", ".join(sockets.written(sockets.address_of(one)) for one in bound))
    uvloop.run(server.serve(bound))
    manager.tell("STOPPING=1")


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """The signal has been heeded."""
