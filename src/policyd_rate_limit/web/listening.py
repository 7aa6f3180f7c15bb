"""The sockets of the web page: those of the service manager, else the one that the configuration names.

Nothing that is sent there is encrypted, and the proxy is believed some things: so it is a UNIX socket, to which the
group of the proxy alone may connect, or loopback.
"""

from __future__ import annotations

import grp
import os
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from policyd_rate_limit.errors import ConfigError, Problem, UnknownAccount
from policyd_rate_limit.system import accounts, sockets
from policyd_rate_limit.system.directories import ensure_directory

if TYPE_CHECKING:
    import socket

    from policyd_rate_limit.config import Settings

PERMISSION = 0o660


def listeners(
    settings: Settings, account: accounts.Account | None, address: sockets.Address | None = None
) -> list[socket.socket]:
    """They listen. ``account``: who this process becomes; ``address``: in place of ``web_address``.

    Raises ConfigError and SystemRefusal.
    """
    inherited = sockets.inherited(os.environ)
    if inherited:
        for one in inherited:
            _check(sockets.address_of(one))
        return inherited
    where = settings.web_address if address is None else address
    if not isinstance(where, str):
        return [sockets.bind(where, PERMISSION, account)]
    ensure_directory(Path(where).absolute().parent, account)
    owner = None if account is None else account._replace(gid=_gid(settings.web_group))
    return [sockets.bind(where, PERMISSION, owner)]


def _gid(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise UnknownAccount(f"web_group: group {group!r} does not exist") from error


def _check(address: sockets.Address) -> None:
    if not isinstance(address, str) and not ip_address(address[0]).is_loopback:
        raise ConfigError(
            [
                Problem(
                    "sockets of the service manager",
                    0,
                    "web_address",
                    "a UNIX socket or loopback, behind your TLS proxy",
                    sockets.written(address),
                )
            ]
        )
