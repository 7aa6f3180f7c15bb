"""Tables that are in memory: what the configuration or a file lists."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.compiling import mypyc_attr
from policyd_rate_limit.domain.identity import IDS_AT_ONCE, parse_network
from policyd_rate_limit.domain.rules.attributes import ADDRESS
from policyd_rate_limit.domain.rules.patterns import PatternError, Patterns, asks_facts, parse_pattern
from policyd_rate_limit.domain.rules.tables import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from policyd_rate_limit.domain.rules.facts import Facts
    from policyd_rate_limit.domain.rules.patterns import Pattern

MOST_ENTRIES: Final = 1_000_000
"""The most entries of a table in memory, some 400 bytes each for each kind of value that it is asked about."""


@mypyc_attr(allow_interpreted_subclasses=True)  # those in files
class Listed(Table):
    """A table of ``entries``: (pattern, what is said of what it matches); None: the pattern is said. The first counts.

    ``pause`` is called now and then while many entries are looked at, so that who shares the interpreter runs
    meanwhile.
    """

    def __init__(
        self,
        name: str,
        entries: Sequence[tuple[str, str | None]],
        pause: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(name)
        self._entries = entries
        self._pause = pause
        self._by_kind: dict[str, _Compared] = {}
        # Whoever makes other rules and whoever rereads a file are two threads; who finds waits for neither.
        self._changing = threading.Lock()

    @property
    def entries(self) -> Sequence[tuple[str, str | None]]:
        """What it says."""
        return self._entries

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of values that it is asked about."""
        return tuple(self._by_kind)

    def prepare(self, kind: str) -> None:
        with self._changing:
            if kind not in self._by_kind:
                self._by_kind[kind] = _Compared(self._entries, kind, self._pause)

    def find(self, value: str, kind: str, facts: Facts) -> str | None:  # noqa: ARG002 - others need them
        return self._by_kind[kind].find(value)

    def replace(self, entries: Sequence[tuple[str, str | None]]) -> None:
        """Say what ``entries`` say from now on; another thread may ask meanwhile."""
        with self._changing:
            by_kind = {kind: _Compared(entries, kind, self._pause) for kind in self._by_kind}
            self._entries = entries
            self._by_kind = by_kind


class _Compared:
    """Entries as values of one kind compare with them; those that can be no value of that kind are left out."""

    def __init__(
        self, entries: Sequence[tuple[str, str | None]], kind: str, pause: Callable[[], object] | None
    ) -> None:
        self._texts: list[str] = []
        self._of_addresses = kind == ADDRESS
        self._patterns = Patterns(self._parsed(entries, kind, pause), kind)

    def _parsed(
        self, entries: Sequence[tuple[str, str | None]], kind: str, pause: Callable[[], object] | None
    ) -> Iterator[Pattern]:
        for count, (text, said) in enumerate(entries):
            if count % IDS_AT_ONCE == 0 and pause is not None:
                pause()
            with contextlib.suppress(PatternError):
                pattern = parse_entry(text, kind)
                self._texts.append(text if said is None else said)
                yield pattern

    def find(self, value: str) -> str | None:
        """What is said of ``value``; None: nothing."""
        if self._of_addresses and "/" in value:
            with contextlib.suppress(ValueError):
                return self._text(self._patterns.first_network(parse_network(value)))
        return self._text(self._patterns.first(value))

    def _text(self, index: int) -> str | None:
        return None if index < 0 else self._texts[index]


def parse_entry(text: str, kind: str) -> Pattern:
    """The pattern that ``text`` is in a table, for values of ``kind``. Raises PatternError."""
    pattern = parse_pattern(text, kind)
    if not text or asks_facts(pattern):
        raise PatternError("an entry such as alice@example.org, '*.example.org' or 192.0.2.0/24", text)
    return pattern
