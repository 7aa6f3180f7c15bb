"""Tables outside of this process, which have to be asked: in a database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.domain.identity import MOST_ADDRESS, MOST_NAME, parse_address
from policyd_rate_limit.domain.rules.attributes import ADDRESS
from policyd_rate_limit.domain.rules.patterns import fold
from policyd_rate_limit.domain.rules.tables import Table

if TYPE_CHECKING:
    from policyd_rate_limit.domain.rules.facts import Facts, Source


class Asked(Table):
    """A table that ``source`` keeps. It is asked about values in the one spelling that their kind has.

    Of a value of more than :data:`MOST_NAME` characters it says nothing.
    """

    def __init__(self, name: str, source: Source) -> None:
        super().__init__(name)
        self.source = source

    def find(self, value: str, kind: str, facts: Facts) -> str | None:
        if kind == ADDRESS:
            address = parse_address(value) if len(value) <= MOST_ADDRESS else None
            spelled = value if address is None else str(address)
        else:
            spelled = fold(value, kind)
        return facts.said(self.source, spelled) if spelled and len(spelled) <= MOST_NAME else None
