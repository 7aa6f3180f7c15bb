"""A mail of ours: RFC 5322, in MIME (RFC 2045, RFC 2046)."""

from __future__ import annotations

from datetime import datetime
from email.headerregistry import Address, AddressHeader
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, getaddresses, make_msgid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "policyd-rate-limit"
"""Whom our mails are from where the configuration does not say."""

_POLICY = SMTP.clone(cte_type="7bit")  # as servers without 8BITMIME want it: RFC 6152


def compose(
    sender: str,
    recipients: str | Sequence[str],
    subject: str,
    now: float,
    text: str,
    *,
    html: str | None = None,
    number: str | None = None,
) -> EmailMessage:
    """A mail dated ``now`` (Unix seconds), with ``html`` as the alternative to ``text``.

    ``number``: what its Message-ID is made of, so that a mail that is composed again has the same one.

    ``sender`` and ``recipients`` are addresses as RFC 5322 has them, ``Name <user@example.org>`` or without a name.
    Other characters than ASCII are encoded where RFC 2047 and MIME can; an address has them only with SMTPUTF8.
    """
    message = EmailMessage(policy=_POLICY)
    message["Date"] = format_datetime(datetime.fromtimestamp(now).astimezone())
    message["From"] = _parsed([sender])
    message["To"] = _parsed([recipients] if isinstance(recipients, str) else recipients)
    message["Subject"] = subject
    domain = addresses(message, "From")[0].rpartition("@")[2]
    if not domain.isascii():
        domain = "localhost"
    message["Message-ID"] = make_msgid(domain=domain) if number is None else f"<{number}@{domain}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's vacation answers it
    message.set_content(text)
    if html is not None:
        message.add_alternative(html, subtype="html")
    return message


def own_address(host: str) -> str:
    """The address in From where none is set: RFC 5322 wants one, whoever the sender of the envelope is."""
    return f"{NAME}@{host}"


def _parsed(texts: Sequence[str]) -> list[Address]:
    # Not by the header's own parser, which needs a domain, and fails on what is no address at all.
    found = []
    for name, address in getaddresses(list(texts)):
        user, _, domain = address.rpartition("@") if "@" in address else (address, "", "")
        found.append(Address(name, user, domain))
    return found


def addresses(message: EmailMessage, header: str) -> tuple[str, ...]:
    """The addresses in ``header`` of ``message``, without names."""
    found = message[header]
    assert isinstance(found, AddressHeader)  # noqa: S101 - the policy makes From and To such
    return tuple(address.addr_spec for address in found.addresses)
