"""Ids and times as a person reads them."""

from __future__ import annotations

from datetime import datetime

from policyd_rate_limit.domain.counter import DEFAULT, rule_and_key

LONGEST_NAME = 200
"""The most characters of what a client sent: an id has no length limit, a mail has."""

_KINDS = {"user": "SASL user", "sender": "sender", "client": "client"}


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
    if separator and (kind in _KINDS or rule != DEFAULT):
        return printable(name or kind), _KINDS.get(kind, printable(kind))
    return printable(counter), ""


def rule_of(counter: str) -> str:
    """The rule that a counter is of; empty for that of the settings of version 1, which few know by a name."""
    rule, _ = rule_and_key(counter)
    return "" if rule == DEFAULT else printable(rule)


def local_time(date: float) -> str:
    """The Unix second ``date`` in the time zone of this machine, which it names."""
    try:
        return datetime.fromtimestamp(date).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    except (OverflowError, OSError, ValueError):  # a clock that has gone mad
        return f"@{date:.0f}"
