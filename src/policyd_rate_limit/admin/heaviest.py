"""Who sends most, told at once from a memory that is kept up, whatever the number of ids."""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.admin.leaders import HOUR
from policyd_rate_limit.admin.ranking import NOTHING
from policyd_rate_limit.admin.remembering import AT_ONCE
from policyd_rate_limit.admin.senders import Sender
from policyd_rate_limit.admin.standing import share
from policyd_rate_limit.domain.charge import Demand
from policyd_rate_limit.domain.ledger import one_more
from policyd_rate_limit.domain.limits import LARGEST, Limit
from policyd_rate_limit.domain.rules.facts import Facts

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from policyd_rate_limit.admin.desk import Desk, InForce
    from policyd_rate_limit.admin.ranking import Score
    from policyd_rate_limit.admin.remembering import Memory
    from policyd_rate_limit.domain.limits import Limits

MOST_LOOKUPS: Final = 100
"""The most ids of a list whose limits are looked up in the table of ``sql_limits_by_id``."""

MOST_REREAD: Final = 200
"""The most ids of a list that are reread where the store does not tell what is given back."""

_TRIES: Final = 3
"""So often at the most a list is made anew, as rereading has changed it."""


class Heaviest:
    """Makes lists of those that ``memory`` knows, by the limits of ``desk``.

    ``window`` (seconds): whose mails are told. It may not be longer than what the memory knows.
    """

    def __init__(self, desk: Desk, memory: Memory, window: int) -> None:
        self._desk = desk
        self._memory = memory
        self._window = window
        self._overrides = desk.overrides()
        self._facts = Facts(desk.store.now())
        self._from_table: dict[str, Limits | None] = {}

    def best(self, most: int, *, by_share: bool, among: Collection[str] | None = None) -> list[Sender]:
        """The ``most`` that have used up the greatest share of a limit, else those with the most mails; those first.

        Which of those with an equal share are among them is told by the mails of the last hour.

        ``among``: only of these keys; None: of all.
        """
        keys: list[str] = []
        for _ in range(_TRIES):
            found = self._keys(most, by_share=by_share, among=among)
            if found == keys:
                break
            keys = found
            if not self._make_sure(keys):
                break
        senders = self._told(keys)
        return sorted(senders, key=_heaviest_first) if by_share else senders

    def _keys(self, most: int, *, by_share: bool, among: Collection[str] | None) -> list[str]:
        def score_of(keys: Sequence[str]) -> list[Score]:
            return self._scores(keys, by_share=by_share)

        if among is None:
            return [key for key, _ in self._memory.ranked(self._window, most, score_of, by_share=by_share)]
        scored = zip(among, score_of(list(among)), strict=True)
        best = heapq.nsmallest(most, ((-score[0], -score[1], key) for key, score in scored if score > NOTHING))
        return [key for *_, key in best]

    def _scores(self, keys: Sequence[str], *, by_share: bool) -> list[Score]:
        watched = (Limit(LARGEST, self._window), Limit(LARGEST, HOUR))
        scores: list[Score] = []
        waiting = iter(keys)
        while some := list(itertools.islice(waiting, AT_ONCE)):
            limits = [self._in_force(key).limits for key in some]
            with self._memory.lock:
                for key, its in zip(some, limits, strict=True):
                    mails, of_hour, *used = self._memory.ledger.usage(key, (*watched, *its))
                    used_up = max(map(share, used, its), default=0.0)
                    if not (mails or of_hour or any(used) or self._memory.ledger.charges_of(key)):
                        scores.append(NOTHING)  # a block of somebody who sends nothing
                    elif by_share:
                        scores.append((used_up, of_hour) if mails or used_up else NOTHING)
                    else:
                        scores.append((mails, used_up) if mails else NOTHING)
        return scores

    def _make_sure(self, keys: Sequence[str]) -> bool:
        """Find out more of ``keys``: what a table says of their limits, what was given back. Whether there was any."""
        new = (
            [key for key in keys[:MOST_LOOKUPS] if key not in self._from_table] if self._desk.table is not None else []
        )
        for key in new:
            self._from_table[key] = self._desk.from_table(key)
        if self._memory.recounts:
            self._memory.reread(self._desk, keys[:MOST_REREAD])
            return True
        return bool(new)

    def _told(self, keys: Sequence[str]) -> list[Sender]:
        watched = Limit(LARGEST, self._window)
        in_force = [self._in_force(key) for key in keys]
        found = []
        with self._memory.lock:
            for key, one in zip(keys, in_force, strict=True):
                mails, *usages = self._memory.ledger.explain(Demand((one_more(key, (watched, *one.limits)),)))
                found.append(Sender(key, mails.used, one, tuple(usages)))
        return found

    def _in_force(self, key: str) -> InForce:
        table = self._from_table.get(key)
        if table is None and key not in self._from_table:
            table = self._memory.from_table(key)
        return self._desk.in_force(key, self._overrides.get(key), table, self._facts)


def _heaviest_first(sender: Sender) -> tuple[float, int, str]:
    tightest = sender.tightest
    return (-share(tightest.used, tightest.limit) if tightest else 0.0, -sender.mails, sender.key)
