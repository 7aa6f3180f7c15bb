"""Fill the store that a configuration names with mails in the windows of many ids, as if others had counted them.

    python bench/fill.py --ids 1000000 --spent 1000 --hot mails-by-user.json policyd-rate-limit.yaml

It goes through the store's own means, so that the benchmark knows nothing of how stores keep what they hold: what was
decided elsewhere is replayed; where the server decides, it is asked.
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence

from contenders import SHARE_OF_WINDOW
from policyd_rate_limit import config
from policyd_rate_limit.backends import backend_of
from policyd_rate_limit.config.databases import REDIS
from policyd_rate_limit.domain.charge import Charge, Demand
from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.domain.identity import Subjects
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.contract import Store
from policyd_rate_limit.storage.record import ENTRIES_PER_RECORD, Record, pack
from policyd_rate_limit.storage.replica import Memory

ENTRIES_PER_BATCH = 25  # about what a batch holds at 50 connections
RECORDS_AT_ONCE = 200
DEMANDS_AT_ONCE = 1_000
PATIENCE = 30.0
TRIES = 50


def first_mails(ids: int, hot: Iterable[str], now: int, window: float) -> Iterator[Entry]:
    """The oldest mail of each of ``hot``, and the only one of each of ``ids`` users, by date."""
    for user in hot:
        yield _mail(user, now - window)
    for number in range(ids):
        yield _mail(f"user{number:07d}", now - window * (1 - number / ids))


def other_mails(spent: int, hot: dict[str, int], now: int, window: float, most: int) -> Iterator[Entry]:
    """All that the limit allows of each of ``spent`` users, and what those of ``hot`` have beside their first mail."""
    for number in range(spent):
        yield _mail(f"over{number:07d}", now, most)
    for user, mails in hot.items():
        for number in range(1, mails):
            yield _mail(user, now - window * (1 - number / mails))


def _mail(user: str, date: float, amount: int = 1) -> Entry:
    return Entry(f"user:{user}", amount, int(date), "", "")


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
    longest = max(settings.limits, key=lambda limit: limit.seconds)
    now = int(time.time())
    window = longest.seconds * SHARE_OF_WINDOW
    first = first_mails(options.ids, hot, now, window)
    others = other_mails(options.spent, hot, now, window, longest.maximum)
    if settings.backend == REDIS:
        decide(settings, first)
    replay(settings, first, others, now)


def replay(settings: config.Settings, first: Iterator[Entry], others: Iterator[Entry], now: int) -> None:
    """Bring in what has been decided elsewhere: ``first`` in batches of a daemon, ``others`` in larger ones."""
    subjects = Subjects(
        limits=settings.limits,
        limits_by_id={},
        limit_by_sasl=True,
        limit_by_sender=False,
        limit_by_ip=False,
        limited_networks=[],
        ipv6_prefix=64,
    )
    store: Store = backend_of(settings).make_store(subjects, Memory(Ledger(settings.max_ids), time.time))
    writer, numbers = secrets.randbits(62), itertools.count(1)

    def records() -> Iterator[Record]:
        for entries, size in ((first, ENTRIES_PER_BATCH), (others, ENTRIES_PER_RECORD)):
            while chunk := list(itertools.islice(entries, size)):
                yield pack(writer, next(numbers), now, chunk)

    waiting = records()
    try:
        store.admit((), (), PATIENCE)
        while some := list(itertools.islice(waiting, RECORDS_AT_ONCE)):
            for attempt in range(TRIES):
                try:
                    store.admit((), some, PATIENCE)
                    break
                except StoreUnavailable:
                    if attempt == TRIES - 1:
                        raise
    finally:
        store.close()


def decide(settings: config.Settings, mails: Iterator[Entry]) -> None:
    """Have Redis decide on ``mails``, which are in order, many at the time of the first of them.

    What it does for a new id, it does with the first decision: that shall not be what is measured.
    """
    from policyd_rate_limit.storage.redis.store import RedisStore  # its driver need not be there for other stores

    longest = max(limit.seconds for limit in settings.limits)
    moment = 0
    memory = Memory(Ledger(settings.max_ids), lambda: moment)
    store = RedisStore(settings.redis_config, memory, longest=longest, timeout=PATIENCE, clock=lambda: moment)
    try:
        while some := list(itertools.islice(mails, DEMANDS_AT_ONCE)):
            moment = some[0].date
            demands = [Demand((Charge(mail.counter, mail.amount, settings.limits),)) for mail in some]
            if not all(verdict.admitted for verdict in store.admit(demands, (), PATIENCE)):
                raise SystemExit(f"the limits do not admit what Redis is to be filled with: {settings.limits}")
    finally:
        store.close()


if __name__ == "__main__":
    main()
