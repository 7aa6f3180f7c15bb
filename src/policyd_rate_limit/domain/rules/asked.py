"""Tables outside of this process, which have to be asked: in a database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.domain.ids import MOST_NAME
from policyd_rate_limit.domain.networks import MOST_ADDRESS, parse_address
from policyd_rate_limit.domain.rules.attributes import ADDRESS
from policyd_rate_limit.domain.rules.tables import Table, TableOfKind

if TYPE_CHECKING:
    from policyd_rate_limit.domain.rules.facts import Facts, Source


class Asked(Table):
    """A table that ``source`` keeps. It is asked about values in the one spelling that their kind has.

    Of a value of more than :data:`MOST_NAME` characters it says nothing.
    """

    def __init__(self, name: str, source: Source) -> None:
        super().__init__(name)
        self.source = source
        self.asks_facts = True

    def of_kind(self, kind: str) -> TableOfKind:
        return _AskedOfKind(self.source, kind)


class _AskedOfKind(TableOfKind):
    def __init__(self, source: Source, kind: str) -> None:
        self._source = source
        self._is_address = kind == ADDRESS

    def find(self, folded: str, facts: Facts) -> str | None:
        spelled = folded
        if self._is_address:
            address = parse_address(folded) if len(folded) <= MOST_ADDRESS else None
            spelled = folded if address is None else str(address)
        return facts.said(self._source, spelled) if spelled and len(spelled) <= MOST_NAME else None
