"""Who is at the other end of a connection: whoever must not take the places of all others."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address, ip_network

IPV6_PREFIX = 64
"""Whoever has one IPv6 address has as many as they like of their network (RFC 4291, section 2.5.1)."""

LOOPBACK = "this host by TCP"
"""The peer of each loopback address: who has an account here may connect from all of 127.0.0.0/8."""

_CREDENTIALS = struct.Struct("iII")  # struct ucred of unix(7): process, user, group


def peer_of(connection: socket.socket) -> str:
    """Who has opened ``connection``: a user of this host by SO_PEERCRED of unix(7), or an address of TCP.

    :raises OSError: the connection is gone.
    """
    if connection.family == socket.AF_UNIX:
        _, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        return f"uid {uid} on the UNIX socket"
    return _of_address(str(connection.getpeername()[0]))


def _of_address(host: str) -> str:
    address = ip_address(host.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback:
        return LOOPBACK
    if address.version == 4:
        return f"[{address}]"
    network = ip_network((address, IPV6_PREFIX), strict=False)
    return f"[{network.network_address}]/{IPV6_PREFIX}"
