"""Demands whose charges are counted once in the same way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from policyd_rate_limit.domain.charge import Charge, Demand


def demand_of(charges: Iterable[Charge], mail: str = "", part: str = "", settles: bool = False) -> Demand:
    """``charges`` of ``mail``: of that ``part`` of it, or of the whole mail."""
    return Demand(tuple(replace(charge, part=part, settles=settles) for charge in charges), mail)
