"""Reads what smtpd(8) logs of the client from which it takes a mail.

    ID: client=NAME[ADDRESS]:PORT, sasl_method=.., sasl_username=.., sasl_sender=.., orig_queue_id=.., orig_client=..

The port is there with ``smtpd_client_port_logging``. The last two come from a filter that speaks XFORWARD
(XFORWARD_README): what the mail was before. What newer versions append is passed over.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_CLIENT: Final = re.compile(
    rb"([^\[\s]*)\[([^\]]*)\](?::\w+)?(?:, sasl_method=([^,]*))?(?:, sasl_username=([^,]*(?:,(?! [a-z_]+=)[^,]*)*))?"
    rb"(?:, sasl_sender=(.*?))?(?:, orig_queue_id=([0-9A-Za-z]+))?(?:, orig_client=([^\[\s]*)\[([^\]]*)\](?::\w+)?)?"
    rb"(?:, (?!sasl_|orig_)[a-z_]+=.*)?"
)


class Client(NamedTuple):
    """A client; what is not there is empty.

    ``address`` is empty where Postfix does not know it. ``original_id``, ``original_name``, ``original_address``: what
    a filter says of the mail that it hands back.
    """

    name: str
    address: str
    sasl_method: str
    sasl_username: str
    original_id: str
    original_name: str
    original_address: str


def client(text: bytes) -> Client | None:
    """The client that ``text`` tells of, which begins behind ``client=``; None: none."""
    found = _CLIENT.fullmatch(text)
    if found is None:
        return None
    name, address, method, username, sasl_sender, original_id, original_name, original_address = found.groups()
    if sasl_sender is not None:  # a client may choose it, and with it what follows
        original_id = original_name = original_address = None
    return Client(
        _text(name),
        known_address(address),
        _text(method),
        _text(username),
        _text(original_id),
        _text(original_name),
        known_address(original_address),
    )


def known_address(address: bytes | None) -> str:
    """``address`` as Postfix logs it; empty: it does not know it."""
    return "" if address == b"unknown" else _text(address)


def _text(data: bytes | None) -> str:
    return data.decode("utf-8", "surrogateescape") if data else ""
