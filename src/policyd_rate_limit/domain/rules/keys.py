"""Keys: who shares a counter in a rule. Patterns never say that, keys alone do.

A key is one term, several joined by ``+`` (a combination), or several joined by ``|`` (the first that is not empty).
"""

from __future__ import annotations

import re
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.ids import fold
from policyd_rate_limit.domain.networks import MOST_ADDRESS, parse_address, parse_network
from policyd_rate_limit.domain.rules.attributes import (
    ADDRESS,
    COUNTRY,
    DOMAIN,
    NAME,
    ascii_domain,
    folded_name,
    is_shortened,
)
from policyd_rate_limit.domain.rules.attributes import KINDS as ATTRIBUTES
from policyd_rate_limit.domain.rules.tables import asks_facts_for, attribute_in, reader_of, table_and_attribute

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from policyd_rate_limit.domain.networks import Network
    from policyd_rate_limit.domain.request import Request
    from policyd_rate_limit.domain.rules.tables import Table

TERMS: Final = {
    "sasl_username": "user",
    "sasl_domain": "sasl_domain",
    "sender": "sender",
    "sender_domain": "sender_domain",
    "recipient": "recipient",
    "recipient_domain": "recipient_domain",
    "client_address": "client",
    "country": "country",
    "server": "server",
}
"""Each term of a key, and the kind of the ids that it makes: ``user:alice``."""

KINDS: Final = {
    "user": NAME,
    "sender": NAME,
    "recipient": NAME,
    "sasl_domain": DOMAIN,
    "sender_domain": DOMAIN,
    "recipient_domain": DOMAIN,
    "client": ADDRESS,
    "country": COUNTRY,
    "server": NAME,
}
"""How ids of each kind are compared: see :mod:`.attributes`. Those of a combination are names."""

DOMAIN_KINDS: Final = frozenset(kind for kind, compared_as in KINDS.items() if compared_as == DOMAIN)
"""The kinds of ids that are domains."""

MOST_TERMS: Final = 4
"""The most terms of one key."""

REMEMBERED_ADDRESSES: Final = 16_384
"""The most addresses of which one term remembers the network, some 300 bytes each."""

EXPECTED: Final = "terms joined by either + or |, such as sasl_username, sasl_domain or client_address/24/56"

_COUNTRY: Final = re.compile("[A-Za-z]{2}")
_SIGNS: Final = re.compile(r"\\[\\+]|[^+]|\+", re.DOTALL)
_CLIENT: Final = re.compile(r"client_address(?:/([0-9]{1,2})/([0-9]{1,3}))?")


class WrongKey(ValueError):
    """What should be a key is not: ``expected``, and the ``value`` that was found."""

    def __init__(self, expected: str, value: str) -> None:
        self.expected = expected
        self.value = value
        super().__init__(f"expected {expected}, found {value!r}")


class Term:
    """One term: the ``kind`` of its ids, and the id that it makes of a request; empty where the request has none.

    ``asks_facts``: that takes more than the request, and what is in memory.
    """

    def __init__(self, name: str, kind: str, id_of: Callable[[Request], str], *, asks_facts: bool = False) -> None:
        self.name = name
        self.kind = kind
        self.id_of = id_of
        self.asks_facts = asks_facts

    def written(self, name: str) -> str:
        """The id of this term that an administrator means by ``name``; empty where it can be none."""
        if self.kind == "server":
            return ""
        if self.kind == "country" and not _COUNTRY.fullmatch(name):
            return ""
        return fold(ascii_domain(name) if KINDS.get(self.kind) == DOMAIN else folded_name(name))


class ClientTerm(Term):
    """The network of a client: so many bits of an IPv4 and of an IPv6 address."""

    def __init__(self, name: str, ipv4: int, ipv6: int) -> None:
        lengths = {4: ipv4, 6: ipv6}
        # Addresses come again and again, and reading one takes ten times as long as all the rest. Nothing that is
        # remembered holds the term: old ones go by reference counts.
        remembered = lru_cache(REMEMBERED_ADDRESSES)(partial(_network_in, lengths))
        super().__init__(name, "client", partial(_client_in, remembered))
        self.lengths = lengths

    def network_of(self, address: Network) -> Network:
        """The network that is charged for ``address``."""
        return address.within(min(address.length, self.lengths[address.version]))

    def written(self, name: str) -> str:
        try:
            network = parse_address(name) or parse_network(name)
        except ValueError:
            return ""
        return str(self.network_of(network)) if network.length >= self.lengths[network.version] else ""


class Key:
    """Whose counter a mail is charged on. ``text``: as it is written."""

    def __init__(self, text: str, terms: Sequence[Term], *, is_combination: bool) -> None:
        self.text = text
        self.terms = tuple(terms)
        self.is_combination = is_combination
        self._kind = "+".join(term.kind for term in terms)

    @property
    def asks_facts(self) -> bool:
        """Whether more than Postfix's attributes, and what is in memory, is looked at for it."""
        return any(term.asks_facts for term in self.terms)

    @property
    def attributes(self) -> frozenset[str]:
        """All attributes of a request that it looks at, if only to ask a table about them."""
        return frozenset(attribute_in(term.name) for term in self.terms)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the ids that it makes: one for each alternative."""
        return (self._kind,) if self.is_combination else tuple(term.kind for term in self.terms)

    def compared_as(self) -> str:
        """How its ids compare with patterns: as one of the kinds of :mod:`.attributes`."""
        kinds = {KINDS.get(term.kind, NAME) for term in self.terms}
        return kinds.pop() if len(kinds) == 1 and not self.is_combination else NAME

    def of(self, request: Request) -> str:
        """``kind:id``; empty: the rule does not apply to ``request``."""
        kind, name = self.kind_and_id(request)
        return f"{kind}:{name}" if kind else ""

    def kind_and_id(self, request: Request) -> tuple[str, str]:
        """The kind and the id; a kind that is empty: the rule does not apply to ``request``."""
        if self.is_combination:
            ids = [term.id_of(request) for term in self.terms]
            return ("", "") if "" in ids else (self._kind, fold(combined(ids)))
        for term in self.terms:
            found = term.id_of(request)
            if found or term.kind == "server":
                return term.kind, found
        return "", ""

    def empty_in(self, request: Request) -> tuple[str, ...]:
        """The terms for which ``request`` has no id: where :meth:`of` is empty, those that keep the rule from it."""
        return tuple([term.name for term in self.terms if term.kind != "server" and not term.id_of(request)])

    def written(self, name: str) -> tuple[str, ...]:
        """The keys (``kind:id``) that ``name`` may stand for, as an administrator writes it: with its kind or without.

        What begins with a kind of this key is of that kind: ``user:user:x`` is a user who is named ``user:x``. Those of
        combinations have their parts joined by ``+``; in a part, ``\\+`` is that sign itself.
        """
        kind, colon, rest = name.partition(":")
        if colon and kind in self.kinds:
            return self._written(rest, kind)
        return self._written(name, "")

    def _written(self, name: str, kind: str) -> tuple[str, ...]:
        if self.is_combination:
            if is_shortened(name):
                return (f"{self._kind}:{fold(name)}",)
            parts = _parts(name)
            if len(parts) != len(self.terms):
                return ()
            ids = [term.written(part) for term, part in zip(self.terms, parts, strict=True)]
            return () if "" in ids else (f"{self._kind}:{fold(combined(ids))}",)
        found = []
        for term in self.terms:
            if kind not in ("", term.kind):
                continue
            if term.kind == "server" and name in ("server", ""):
                found.append("server:")
            elif made := term.written(name):
                found.append(f"{term.kind}:{made}")
        return tuple(found)


def combined(ids: Sequence[str]) -> str:
    """The id of a combination: ``alice+192.0.2.1``. What a client chose cannot be taken for the sign between them."""
    return "+".join(one.replace("\\", "\\\\").replace("+", "\\+") for one in ids)


def _parts(name: str) -> list[str]:
    """The ids that :func:`combined` made ``name`` of; other backslashes are themselves: DOMAIN\\user."""
    parts = [""]
    for sign in _SIGNS.findall(name):
        if sign == "+":
            parts.append("")
        else:
            parts[-1] += sign[-1]
    return parts


def _network_in(lengths: dict[int, int], text: str) -> str:
    """The network of one of ``lengths`` that the address ``text`` lies in; empty where it is none."""
    address = parse_address(text)
    return "" if address is None else str(address.within(lengths[address.version]))


def _client_in(read: Callable[[str], str], request: Request) -> str:
    text = request.client_address
    return read(text) if len(text) <= MOST_ADDRESS else ""


def parse_key(text: str, ipv6_prefix: int, tables: Mapping[str, Table] | None = None) -> Key:
    """The key that ``text`` writes; IPv6 clients without a length of their own are known by ``ipv6_prefix`` bits.

    ``tables`` are asked by name; one that is not among them is silent.

    Raises WrongKey.
    """
    is_combination = "+" in text
    if is_combination and "|" in text:
        raise WrongKey(EXPECTED, text)
    names = [name.strip() for name in text.split("+" if is_combination else "|")]
    if len(names) > MOST_TERMS or len(set(names)) != len(names):
        raise WrongKey(f"at most {MOST_TERMS} terms, each once", text)
    if "server" in names and (is_combination or names[-1] != "server"):
        raise WrongKey("server by itself, or as the last alternative: it is never empty", text)
    return Key(text, [_term(name, ipv6_prefix, tables or {}) for name in names], is_combination=is_combination)


def _term(name: str, ipv6_prefix: int, tables: Mapping[str, Table]) -> Term:
    client = _CLIENT.fullmatch(name)
    if client is not None:
        ipv4, ipv6 = (int(client[1]), int(client[2])) if client[1] else (32, ipv6_prefix)
        if not (1 <= ipv4 <= 32 and 1 <= ipv6 <= 128):
            raise WrongKey("lengths from 1 to 32 and from 1 to 128 bits, as in client_address/24/56", name)
        return ClientTerm(name, ipv4, ipv6)
    asked = table_and_attribute(name)
    if asked is not None:
        table, attribute = asked
        if attribute not in ATTRIBUTES:
            raise WrongKey("an attribute between the parentheses, as in $customer(sasl_domain)", attribute)
        asks_facts = asks_facts_for(name, tables or {})
        return Term(name, f"${table}", partial(_folded, reader_of(name, tables)), asks_facts=asks_facts)
    if name not in TERMS:
        raise WrongKey(EXPECTED, name)
    if name == "server":
        return Term(name, "server", lambda _request: "")
    read = reader_of(name, tables)
    if name.endswith("_domain"):
        return Term(name, TERMS[name], lambda request: fold(read(request)))
    return Term(name, TERMS[name], partial(_folded, read))


def _folded(read: Callable[[Request], str], request: Request) -> str:
    return fold(folded_name(read(request)))
