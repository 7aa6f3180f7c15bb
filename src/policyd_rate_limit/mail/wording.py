"""Ids and times as a person reads them."""

from __future__ import annotations

from datetime import datetime

from policyd_rate_limit.domain.counter import DEFAULT, rule_and_key, unit_of
from policyd_rate_limit.domain.counting import attribute_of
from policyd_rate_limit.domain.quantity import quantity

LONGEST_NAME = 200
"""The most characters of what a client sent: an id has no length limit, a mail has."""

_VALUES = {
    "recipient": "recipient",
    "recipient_domain": "recipient domain",
    "sender": "sender",
    "sender_domain": "sender domain",
    "sasl_username": "SASL user",
    "sasl_domain": "domain of SASL users",
    "client_address": "client address",
    "country": "country",
}
_PLURALS = {
    "sasl_domain": "domains of SASL users",
    "client_address": "client addresses",
    "country": "countries",
}

KINDS = {"user": "SASL user", "sender": "sender", "client": "client"}
"""The kinds of subjects that are called otherwise than in their counters; and those of the settings of version 1."""


def printable(text: str, longest: int = LONGEST_NAME) -> str:
    """``text`` cut to ``longest``, with all that does not print escaped as in a Python string.

    That is newlines and other control characters, lone surrogates, and what changes the direction of writing.
    """
    if len(text) > longest:
        text = f"{text[: longest - 1]}…"
    if text.isprintable():
        return text
    escaped = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
    return escaped if len(escaped) <= longest else f"{escaped[: longest - 1]}…"


def name_and_kind(counter: str) -> tuple[str, str]:
    """Whom a counter stands for, and what that is; such as ``("alice", "SASL user")``."""
    rule, key = rule_and_key(counter)
    kind, separator, name = key.partition(":")
    if separator and (kind in KINDS or rule != DEFAULT):
        return printable(name or kind), KINDS.get(kind, printable(kind))
    return printable(counter), ""


def rule_of(counter: str) -> str:
    """The rule that a counter is of; empty for that of the settings of version 1, which few know by a name."""
    rule, _ = rule_and_key(counter)
    return "" if rule == DEFAULT else printable(rule)


def different(number: int, attribute: str) -> str:
    """``number`` different values of ``attribute``: ``20 different client addresses``."""
    one = _VALUES.get(attribute, f"value of {attribute}")
    many = _PLURALS.get(attribute, f"values of {attribute}" if attribute not in _VALUES else "")
    return quantity(number, f"different {one}", many and f"different {many}")


def counted_of(counter: str) -> str:
    """What different ones are counted of on a counter: ``different recipients``; empty: it counts something else."""
    attribute = attribute_of(unit_of(counter))
    return different(2, attribute).partition(" ")[2] if attribute else ""


def local_time(date: float) -> str:
    """The Unix second ``date`` in the time zone of this machine, which it names."""
    try:
        return datetime.fromtimestamp(date).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    except (OverflowError, OSError, ValueError):  # a clock that has gone mad
        return f"@{date:.0f}"
