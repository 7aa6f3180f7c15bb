"""The attributes of a request by name, as rules name them: those of Postfix, and what is made of them.

https://www.postfix.org/SMTPD_POLICY_README.html, "Protocol description".
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import idna

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.domain.request import Request

NAME: Final = "a name"
"""A user, an address, a word: compared without regard to case."""
DOMAIN: Final = "a domain"
"""Compared in its ASCII form: RFC 5891."""
ADDRESS: Final = "an IP address"
"""Compared as an address, however it is written."""
NUMBER: Final = "a number"
TIME: Final = "a time of day"
"""``22:05``, by the clock of this host."""

KINDS: Final = {
    # Postfix 2.1
    "protocol_state": NAME,
    "protocol_name": NAME,
    "helo_name": DOMAIN,
    "queue_id": NAME,
    "sender": NAME,
    "recipient": NAME,
    "client_address": ADDRESS,
    "client_name": DOMAIN,
    # 2.2
    "reverse_client_name": DOMAIN,
    "instance": NAME,
    "sasl_method": NAME,
    "sasl_username": NAME,
    "sasl_sender": NAME,
    "size": NUMBER,
    "ccert_subject": NAME,
    "ccert_issuer": NAME,
    "ccert_fingerprint": NAME,
    # 2.3
    "encryption_protocol": NAME,
    "encryption_cipher": NAME,
    "encryption_keysize": NUMBER,
    "recipient_count": NUMBER,
    "etrn_domain": DOMAIN,
    # 2.5 to 3.9
    "stress": NAME,
    "ccert_pubkey_fingerprint": NAME,
    "client_port": NUMBER,
    "policy_context": NAME,
    "server_address": ADDRESS,
    "server_port": NUMBER,
    "compatibility_level": NAME,
    "mail_version": NAME,
    # made of them
    "sasl_domain": DOMAIN,
    "sender_domain": DOMAIN,
    "recipient_domain": DOMAIN,
    "time": TIME,
}
"""What each attribute is."""

MOST_DOMAIN: Final = 255
"""The most characters of a domain that are looked at as one (RFC 5321, 4.5.3.1.2); a longer one is a name."""

REMEMBERED_DOMAINS: Final = 4096
"""The most domains with other characters than those of ASCII whose ASCII form is remembered, some 500 bytes each."""


def reader(name: str) -> Callable[[Request], str]:
    """What reads the attribute ``name`` of a request, as Postfix sent it; not ``time``, which is none of a request.

    Raises KeyError where there is no such attribute.
    """
    if name in _FIELDS:
        return _FIELDS[name]
    if name.endswith("_domain") and name in KINDS and name != "etrn_domain":
        return _domain_reader(_FIELDS[_WHOSE_DOMAIN[name]])
    if name not in KINDS or KINDS[name] == TIME:
        raise KeyError(name)
    return _text_reader(name)


def domain_of(address: str) -> str:
    """The domain of a mail address, or of a user that is named like one, in its ASCII form; empty where it has none."""
    _, at, domain = address.rpartition("@")
    return ascii_domain(domain) if at else ""


def ascii_domain(domain: str) -> str:
    """``domain`` as all its spellings are: in lower case, in ASCII (RFC 5891), without a dot at its end.

    What is no domain is folded as a name is.
    """
    if domain.isascii():
        return domain.lower().rstrip(".")
    return _ascii_form(domain)


def folded_name(name: str) -> str:
    """``name`` as all its spellings in upper and lower case are, and its domain as :func:`ascii_domain` has it."""
    if name.isascii():
        return name.lower()
    local, at, domain = name.rpartition("@")
    return f"{local.casefold()}@{ascii_domain(domain)}" if at else name.casefold()


@lru_cache(REMEMBERED_DOMAINS)
def _ascii_form(domain: str) -> str:
    if len(domain) <= MOST_DOMAIN:
        try:
            return idna.encode(domain, uts46=True).decode("ascii").rstrip(".")
        except (idna.IDNAError, UnicodeError):
            pass
    return domain.casefold().rstrip(".")


def _domain_reader(read: Callable[[Request], str]) -> Callable[[Request], str]:
    return lambda request: domain_of(read(request))


def _text_reader(name: str) -> Callable[[Request], str]:
    begin = f"\n{name}="

    def read(request: Request) -> str:
        text = request.text
        start = text.find(begin)
        if start < 0:
            return ""
        start += len(begin)
        return text[start : text.find("\n", start)]

    return read


_FIELDS: Final[dict[str, Callable[[Request], str]]] = {
    "protocol_state": lambda request: request.protocol_state,
    "instance": lambda request: request.instance,
    "queue_id": lambda request: request.queue_id,
    "sasl_username": lambda request: request.sasl_username,
    "sender": lambda request: request.sender,
    "recipient": lambda request: request.recipient,
    "client_address": lambda request: request.client_address,
    "recipient_count": lambda request: str(request.recipient_count),
}
_WHOSE_DOMAIN: Final = {"sasl_domain": "sasl_username", "sender_domain": "sender", "recipient_domain": "recipient"}
