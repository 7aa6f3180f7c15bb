"""Addresses and networks of clients, each in one spelling.

Addresses compare as addresses: an IPv4 address mapped into IPv6 is that IPv4 address, and the zone of a link-local
address does not count.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, NamedTuple

MOST_ADDRESS: Final = 64
"""The most characters of an address: 45, and the zone of a link-local one."""


WIDTHS: Final = {4: 32, 6: 128}
"""The bits of an address, by the version of IP."""


class Network(NamedTuple):
    """A network or, with the longest ``length``, one address; what lies in it has the same first bits."""

    version: int
    bits: int
    length: int

    @property
    def is_address(self) -> bool:
        """Whether this is one address."""
        return self.length == WIDTHS[self.version]

    def within(self, length: int) -> Network:
        """The network of ``length`` bits that this one lies in."""
        width = WIDTHS[self.version]
        return Network(self.version, self.bits >> (width - length) << (width - length), length)

    def __str__(self) -> str:
        """As RFC 5952 writes it, with ``/length`` unless it is one address."""
        address = (IPv4Address if self.version == 4 else IPv6Address)(self.bits)
        return str(address) if self.is_address else f"{address}/{self.length}"


_MAPPED_LENGTH: Final = 96  # of ::ffff:0:0/96, which holds IPv4 in IPv6: RFC 4291, section 2.5.5.2
_MAPPED_BITS: Final = 0xFFFF << 32


def parse_address(text: str) -> Network | None:
    """The address that ``text`` writes, None when it writes none."""
    if not _like_an_address(text):
        return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return _unmapped(Network(address.version, int(address), address.max_prefixlen))


def parse_network(text: str) -> Network:
    """The network or address that ``text`` writes, in CIDR notation.

    Raises ValueError when it writes none, and when bits are set behind the length of the network.
    """
    if not _like_an_address(text):
        raise ValueError(f"{text!r} is neither an address nor a network")
    network = ip_network(text)
    return _unmapped(Network(network.version, int(network.network_address), network.prefixlen))


def _like_an_address(text: str) -> bool:
    """Whether it is worth while to try and read an address: failing takes long, and most ids are none."""
    return ":" in text or "0" <= text[:1] <= "9"


def _unmapped(network: Network) -> Network:
    """``network``, as IPv4 where it is IPv4 mapped into IPv6."""
    if network.version == 6 and network.length >= _MAPPED_LENGTH and network.bits >> 32 == 0xFFFF:
        return Network(4, network.bits ^ _MAPPED_BITS, network.length - _MAPPED_LENGTH)
    return network
