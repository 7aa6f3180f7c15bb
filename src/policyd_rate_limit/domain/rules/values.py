"""Values of attributes of which different ones are counted, each in its one spelling."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.networks import MOST_ADDRESS, parse_address
from policyd_rate_limit.domain.rules.attributes import (
    ADDRESS,
    DOMAIN,
    KINDS,
    NUMBER,
    ascii_domain,
    folded_name,
    reader,
)
from policyd_rate_limit.domain.rules.keys import TERMS, parse_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.domain.request import Request


def value_reader(attribute: str, ipv6_prefix: int) -> Callable[[Request], str]:
    """What reads the value of ``attribute`` of a request; empty: it has none.

    Those that are terms of keys are read as keys are: clients by ``ipv6_prefix`` bits of an IPv6 address. Raises
    KeyError where there is no such attribute.
    """
    if attribute in TERMS and attribute in KINDS:
        (term,) = parse_key(attribute, ipv6_prefix).terms
        return term.id_of
    return partial(_spelt, _SPELLINGS.get(KINDS[attribute], folded_name), reader(attribute))


# A function within a function would hold itself once it is compiled.


def _spelt(spelling: Callable[[str], str], read: Callable[[Request], str], request: Request) -> str:
    return spelling(read(request))


def _address(text: str) -> str:
    found = parse_address(text) if len(text) <= MOST_ADDRESS else None
    return "" if found is None else str(found)


def _number(text: str) -> str:
    return text.lstrip("0") or text[-1:]


_SPELLINGS: dict[str, Callable[[str], str]] = {ADDRESS: _address, DOMAIN: ascii_domain, NUMBER: _number}
