"""Ledgers of charges that were made before."""

from __future__ import annotations

from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.domain.limits import Limit, Limits

T0 = 1_700_000_000.0
GENEROUS: Limits = (Limit(10**6, 10), Limit(10**6, 100), Limit(10**6, 10_000))


def rebuilt(entries: list[Entry], now: float, max_keys: int = 1000) -> Ledger:
    ledger = Ledger(max_keys)
    ledger.advance(now)
    for entry in entries:
        ledger.apply(entry)
    return ledger
