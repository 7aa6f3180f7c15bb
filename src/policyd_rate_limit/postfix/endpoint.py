"""Where a policy service is, as main.cf names it: ``inet:host:port`` or ``unix:path``."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from policyd_rate_limit.domain.networks import parse_address

Address = str | tuple[str, int]
"""The path of a UNIX socket, or host and port."""

QUEUE_DIRECTORY = Path("/var/spool/postfix")
"""Postfix's own default for queue_directory: smtpd usually sees nothing outside of it."""

_ANYWHERE = ("0.0.0.0", "::", "")  # noqa: S104 - nothing is bound
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def endpoint(where: Address, queue_directory: Path = QUEUE_DIRECTORY) -> str:
    """How main.cf of this host names the socket at ``where``."""
    if isinstance(where, str):
        path = Path(where)
        return f"unix:{path.relative_to(queue_directory) if path.is_relative_to(queue_directory) else path}"
    host, port = where
    if host in _ANYWHERE:
        host = "::1" if host == "::" else "127.0.0.1"
    return f"inet:[{host}]:{port}" if ":" in host else f"inet:{host}:{port}"


def address(endpoint: str, root: Path | None, directory: Path) -> Address | None:
    """Where an endpoint leads on this host, from a process in ``directory`` that is chrooted to ``root``.

    None: it is not understood.
    """
    kind, _, where = endpoint.partition(":")
    if kind == "unix":
        if not where.startswith("/"):
            return os.path.normpath(directory / where)
        return os.path.normpath(f"{root or ''}{where}")
    host, _, port = where.rpartition(":")
    if kind != "inet" or not port:
        return None
    try:
        return host.strip("[]"), int(port) if port.isdigit() else socket.getservbyname(port, "tcp")
    except OSError:
        return None


def is_same(one: Address | None, other: Address) -> bool:
    """Whether two addresses are one: ``one`` as smtpd has it, ``other`` as the daemon listens."""
    if one is None or isinstance(one, str) or isinstance(other, str):
        return isinstance(one, str) and isinstance(other, str) and os.path.realpath(one) == os.path.realpath(other)
    if one[1] != other[1]:
        return False
    if other[0] in _ANYWHERE or (one[0] in _LOOPBACK and other[0] in _LOOPBACK and "localhost" in (one[0], other[0])):
        return True
    return (parse_address(one[0]) or one[0]) == (parse_address(other[0]) or other[0])
