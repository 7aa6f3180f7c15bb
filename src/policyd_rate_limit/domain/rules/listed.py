"""Tables that are in memory: what the configuration or a file lists."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.compiling import mypyc_attr
from policyd_rate_limit.domain.identity import IDS_AT_ONCE
from policyd_rate_limit.domain.rules.matching import Patterns, known_as
from policyd_rate_limit.domain.rules.patterns import EXACT, PatternError, asks_facts, parse_pattern
from policyd_rate_limit.domain.rules.tables import Table, TableOfKind

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
        self._by_kind: dict[str, _ListedOfKind] = {}
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

    def of_kind(self, kind: str) -> TableOfKind:
        with self._changing:
            if kind not in self._by_kind:
                self._by_kind[kind] = _ListedOfKind(_Compared(self._entries, kind, self._pause))
            return self._by_kind[kind]

    def replace(self, entries: Sequence[tuple[str, str | None]]) -> None:
        """Say what ``entries`` say from now on; another thread may ask meanwhile."""
        with self._changing:
            compared = [(one, _Compared(entries, kind, self._pause)) for kind, one in self._by_kind.items()]
            self._entries = entries
            for one, now in compared:
                one.compared = now


class _ListedOfKind(TableOfKind):
    """Shared by the table and those who ask it: they would hold the table, and the table them."""

    def __init__(self, compared: _Compared) -> None:
        self.compared = compared

    def find(self, folded: str, facts: Facts) -> str | None:  # noqa: ARG002 - others need them
        return self.compared.find(folded)


class _Compared:
    """Entries as values of one kind compare with them; those that can be no value of that kind are left out.

    Nearly all are exact, and no glob or expression stands before them: what they say is looked up at once. In a large
    table that costs as much as the memory that is read for it: a set needs less than a mapping.
    """

    def __init__(
        self, entries: Sequence[tuple[str, str | None]], kind: str, pause: Callable[[], object] | None
    ) -> None:
        # Of the exact ones with which the entries begin: those that say themselves, and what the others say.
        self._themselves: set[str] = set()
        self._said: dict[str, str] = {}
        self._texts: list[str] = []  # of the others
        self._others = Patterns(self._all_others(entries, kind, pause), kind)

    def _all_others(
        self, entries: Sequence[tuple[str, str | None]], kind: str, pause: Callable[[], object] | None
    ) -> Iterator[Pattern]:
        """The patterns that are not among those that are looked up at once."""
        is_behind_another = False
        for count, (text, said) in enumerate(entries):
            if count % IDS_AT_ONCE == 0 and pause is not None:
                pause()
            try:
                pattern = parse_entry(text, kind)
            except PatternError:
                continue
            told = text if said is None else said
            if pattern.how == EXACT and not is_behind_another:
                exact = known_as(pattern.exact)
                if exact in self._themselves or exact in self._said:
                    continue
                if exact == told:
                    self._themselves.add(told)
                else:
                    self._said[exact] = told
            else:
                is_behind_another = True
                self._texts.append(told)
                yield pattern

    def find(self, folded: str) -> str | None:
        """What is said of a value, ``folded`` as by :func:`fold`; None: nothing."""
        name = known_as(folded)
        if name in self._themselves:
            return name
        if self._said:
            said = self._said.get(name)
            if said is not None:
                return said
        if not self._texts:
            return None
        index = self._others.first_by_itself(folded)
        return None if index < 0 else self._texts[index]


def parse_entry(text: str, kind: str) -> Pattern:
    """The pattern that ``text`` is in a table, for values of ``kind``. Raises PatternError."""
    pattern = parse_pattern(text, kind)
    if not text or asks_facts(pattern):
        raise PatternError("an entry such as alice@example.org, '*.example.org' or 192.0.2.0/24", text)
    return pattern
