"""Administration of the store in Redis: see :mod:`policyd_rate_limit.storage.administration`.

Redis keeps no log: what is still known of a counter lies in its windows, a sum for each second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.domain.charge import Entry
from policyd_rate_limit.storage.redis_tables import charges_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from policyd_rate_limit.storage.administration import Hits, Override
    from policyd_rate_limit.storage.redis import RedisStore

COUNTERS_PER_PAGE = 100


class RedisAdministration:
    """See :class:`policyd_rate_limit.storage.administration.Administration`; ``store`` is for nobody else.

    A key of more than :data:`policyd_rate_limit.storage.redis_keys.LONGEST_TAG` characters is found by its name, but
    has none where all are asked for: it comes as ``#`` and a digest then.
    """

    def __init__(self, store: RedisStore) -> None:
        self._store = store

    def now(self) -> int:
        """See :meth:`Administration.now`."""
        return self._store.now()

    def entries(self, keys: Collection[str] | None, since: int) -> Iterator[Entry]:
        """See :meth:`Administration.entries`; what was given back is no more there, nor what it was taken from."""
        for page in self._pages(keys):
            for counter, date, amount in page:
                if date >= since and amount:
                    yield Entry(counter, amount, date, "", "")

    def follow(self, since: int) -> Iterator[Sequence[Entry]]:
        """See :meth:`Administration.follow`; all counters are looked at each time, and nothing is given back."""
        while True:
            now = self.now()
            for page in self._pages(None):
                found = [
                    Entry(counter, amount, date, "", "")
                    for counter, date, amount in page
                    # Of a second that is not over, more may come.
                    if since <= date <= now and amount
                ]
                if found:
                    yield found
            since = max(since, now + 1)
            yield []

    def reset(self, key: str) -> int:
        """See :meth:`Administration.reset`. A daemon that has lost its server goes on with what it had counted."""
        return self._store.reset(key)

    def overrides(self) -> list[Override]:
        """See :meth:`Administration.overrides`."""
        return self._store.tables.overrides(self.now())

    def set_override(self, override: Override) -> None:
        """See :meth:`Administration.set_override`."""
        self._store.tables.set_override(override, self.now())

    def remove_override(self, key: str) -> bool:
        """See :meth:`Administration.remove_override`."""
        return self._store.tables.remove_override(key, self.now())

    def hits(self) -> list[Hits]:
        """See :meth:`Administration.hits`."""
        return self._store.tables.hits()

    def forget_hits(self, hits: Sequence[Hits]) -> None:
        """See :meth:`Administration.forget_hits`."""
        self._store.tables.add_hits(hit._replace(hits=-hit.hits) for hit in hits)

    def close(self) -> None:
        """See :meth:`Administration.close`."""
        self._store.close()

    def _pages(self, keys: Collection[str] | None) -> Iterator[Iterable[tuple[str, int, int]]]:
        """Counter, date and amount of what lies in ``keys``, None for all."""
        store = self._store
        for counters in store.counters(COUNTERS_PER_PAGE) if keys is None else [[store.key(key) for key in keys]]:
            yield (
                (counter, date, amount)
                for counter, fields in store.read(counters)
                for date, amount in charges_of(fields)
            )
