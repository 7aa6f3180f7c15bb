"""Which subject a mail is charged to by the settings of version 1, and within which limits.

The SASL user, else the envelope sender, else the client address, each where it is enabled and not empty. The
three never share a counter: ``user:``, ``sender:`` and ``client:`` begin their keys.

IPv6 clients are charged by the network that their provider gave them, their /64.
"""

from __future__ import annotations

import contextlib
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeVar

from policyd_rate_limit.domain.charging import Charged, Charging
from policyd_rate_limit.domain.ids import MOST_NAME, fold, shortened
from policyd_rate_limit.domain.limits import Limits, longest_of
from policyd_rate_limit.domain.networks import MOST_ADDRESS, WIDTHS, Network, parse_address, parse_network
from policyd_rate_limit.domain.rules.facts import NO_FACTS, Facts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from policyd_rate_limit.domain.request import Request

_T = TypeVar("_T")

REMEMBERED_ADDRESSES: Final = 65536
"""The most client addresses whose charge is remembered, some 300 bytes each."""

IDS_AT_ONCE: Final = 256
"""How many ids are looked at before others may run: a compiled loop never lets go of the interpreter by itself."""


class _Named(dict[Network, _T]):
    """What is said of networks and addresses by name."""

    def __init__(self) -> None:
        super().__init__()
        self._lengths: dict[int, list[int]] = {version: [] for version in WIDTHS}

    def put(self, network: Network, value: _T) -> None:
        """Say ``value`` of ``network``."""
        lengths = self._lengths[network.version]
        if network.length not in lengths:
            lengths.append(network.length)
            lengths.sort(reverse=True)
        self[network] = value

    def longest(self, address: Network) -> Network | None:
        """The longest of the networks that hold ``address``, which may be a network too, None when none does."""
        lengths = self._lengths[address.version]
        candidates = (address.within(length) for length in lengths if length <= address.length)
        return next((network for network in candidates if network in self), None)


class _Clients:
    """Whom client addresses charge; apart from what remembers it, so that old ones go by reference counts."""

    def __init__(self, limits: Limits, limits_of_network: _Named[Limits], limited: _Named[None], prefix: int) -> None:
        self._limits = limits
        self._limits_of_network = limits_of_network
        self._limited = limited
        self._ipv6_prefix = prefix

    def read(self, text: str) -> Charged | None:
        """Whom a client address charges, None when it is none or lies in none of the limited networks."""
        address = parse_address(text)
        if address is None or not self.are_limited(address):
            return None
        return self.charge(address)

    def are_limited(self, network: Network) -> bool:
        """Whether all clients of ``network`` lie in one of the limited networks."""
        return self._limited.longest(network) is not None

    def charge(self, address: Network) -> Charged:
        """The key and the limits of a client: those of the longest network that is named and holds it."""
        charged = address if address.version == 4 else address.within(self._ipv6_prefix)
        limits = self._limits
        network = self._limits_of_network.longest(address)
        if network is not None:
            limits = self._limits_of_network[network]
            # A network that is named by itself, inside a member of the usual length, is a member of its own.
            if network.version == 6 and network.length > self._ipv6_prefix:
                charged = network
        return Charged(f"client:{charged}", limits)


class Subjects(Charging):
    """Who is charged within which limits; the parameters are the settings of the same names.

    ``limited_networks`` and the ids of ``limits_by_id`` are text. An id that reads as an address or a network
    names clients, any other names users and senders. ``ipv6_prefix`` is in bits. ``pause`` is called now and then,
    so that who shares the interpreter runs meanwhile. Raises ValueError when one of ``limited_networks`` is no network.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        limits_by_id: Mapping[str, Limits],
        limit_by_sasl: bool,
        limit_by_sender: bool,
        limit_by_ip: bool,
        limited_networks: Iterable[str],
        ipv6_prefix: int,
        pause: Callable[[], object] | None = None,
    ) -> None:
        self._pause = pause
        self._limits = limits
        self._by_sasl = limit_by_sasl
        self._by_sender = limit_by_sender
        self._by_ip = limit_by_ip
        self._ipv6_prefix = ipv6_prefix
        self._limits_of_name: dict[str, Limits] = {}
        named: _Named[Limits] = _Named()
        for count, (name, its_limits) in enumerate(limits_by_id.items()):
            if count % IDS_AT_ONCE == 0:
                self._let_others_run()
            try:
                named.put(parse_address(name) or parse_network(name), its_limits)
            except ValueError:
                self._limits_of_name[fold(name)] = its_limits
        self._limits_of_network = named
        limited: _Named[None] = _Named()
        for count, text in enumerate(limited_networks):
            if count % IDS_AT_ONCE == 0:
                self._let_others_run()
            limited.put(parse_network(text), None)
        self._clients = _Clients(limits, self._limits_of_network, limited, ipv6_prefix)
        # Addresses come again and again, and reading one takes ten times as long as all the rest.
        self._client = lru_cache(REMEMBERED_ADDRESSES)(self._clients.read)

    def charged(self, request: Request) -> Charged | None:
        if self._by_sasl and request.sasl_username:
            name = request.sasl_username.casefold()
            if len(name) > MOST_NAME:
                name = shortened(name)
            return Charged("user:" + name, self._limits_named(name))
        if self._by_sender and request.sender:
            name = request.sender.casefold()
            if len(name) > MOST_NAME:
                name = shortened(name)
            return Charged("sender:" + name, self._limits_named(name))
        if self._by_ip and len(request.client_address) <= MOST_ADDRESS:
            return self._client(request.client_address)
        return None

    def _limits_named(self, name: str) -> Limits:
        limits_of_name = self._limits_of_name
        return limits_of_name.get(name, self._limits) if limits_of_name else self._limits

    def ids_for_query(self, request: Request, charged: Charged) -> tuple[str, ...]:
        """The ids by which a table may know who ``request`` has charged; the first that it knows counts.

        Users and senders: in lower case, and, if that is not too long, as Postfix wrote them. Clients: the address, and
        the network of the key.
        """
        kind, _, name = charged.key.partition(":")
        if kind == "client":
            address = str(parse_address(request.client_address))
            return (address,) if address == name else (address, name)
        given = request.sasl_username if kind == "user" else request.sender
        return (name,) if given == name or len(given) > MOST_NAME else (name, given)

    def keys_of_old_id(self, old_id: str) -> tuple[str, ...]:
        """The keys that an id of the old databases stands for now.

        Those do not tell users from senders, so that what was counted for one goes on counting for both.
        """
        address = parse_address(old_id)
        if address is not None:
            return (self._clients.charge(address).key,)
        name = fold(old_id)
        return (f"user:{name}", f"sender:{name}")

    def keys_of_id(self, name: str) -> tuple[str, ...]:
        """The keys that ``name`` stands for, as an administrator writes it.

        ``user:alice``, ``sender:alice@example.org`` and ``client:192.0.2.1`` are that one key. Else an address, or a
        network that is charged as one client, is a client; any other name the user and the sender of that name, where
        those are charged. Raises ValueError when it stands for no key.
        """
        kind, _, rest = name.partition(":")
        if kind in ("user", "sender") and rest:
            return (f"{kind}:{fold(rest)}",)
        is_client = name.startswith("client:")
        address = rest if is_client else name
        try:
            network = parse_address(address) or parse_network(address)
        except ValueError:
            if is_client:
                raise
            return self._keys_of_name(name)
        if not is_client and not self._by_ip:
            raise ValueError(f"clients are not charged: limit_by_ip is not set; user:{name} is the user of that name")
        if not is_client and not self._clients.are_limited(network):
            raise ValueError(f"{network} is not charged: it lies in none of limited_networks")
        if network.is_address:
            return (self._clients.charge(network).key,)
        longer_and_named = network.length > self._ipv6_prefix and network in self._limits_of_network
        if network.version == 6 and (network.length == self._ipv6_prefix or longer_and_named):
            return (f"client:{network}",)
        raise ValueError(f"the network {network} is not charged as one client; name an address in it")

    def limits_of_key(self, key: str, facts: Facts = NO_FACTS) -> Limits:  # noqa: ARG002 - others need them
        return self.limits_and_setting(key)[0]

    def limits_and_setting(self, key: str) -> tuple[Limits, str]:
        """The limits of a key, and the setting that they come from: ``limits_by_id`` or ``limits``."""
        kind, _, name = key.partition(":")
        found = None
        if kind != "client":
            found = self._limits_of_name.get(name)
        else:
            with contextlib.suppress(ValueError):  # a database may hold anything
                network = self._limits_of_network.longest(parse_network(name))
                found = self._limits_of_network[network] if network else None
        return (self._limits, "limits") if found is None else (found, "limits_by_id")

    def named_keys(self) -> Iterator[str]:
        """The keys that ``limits_by_id`` names, as far as those are charged."""
        for name in self._limits_of_name:
            yield from (
                f"{kind}:{name}" for kind, charged in (("user", self._by_sasl), ("sender", self._by_sender)) if charged
            )
        if self._by_ip:
            yield from (f"client:{network}" for network in self._limits_of_network)

    def may_look_back_further(self, before: Charging) -> bool:
        assert isinstance(before, Subjects)  # noqa: S101 - rules of one name are of one class
        if longest_of(self._limits) > longest_of(before._limits):
            return True
        if self._any_name_longer(before, self._limits_of_name) or self._any_name_longer(before, before._limits_of_name):
            return True
        if self._has_the_networks_of(before):
            return False
        # Which network an address gets its limits from may be another one now.
        mine = longest_of(self._limits)
        for count, limits in enumerate(self._limits_of_network.values()):
            if count % IDS_AT_ONCE == 0:
                self._let_others_run()
            mine = max(mine, longest_of(limits))
        shortest = longest_of(before._limits)
        for count, limits in enumerate(before._limits_of_network.values()):
            if count % IDS_AT_ONCE == 0:
                self._let_others_run()
            shortest = min(shortest, longest_of(limits))
        return mine > shortest

    def _any_name_longer(self, before: Subjects, names: Iterable[str]) -> bool:
        """Whether one of ``names`` has a longer window than it had under ``before``."""
        for count, name in enumerate(names):
            if count % IDS_AT_ONCE == 0:
                self._let_others_run()
            mine = self._limits_of_name.get(name, self._limits)
            if longest_of(mine) > longest_of(before._limits_of_name.get(name, before._limits)):
                return True
        return False

    def _has_the_networks_of(self, before: Subjects) -> bool:
        """Whether the networks that are named, and their limits, are those that they were."""
        if len(self._limits_of_network) != len(before._limits_of_network):
            return False
        for count, (network, limits) in enumerate(self._limits_of_network.items()):
            if count % IDS_AT_ONCE == 0:
                self._let_others_run()
            if before._limits_of_network.get(network) != limits:
                return False
        return True

    def _let_others_run(self) -> None:
        if self._pause is not None:
            self._pause()

    def _keys_of_name(self, name: str) -> tuple[str, ...]:
        if not name:
            raise ValueError("an id that is empty")
        kinds = [kind for kind, is_charged in (("user", self._by_sasl), ("sender", self._by_sender)) if is_charged]
        if not kinds:
            raise ValueError("users and senders are not charged: neither limit_by_sasl nor limit_by_sender is set")
        return tuple(f"{kind}:{fold(name)}" for kind in kinds)
