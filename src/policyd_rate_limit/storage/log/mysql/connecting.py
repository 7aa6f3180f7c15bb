"""Connects to MySQL by an end: the addresses of the server, one after the other, and what proves who connects."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

import pymysql

from policyd_rate_limit.storage.watchdog import Watchdog, resolve

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.storage.log.mysql.options import Options


def connect(
    options: Options, end: float, client_flag: int = 0
) -> tuple[pymysql.Connection[pymysql.cursors.Cursor], Watchdog]:
    """A connection that is established by ``end`` (of the monotonic clock), and what bounds its time from there on.

    Fails with errors of any kind where the peer is no MySQL server.
    """
    encrypted = options.tls is not None
    connection = pymysql.Connection(
        user=options.user,
        password=options.password.encode(),
        host=options.host,
        port=options.port,
        database=options.database,
        charset="utf8mb4",
        client_flag=client_flag,
        init_command=options.init_command,
        autocommit=True,
        program_name="policyd-rate-limit",
        server_public_key=options.public_key,
        ssl=options.tls,
        # On this machine only when asked for.
        ssl_disabled=None if encrypted else options.without_tls or bool(options.unix_socket) or None,
        auth_plugin_map=_plugins(trusted=encrypted or bool(options.unix_socket)),
        defer_connect=True,
    )
    server = _dial(options, end)
    try:
        watchdog = Watchdog(server.fileno())
    except BaseException:
        server.close()
        raise
    try:
        with watchdog.until(end):
            connection.connect(server)
    except BaseException as error:
        server.close()
        watchdog.close()
        if watchdog.has_bitten:
            raise TimeoutError("no answer in time") from error
        raise
    return connection, watchdog


def _dial(options: Options, end: float) -> socket.socket:
    """A socket that is connected to the server."""
    if options.unix_socket:
        server = socket.socket(socket.AF_UNIX)
        try:
            server.settimeout(max(end - time.monotonic(), 0.001))
            server.connect(options.unix_socket)
        except BaseException:
            server.close()
            raise
        return server
    addresses = resolve(options.host, options.port, end - time.monotonic())
    for index, address in enumerate(addresses):
        now = time.monotonic()
        share = max((end - now) / (len(addresses) - index), 0.001)
        try:
            server = socket.create_connection(address, share, (options.bind_address, 0))
        except OSError:
            if index == len(addresses) - 1:
                raise
        else:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return server
    raise OSError(f"{options.host} has no address")


class _PeerCredentials:
    """MariaDB's ``unix_socket`` and MySQL's ``auth_socket``: the kernel tells the server who connects."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def authenticate(self, _packet: object) -> Any:
        self._connection.write_packet(b"")
        # PyMySQL has plugins return the server's answer, and no public method that reads one.
        return self._connection._read_packet()


class _NoPlainPassword:
    """A server that asks for the password itself: only where nobody can listen, or stand in for the server."""

    def __init__(self, connection: object) -> None:
        pass

    def authenticate(self, _packet: object) -> Any:
        raise pymysql.OperationalError(0, "it asks for the password in clear text; set ssl in mysql_config for that")


def _plugins(*, trusted: bool) -> dict[str, Callable[[Any], Any]]:
    """What PyMySQL lacks to authenticate, and what it does without a look at the connection."""
    plugins: dict[str, Callable[[Any], Any]] = {"unix_socket": _PeerCredentials, "auth_socket": _PeerCredentials}
    if not trusted:
        plugins |= {"mysql_clear_password": _NoPlainPassword, "dialog": _NoPlainPassword}
    return plugins
