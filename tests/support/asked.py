"""Requests as they come from Postfix, with any attributes."""

from __future__ import annotations

import time
from collections.abc import Sequence

from policyd_rate_limit.domain.request import Request
from policyd_rate_limit.domain.rules.facts import Facts
from policyd_rate_limit.protocol.codec import Decoder

# As Postfix 3.9 sends them, in its order.
IN_ORDER = (
    ("protocol_state", "RCPT"),
    ("protocol_name", "ESMTP"),
    ("client_address", ""),
    ("client_name", ""),
    ("client_port", "51234"),
    ("reverse_client_name", ""),
    ("server_address", "192.0.2.25"),
    ("server_port", "587"),
    ("helo_name", ""),
    ("sender", ""),
    ("recipient", ""),
    ("recipient_count", "0"),
    ("queue_id", ""),
    ("instance", "1.2.3"),
    ("size", "0"),
    ("etrn_domain", ""),
    ("stress", ""),
    ("sasl_method", ""),
    ("sasl_username", ""),
    ("sasl_sender", ""),
    ("ccert_subject", ""),
    ("ccert_issuer", ""),
    ("ccert_fingerprint", ""),
    ("ccert_pubkey_fingerprint", ""),
    ("encryption_protocol", "TLSv1.3"),
    ("encryption_cipher", ""),
    ("encryption_keysize", "256"),
    ("policy_context", ""),
    ("compatibility_level", "3.9"),
    ("mail_version", "3.9.1"),
)


def asked(**values: str) -> Request:
    """A request in Postfix's order, in which some attributes have these values."""
    assert values.keys() <= dict(IN_ORDER).keys()
    return asked_in_lines([(name, values.get(name, usual)) for name, usual in IN_ORDER])


def asked_in_lines(lines: Sequence[tuple[str, str]]) -> Request:
    """A request of these lines."""
    text = "".join(f"{name}={value}\n" for name, value in [("request", "smtpd_access_policy"), *lines])
    (request,) = Decoder().feed(text.encode("utf-8", "surrogateescape") + b"\n")
    return request


def as_sent(value: str) -> str:
    """``value`` as it is read when it comes: lone surrogates may have been the bytes of a character together."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def at(time_of_day: str, request: Request) -> Request:
    """``request``, as it comes at ``time_of_day`` by the clock of this host: ``22:05``."""
    hours, minutes = map(int, time_of_day.split(":"))
    request.facts = Facts(time.mktime((2026, 7, 1, hours, minutes, 0, 0, 0, -1)))
    return request
