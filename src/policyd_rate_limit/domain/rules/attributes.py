"""The attributes of a request by name, as rules name them: those of Postfix, and what else is known of it.

https://www.postfix.org/SMTPD_POLICY_README.html, "Protocol description".
"""

from __future__ import annotations

import re
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.ids import MOST_NAME

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
COUNTRY: Final = "a country"
"""Two letters of ISO 3166-1: ``DE``, in upper or lower case."""
TIME: Final = "a time of day"
"""``22:05``, by the clock of this host."""
VALUE: Final = "a value of a table"
"""Compared as a name is; where it is a date, by its age too."""

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
    # known beside them
    "country": COUNTRY,
    "time": TIME,
}
"""What each attribute is."""

OF_FACTS: Final = frozenset({"country", "time"})
"""Those that are no attributes of Postfix's: :class:`policyd_rate_limit.domain.rules.facts.Facts` has them."""

MOST_DOMAIN: Final = 255
"""The most characters of a domain that are looked at as one (RFC 5321, 4.5.3.1.2); a longer one is a name."""

REMEMBERED_DOMAINS: Final = 4096
"""The most domains with other characters than those of ASCII whose ASCII form is remembered, some 500 bytes each."""


def reader(name: str) -> Callable[[Request], str]:
    """What reads the attribute ``name`` of a request: as Postfix sent it, or of its facts.

    Raises KeyError where there is no such attribute.
    """
    if name in _FIELDS:
        return _FIELDS[name]
    if name.endswith("_domain") and name in KINDS and name != "etrn_domain":
        return partial(_domain_in, _FIELDS[_WHOSE_DOMAIN[name]])
    if name not in KINDS:
        raise KeyError(name)
    return partial(_value_behind, f"\n{name}=")


def domain_of(address: str) -> str:
    """The domain of a mail address, or of a user that is named like one, in its ASCII form; empty where it has none."""
    _, at, domain = address.rpartition("@")
    return ascii_domain(domain) if at else ""


def ascii_domain(domain: str) -> str:
    """``domain`` as all its spellings are: in lower case, in ASCII (RFC 5891), without a dot at its end.

    A label that has no such form, as one with a ``*`` has none, is folded as a name is.
    """
    if domain.isascii():
        return domain.lower().rstrip(".")
    if len(domain) > MOST_DOMAIN:
        return domain.casefold().rstrip(".")
    return _ascii_form(domain)


def folded_name(name: str) -> str:
    """``name`` as all its spellings in upper and lower case are, and its domain as :func:`ascii_domain` has it."""
    if name.isascii():
        name = name.lower()
        return name.rstrip(".") if name.endswith(".") and "@" in name else name
    local, at, domain = name.rpartition("@")
    # What stands for a name that is too long has the beginning of a domain at most.
    return f"{local.casefold()}@{ascii_domain(domain)}" if at and not is_shortened(name) else name.casefold()


def fold(value: str, kind: str) -> str:
    """``value`` as all its spellings are that are equal for a ``kind``; an address, which has to be read, as it is."""
    if kind == ADDRESS:
        return value
    return ascii_domain(value) if kind == DOMAIN else folded_name(value)


def is_shortened(name: str) -> bool:
    """Whether ``name`` is what stands for a longer one, as :func:`policyd_rate_limit.domain.ids.fold` makes it."""
    return len(name) == MOST_NAME and _SHORTENED.search(name) is not None


@lru_cache(REMEMBERED_DOMAINS)
def _ascii_form(domain: str) -> str:
    labels = _DOTS.sub(".", domain).rstrip(".").split(".")
    return ".".join([label.lower() if label.isascii() else _ascii_label(label) for label in labels]).rstrip(".")


def _ascii_label(label: str) -> str:
    try:
        import idna  # its tables are large, and most hosts never see such a domain

        return idna.encode(label, uts46=True).decode("ascii")
    except ValueError:  # there is no such domain
        return label.casefold()


# A function within a function would hold itself once it is compiled; rules that are no longer in force are to go by
# reference counts.


def _domain_in(read: Callable[[Request], str], request: Request) -> str:
    return domain_of(read(request))


def _value_behind(begin: str, request: Request) -> str:
    text = request.text
    start = text.find(begin)
    if start < 0:
        return ""
    start += len(begin)
    return text[start : text.find("\n", start)]


_DOTS: Final = re.compile("[\u3002\uff0e\uff61]")  # that stand for the one between labels: RFC 3490, section 3.1
_SHORTENED: Final = re.compile(r"…[0-9a-f]{32}\Z")
_FIELDS: Final[dict[str, Callable[[Request], str]]] = {
    "protocol_state": lambda request: request.protocol_state,
    "instance": lambda request: request.instance,
    "queue_id": lambda request: request.queue_id,
    "sasl_username": lambda request: request.sasl_username,
    "sender": lambda request: request.sender,
    "recipient": lambda request: request.recipient,
    "client_address": lambda request: request.client_address,
    "recipient_count": lambda request: str(request.recipient_count),
    "country": lambda request: request.facts.country_of(request.client_address),
    "time": lambda request: request.facts.time_of_day,
}
_WHOSE_DOMAIN: Final = {"sasl_domain": "sasl_username", "sender_domain": "sender", "recipient_domain": "recipient"}
