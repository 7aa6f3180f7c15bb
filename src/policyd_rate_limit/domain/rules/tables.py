"""Tables: what an administrator says of many values, in a list, a mapping, a file or a database.

A rule asks one by ``$table`` (a value is in it), ``$table=text`` (it says that of the value) and ``$table(attribute)``
(what it says of an attribute is itself looked at, or is the key).
"""

from __future__ import annotations

import contextlib
import re
from abc import ABC, abstractmethod
from datetime import datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.compiling import mypyc_attr
from policyd_rate_limit.domain.counting import BYTES, RECIPIENTS
from policyd_rate_limit.domain.limits import LimitsError, longest_of, parse_limits, parse_limits_text
from policyd_rate_limit.domain.rules.attributes import KINDS, OF_FACTS, VALUE, fold, reader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.domain.request import Request
    from policyd_rate_limit.domain.rules.facts import Facts

REMEMBERED_LIMITS: Final = 4096
"""The most different texts of limits that are remembered as limits, some 500 bytes each."""

LONGEST_LIMITS: Final = 1000
"""The most characters of the limits that a table gives; longer ones are none."""

LIMITS: Final = "limits such as 100/1h, which a rule takes of this table"
"""What a table is expected to say of a value where a rule takes its limits of it."""

REMEMBERED_DATES: Final = 4096
"""The most different texts of dates that are remembered as moments, some 200 bytes each."""

_ATTRIBUTE: Final = re.compile(r"\$([a-z][a-z0-9_-]*)\(([a-z_]+)\)")
_SECONDS: Final = re.compile(r"[0-9]{9,12}(?:\.[0-9]*)?")


@mypyc_attr(allow_interpreted_subclasses=True)
class Table(ABC):
    """What is said of values; ``name``: as rules call it, without ``$``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asks_facts = False
        """Whether it has to be asked, since what it says is not in memory."""

    @abstractmethod
    def of_kind(self, kind: str) -> TableOfKind:
        """The table as it is asked about values of a ``kind`` (see :mod:`.attributes`), from now on."""


# Apart from the table, so that a mail calls no method that a class which is not compiled might have: those are slow.
class TableOfKind(ABC):
    """A table as it is asked about values of one kind."""

    @abstractmethod
    def find(self, folded: str, facts: Facts) -> str | None:
        """What is said of a value, ``folded`` as by :func:`policyd_rate_limit.domain.rules.attributes.fold`.

        None: nothing, or that is not known yet; ``facts`` then have what to ask. An entry without a text says itself.
        """


class Silent(Table):
    """A table of which nothing is known."""

    def of_kind(self, kind: str) -> TableOfKind:  # noqa: ARG002 - others need it
        return _SilentOfKind()


class _SilentOfKind(TableOfKind):
    def find(self, folded: str, facts: Facts) -> str | None:  # noqa: ARG002 - others need them
        return None


def table_and_attribute(name: str) -> tuple[str, str] | None:
    """The table, and the attribute that it is asked about, of ``$table(attribute)``; None where ``name`` is no such."""
    match = _ATTRIBUTE.fullmatch(name)
    return None if match is None else (match[1], match[2])


def attribute_in(name: str) -> str:
    """The attribute of the request that ``name`` looks at: itself, or the one in ``$table(attribute)``."""
    found = table_and_attribute(name)
    return name if found is None else found[1]


def kind_of_attribute(name: str) -> str:
    """How values of the attribute ``name`` compare: one of the kinds of :mod:`.attributes`.

    Raises KeyError where there is no such attribute.
    """
    return VALUE if name.startswith("$") else KINDS[name]


def reader_of(name: str, tables: Mapping[str, Table]) -> Callable[[Request], str]:
    """What reads the attribute ``name`` of a request, or what one of ``tables`` says of one: ``$table(attribute)``.

    What is not known is empty. A table that is not among them is silent. Raises KeyError where there is no such
    attribute.
    """
    found = table_and_attribute(name)
    if found is None:
        return reader(name)
    name, attribute = found
    table = tables.get(name) or Silent(name)
    kind = KINDS[attribute]
    return partial(_looked_up, table.of_kind(kind), kind, reader(attribute))


def asks_facts_for(name: str, tables: Mapping[str, Table]) -> bool:
    """Whether the attribute ``name`` takes more than a request, and what is in memory, to read it."""
    found = table_and_attribute(name)
    if found is None:
        return name in OF_FACTS
    table = tables.get(found[0])
    return found[1] in OF_FACTS or (table is not None and table.asks_facts)


def _looked_up(table: TableOfKind, kind: str, read: Callable[[Request], str], request: Request) -> str:
    value = read(request)
    return (table.find(fold(value, kind), request.facts) or "") if value else ""


class LimitsOfTexts:
    """The limits of ``unit`` that tables write as texts.

    ``heed`` is told of each window, in seconds, that is longer than all before. :data:`REMEMBERED_LIMITS` texts at the
    most are remembered.
    """

    def __init__(self, unit: str, heed: Callable[[int], object] | None) -> None:
        self._unit = unit
        self._heed = heed
        self._known: dict[str, Limits] = {}
        self.longest = 0
        """The longest window so far, in seconds."""

    def read(self, text: str) -> Limits | None:
        """The limits that ``text`` writes; None where those are none."""
        limits = self._known.get(text)
        if limits is not None:
            return limits
        limits = limits_in(text, self._unit)
        if limits is None:
            return None
        if len(self._known) >= REMEMBERED_LIMITS:
            self._known.clear()
        self._known[text] = limits
        longest = longest_of(limits)
        if longest > self.longest:
            self.longest = longest
            if self._heed is not None:
                self._heed(longest)
        return limits


@lru_cache(REMEMBERED_LIMITS)
def limits_in(text: str, unit: str) -> Limits | None:
    """The limits of ``unit`` that a table writes as ``text``; None where those are none."""
    if len(text) > LONGEST_LIMITS:
        return None
    per_mail, unit_suffixes = unit in (RECIPIENTS, BYTES), unit == BYTES
    with contextlib.suppress(LimitsError):
        return parse_limits_text(text, per_mail=per_mail, unit_suffixes=unit_suffixes)
    with contextlib.suppress(LimitsError):  # as people write them in a line: 500/1h, 3000/1d
        bare = text.strip().removeprefix("[").removesuffix("]")
        return parse_limits(bare.split(","), per_mail=per_mail, unit_suffixes=unit_suffixes)
    return None


@lru_cache(REMEMBERED_DATES)
def moment_of(text: str) -> float | None:
    """The Unix second that ``text`` writes as ISO 8601, or in seconds; None where it is no date.

    Without a zone it is the time of this host.
    """
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
