"""Actions with variables: ``450 4.7.1 {key}: {used} of {maximum} in {period}, next in {free_in}``.

A value is made one line of valid UTF-8, without control characters, and cut where it is long: on malformed UTF-8
Postfix takes its own default action, and a hostile byte in a sender would open the gate.
"""

from __future__ import annotations

import re
from time import localtime, strftime
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.limits import spell_period
from policyd_rate_limit.domain.rules.attributes import KINDS, TIME, reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.domain.charge import Usage
    from policyd_rate_limit.domain.limits import Limit
    from policyd_rate_limit.domain.request import Request

OF_LIMIT: Final = ("rule", "limit", "key", "maximum", "period")
"""Variables that are known with the verdict."""

OF_USE: Final = ("used", "free_in", "free_at")
"""Variables for which the store is asked how the limit stands."""

LONGEST_VALUE: Final = 200
"""The most characters of one value in a text."""

LONGEST_TEXT: Final = 2000
"""The most bytes of an action with its values: Postfix reads lines of ``line_length_limit``, 2048."""

WITH_TARGET: Final = ("filter", "redirect", "bcc")
"""Actions whose text is a destination, which no value from outside may be."""

_VARIABLE: Final = re.compile(r"\{([^{}]*)\}")
# Control characters, bytes that are not UTF-8, ends of lines, and what has a terminal write from right to left.
_NOT_SHOWN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class WrongText(ValueError):
    """An action has a variable that it cannot have: what was ``expected``, and the ``value`` that was found."""

    def __init__(self, expected: str, value: str) -> None:
        self.expected = expected
        self.value = value
        super().__init__(f"expected {expected}, found {value!r}")


class Text:
    """An action, with variables or without; ``asks_use``: whether the store must be asked how the limit stands."""

    def __init__(self, action: str) -> None:
        pieces = _VARIABLE.split(action)
        self.action = action
        self._constants = pieces[::2]
        self._names = pieces[1::2]
        self._readers: dict[str, Callable[[Request], str]] = {
            name: reader(name) for name in self._names if name not in OF_LIMIT and name not in OF_USE
        }
        self.has_variables = bool(self._names)
        self.asks_use = any(name in OF_USE for name in self._names)

    def fill(self, request: Request, rule: str, key: str, limit: Limit, usage: Usage | None, now: float) -> str:
        """The action for a mail that has exceeded ``limit`` of ``key`` in ``rule``, at ``now`` (Unix seconds)."""
        period = spell_period(limit.seconds) if limit.seconds else "mail"
        known = {
            "rule": rule,
            "limit": f"{limit.maximum}/{period}",
            "key": key,
            "maximum": str(limit.maximum),
            "period": period,
        }
        if usage is not None:
            known["used"] = str(usage.used)
            known["free_in"] = "never" if usage.free_in is None else in_words(usage.free_in)
            known["free_at"] = "never" if usage.free_in is None else clock_time(now + usage.free_in, now)
        text = self._constants[0]
        for name, constant in zip(self._names, self._constants[1:], strict=True):
            read = self._readers.get(name)
            text += one_line(known.get(name, "?") if read is None else read(request)) + constant
        return _cut(text)


def check_text(action: str) -> None:
    """See that ``action`` has known variables, none of them in its first word or the target of FILTER, REDIRECT, BCC.

    Raises WrongText.
    """
    names = _VARIABLE.findall(action)
    known = [*OF_LIMIT, *OF_USE, *(name for name, kind in KINDS.items() if kind != TIME)]
    for name in names:
        if name not in known:
            raise WrongText(f"one of the variables {', '.join((*OF_LIMIT, *OF_USE))}, or an attribute", f"{{{name}}}")
    if not names:
        return
    word = action.split(maxsplit=1)[0]
    if word.lower() in WITH_TARGET:
        raise WrongText(f"no variable in the target of {word}", action)
    if _VARIABLE.search(word) is not None:
        raise WrongText("an action of access(5) before the first variable", action)


def one_line(value: str) -> str:
    """``value`` as a reply may show it: one line, valid UTF-8, no control characters, not too long."""
    if len(value) > LONGEST_VALUE:
        value = value[:LONGEST_VALUE] + "…"
    return _NOT_SHOWN.sub("?", value)


def in_words(seconds: int) -> str:
    """A time to wait: ``45s``, ``12m``, ``3h5m``; rounded up, to minutes where it is longer than two of them."""
    if seconds <= 120:
        return f"{seconds}s"
    minutes = -(-seconds // 60)
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes else "")
    days, hours = divmod(hours + (minutes > 0), 24)
    return f"{days}d" + (f"{hours}h" if hours else "")


def clock_time(moment: float, now: float) -> str:
    """``14:05``, by the clock of this host, with its date where that is another day; rounded up to a minute."""
    at = localtime(-(-moment // 60) * 60)
    return strftime("%H:%M" if strftime("%F", at) == strftime("%F", localtime(now)) else "%F %H:%M", at)


def _cut(text: str) -> str:
    # What the configuration holds besides may be no UTF-8 either.
    return text.encode("utf-8", "replace")[:LONGEST_TEXT].decode("utf-8", "ignore")
