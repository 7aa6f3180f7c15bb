"""What a request costs: at which stages, how much, and what of it has been charged before.

The stages are those of Postfix's ``protocol_state``; which of them ask is a matter of main.cf.
"""

from __future__ import annotations

import hashlib
from binascii import b2a_base64
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.compiling import mypyc_attr
from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT
from policyd_rate_limit.domain.rules.attributes import reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.domain.request import Request

_SIZE: Final = reader("size")
QUESTIONS_PER_GENERATION: Final = 50_000
MOST_INSTANCE: Final = 64  # characters that are kept as they are; Postfix 3.7 sends about 25


@mypyc_attr(acyclic=True)
@dataclass(init=False, unsafe_hash=True)
class Cost:
    """What one request costs; see :class:`policyd_rate_limit.domain.charge.Charge` for ``part`` and ``settles``.

    ``amount`` is 0 where ``part`` is a value of which different ones are counted. ``each``: an equal request of the
    same mail is a part of its own; see :class:`Repetitions`.
    """

    amount: int
    part: str
    settles: bool
    each: bool

    def __init__(self, amount: int, part: str, settles: bool = False, each: bool = False) -> None:
        self.amount = amount
        self.part = part
        self.settles = settles
        self.each = each

    @property
    def most(self) -> int:
        """How much it may come to: 1, where that depends on whether a value is there already."""
        return self.amount or (1 if self.part else 0)


class Repetitions:
    """How often each request was asked, where equal ones are charged each.

    One that got no answer does not count: Postfix sends it again, and it is the same part of its mail then. So is one
    that was asked before a restart, when nobody knows any more whether it was answered, or before two generations
    of others, which bound the memory.
    """

    def __init__(self) -> None:
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}

    def part(self, question: str) -> str:
        """The part of its mail that ``question``, which is asked now, charges."""
        before = self._before(question)
        if len(self._young) >= QUESTIONS_PER_GENERATION:
            self._old = self._young
            self._young = {}
        self._young[question] = before + 1
        return f"{question}-{before}" if before else question

    def unanswered(self, question: str) -> None:
        """``question`` got no answer, and will get none."""
        before = self._before(question)
        if before:
            self._young[question] = before - 1

    def _before(self, question: str) -> int:
        found = self._young.get(question)
        return self._old.get(question, 0) if found is None else found


def _recipient(request: Request) -> Cost:
    return Cost(1, digest(request.recipient))


def _all_recipients(request: Request) -> Cost:
    return Cost(max(1, request.recipient_count), "", settles=True)


def _each_request(request: Request) -> Cost:
    return Cost(1, _question(request), each=True)


def _recipients_of_each_request(request: Request) -> Cost:
    return Cost(max(1, request.recipient_count), _question(request), each=True)


_MODES: dict[int | None, dict[str, Callable[[Request], Cost]]] = {
    None: {RCPT: _recipient, DATA: _all_recipients, END_OF_MESSAGE: _all_recipients},
    0: {RCPT: _each_request},
    1: {DATA: _recipients_of_each_request},
    2: {DATA: _each_request},
}


def stages(count_mode: int | None) -> dict[str, Callable[[Request], Cost]]:
    """What a request at each counted stage costs, under ``count_mode``."""
    return _MODES[count_mode]


DISTINCT: Final = "distinct"
"""What a unit begins with that counts the different values of an attribute: ``distinct recipient``."""

RECIPIENTS: Final = "recipients"
MESSAGES: Final = "messages"
BYTES: Final = "bytes"
UNITS: Final = (RECIPIENTS, MESSAGES, BYTES)
"""What a rule counts, if not the different values of an attribute: see :func:`attribute_of`."""

MOST_SIZE: Final = 2**53 - 1
"""The most bytes of one mail: a larger ``size`` is taken for this."""


def attribute_of(unit: str) -> str:
    """The attribute whose different values ``unit`` counts; empty: it counts something else."""
    word, _, attribute = unit.partition(" ")
    return attribute if word == DISTINCT else ""


def stages_of_unit(
    unit: str, *, by_recipient: bool, value_of: Callable[[Request], str] | None = None
) -> dict[str, Callable[[Request], Cost]]:
    """What a request costs, in ``unit``, at each stage at which that is known.

    ``by_recipient``: the rule looks at the recipient, who is known at RCPT alone. The size is known at the end.
    ``value_of``: gives the value of which different ones are counted.
    """
    if value_of is not None:
        cost_of = partial(_value, value_of)
        return {RCPT: cost_of} if by_recipient else dict.fromkeys((RCPT, DATA, END_OF_MESSAGE), cost_of)
    if unit == BYTES:
        return {END_OF_MESSAGE: _size}
    if unit == MESSAGES:
        return {RCPT: _message} if by_recipient else dict.fromkeys((RCPT, DATA, END_OF_MESSAGE), _message)
    return {RCPT: _recipient} if by_recipient else stages(None)


def _value(value_of: Callable[[Request], str], request: Request) -> Cost:
    return Cost(0, digest(value_of(request)))


def _message(_request: Request) -> Cost:
    return Cost(1, "", settles=True)


def _size(request: Request) -> Cost:
    value = _SIZE(request)
    is_number = value.isascii() and value.isdigit()
    return Cost(min(int(value[:17]), MOST_SIZE) if is_number else 0, "", settles=True)


def mail_id(instance: str) -> str:
    """What tells the requests of one mail, from the ``instance`` attribute; bounded in length."""
    return instance if len(instance) <= MOST_INSTANCE else digest(instance)


def _question(request: Request) -> str:
    """What tells a request from all others, except from the same one that is sent again.

    A mail may come to DATA twice, the second time with more recipients: when another restriction refused the first.
    """
    return digest(f"{request.instance}\n{request.sender}\n{request.recipient}\n{request.recipient_count}")


def digest(text: str) -> str:
    """What stands for ``text``, in :data:`DIGEST_CHARACTERS` characters: addresses are not kept longer than needed.

    Whoever sends a mail chooses its recipients, and two with one digest would be charged once. No key is needed so that
    they cannot be found: two such texts are among some 2**72.
    """
    hashed = _DIGEST.copy()  # half as long as making one
    hashed.update(text.encode("utf-8", "surrogateescape"))
    return b2a_base64(hashed.digest(), newline=False).decode()


_DIGEST: Final = hashlib.blake2b(digest_size=18)
DIGEST_CHARACTERS: Final = 24  # base64 of 144 bits: shorter than 128 bits in hexadecimal digits
