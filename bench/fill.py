"""Fill the store that a configuration names with mails in the windows of many ids, as if others had counted them.

    python bench/fill.py --ids 1000000 --spent 1000 --hot mails-by-user.json policyd-rate-limit.yaml

It goes through the store's own means of replaying what was decided elsewhere, so that the benchmark knows nothing of
how stores keep what they hold.
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import secrets
import time
from collections.abc import Iterator, Sequence

from contenders import SHARE_OF_WINDOW
from policyd_rate_limit import config, stores
from policyd_rate_limit.domain.charge import Entry
from policyd_rate_limit.domain.identity import Rules
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.memory import Memory
from policyd_rate_limit.storage.record import Record, pack

ENTRIES_PER_RECORD = 25  # about what a batch holds at 50 connections
RECORDS_AT_ONCE = 200
PATIENCE = 30.0
TRIES = 50


def entries(ids: int, spent: int, hot: dict[str, int], now: int, longest: int, most: int) -> Iterator[Entry]:
    """A mail of each of ``ids`` users, all the limit allows of ``spent`` others, as many as told of ``hot``."""
    window = longest * SHARE_OF_WINDOW

    def mail(user: str, age: float, amount: int = 1) -> Entry:
        return Entry(f"user:{user}", amount, now - int(age), "", "")

    for number in range(ids):
        yield mail(f"user{number:07d}", window * (1 - number / ids))
    for number in range(spent):
        yield mail(f"over{number:07d}", 0, most)
    for user, mails in hot.items():
        for number in range(mails):
            yield mail(user, window * (1 - number / mails))


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ids", type=int, default=0)
    parser.add_argument("--spent", type=int, default=0)
    parser.add_argument("--hot", type=argparse.FileType(), metavar="FILE", help="JSON: mails by user")
    parser.add_argument("config", type=pathlib.Path)
    options = parser.parse_args(arguments)
    hot = json.load(options.hot) if options.hot else {}

    settings = config.load(options.config).settings
    rules = Rules(
        limits=settings.limits,
        limits_by_id={},
        limit_by_sasl=True,
        limit_by_sender=False,
        limit_by_ip=False,
        limited_networks=[],
        ipv6_prefix=64,
    )
    store = stores.make_store(settings, rules, Memory(Ledger(settings.max_ids), time.time))
    longest = max(settings.limits, key=lambda limit: limit.seconds)
    now = int(time.time())
    writer, numbers = secrets.randbits(62), itertools.count(1)
    waiting = entries(options.ids, options.spent, hot, now, longest.seconds, longest.maximum)
    try:
        store.admit((), (), PATIENCE)
        while records := list(itertools.islice(_records(waiting, writer, numbers, now), RECORDS_AT_ONCE)):
            for attempt in range(TRIES):
                try:
                    store.admit((), records, PATIENCE)
                    break
                except StoreUnavailable:
                    if attempt == TRIES - 1:
                        raise
    finally:
        store.close()


def _records(waiting: Iterator[Entry], writer: int, numbers: Iterator[int], now: int) -> Iterator[Record]:
    while chunk := list(itertools.islice(waiting, ENTRIES_PER_RECORD)):
        yield pack(writer, next(numbers), now, chunk)


if __name__ == "__main__":
    main()
