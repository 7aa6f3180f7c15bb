"""What a store has counted, read into memory once and kept up from then on: who is limited by it, and who is close.

With each look those ids are judged anew that were counted, that were close before, whose override has changed, and in
turns all others: their limits may be others by now.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from typing import TYPE_CHECKING

from policyd_rate_limit.admin.desk import credible
from policyd_rate_limit.admin.leaders import HOUR, Leaders
from policyd_rate_limit.admin.on_record import OnRecord
from policyd_rate_limit.admin.picture import Picture, Seen
from policyd_rate_limit.admin.ranking import LARGEST_SCORE, NOTHING, best
from policyd_rate_limit.admin.senders import Sender
from policyd_rate_limit.admin.standing import share
from policyd_rate_limit.domain.charge import Charge, Demand, free_in
from policyd_rate_limit.domain.counter import DEFAULT, kind_of, prefix_and_key, rule_and_key
from policyd_rate_limit.domain.entry import RESET, Entry
from policyd_rate_limit.domain.ids import id_of_key
from policyd_rate_limit.domain.ledger import one_more
from policyd_rate_limit.domain.limits import LARGEST, Limit
from policyd_rate_limit.domain.rules.facts import Facts
from policyd_rate_limit.storage.administration import OTHERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from policyd_rate_limit.admin.desk import Desk, InForce
    from policyd_rate_limit.admin.ranking import Ranking, Score
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.storage.administration import Administration, Override
    from policyd_rate_limit.storage.heartbeat import Heartbeat

CLOSE = 0.8
"""From this share of a limit on an id is close to it."""

MOST_CLOSE = 20_000
"""The most ids that are kept as limited or close, some kilobyte each; of more it is told that there are."""

AT_ONCE = 500
"""How many ids are judged, or entries counted, before others may look into the memory."""

IN_TURNS = 2_000
"""How many ids are judged with each look though nothing has come of them."""

MOST_LOOKUPS = 100
"""The most ids whose limits are looked up in the table of ``sql_limits_by_id`` with one look."""

MOST_KNOWN = 50_000
"""The most ids whose limits are remembered as that table has them, or that wait for it."""

KNOWN_SECONDS = 60
"""How long these are remembered."""

MOST_RECOUNTED = 200
"""The most ids that are reread with one look, where the store does not tell what is given back."""

NAMES_SECONDS = 30.0
"""How often the list is made in which parts of names are looked for."""

LISTEN_SECONDS = 4.0
"""How often it is read which daemons are at work."""

TOLD_SECONDS = 0.5
"""How often the first reading tells how far it has come."""


class Memory:
    """What the store of ``desk`` has counted in the longest window. One thread looks, any other may ask what was seen.

    ``recounts``: the store does not tell what is given back, and reads quickly what single ids were charged.
    """

    def __init__(self, desk: Desk, *, recounts: bool) -> None:
        self._desk = self._judging = desk
        self.recounts = recounts
        self.lock = threading.Lock()  # of the ledger, and of the leaders
        self._leaders = Leaders()
        self._on_record = OnRecord()
        self._longest = 0
        self._is_read = False
        self._overrides: Mapping[str, Override] = {}
        self._near: dict[str, Sender] = {}
        self._from_table: dict[str, Limits | None] = {}
        self._looked_up = 0  # Unix second of the oldest of them
        self._to_look_up: dict[str, None] = {}
        self._names = ""  # of all counters, on a line each: a text is found in it ten times as fast as in each of them
        self._named = float("-inf")
        self._hinted: tuple[str, ...] = ()
        self._reread: dict[str, int] = {}  # counter -> Unix second up to which what it was charged is remembered
        self._heartbeats: tuple[Heartbeat, ...] | None = None
        self._listened = float("-inf")

    @property
    def store(self) -> Administration:
        """The store that is followed."""
        return self._desk.store

    def look(self) -> Iterator[Picture]:
        """Read what is new, and judge: at the end what is known then, before it how far the first reading has come."""
        store = self._desk.store
        now = store.now()
        before, self._overrides = self._overrides, self._desk.overrides()
        longest = max(HOUR, self._judging.longest(self._overrides))
        if longest > self._longest:
            self._begin(now, longest)
        touched: dict[str, None] = {}
        told, read = time.monotonic(), 0
        for page in self._pages:
            if not page:
                break
            self._count(page, now, touched)
            read += len(page)
            if not self._is_read and time.monotonic() - told > TOLD_SECONDS:
                told = time.monotonic()
                yield Picture(now, read=read)
        self._is_read = True
        with self.lock:
            self.ledger.advance(now)
            self.ledger.sweep(self._longest)
        changed = {*before.items()} ^ {*self._overrides.items()}
        self._recount(touched)
        touched.update(dict.fromkeys(key for key, _ in changed))
        touched.update(dict.fromkeys(self._near))
        touched.update(dict.fromkeys(self._next_in_turn()))
        self._look_up(touched, now)
        more = self._judge(touched, Facts(now))
        if time.monotonic() - self._named >= NAMES_SECONDS:
            self._names = "".join([f"{key}\n" for key in self.ledger.counters()])
            self._named = time.monotonic()
        self._listen()
        yield self._picture(now, more)

    def ranked(
        self, window: int, most: int, score_of: Callable[[Sequence[str]], Sequence[Score]], *, by_share: bool
    ) -> list[tuple[str, Score]]:
        """The ``most`` that are ahead, by share or by the mails in ``window`` (seconds), as ``score_of`` says now."""
        with self.lock:
            ranking = self._leaders.ranking(window, by_share=by_share)
            if ranking is None:
                ranking = self._leaders.begin(window)
                is_new = True
            else:
                is_new = False
        if is_new:
            self._rank(ranking, window)
        with self.lock:
            ordered, most_beyond = ranking.ordered(), ranking.most_beyond
        found = best(ordered, most, score_of)
        if most_beyond > NOTHING and (len(found) < most or found[-1][1] <= most_beyond):
            # Whoever is not kept may be among them. That is rare: more are kept than are asked for.
            return best([(key, LARGEST_SCORE) for key in self.ledger.counters()], most, score_of)
        return found

    def _rank(self, ranking: Ranking, window: int) -> None:
        """Look at all there are, for one who is the first to ask about ``window``."""
        watched = (Limit(LARGEST, window),)
        keys = self.ledger.counters()
        while some := list(itertools.islice(keys, AT_ONCE)):
            with self.lock:
                for key in some:
                    mails = self.ledger.usage(key, watched)[0]
                    if mails:  # how much of a limit that is, which tells equals apart, is found out for who is ahead
                        ranking.note(key, (mails, math.inf))

    def knows(self, window: int) -> bool:
        """Whether what lies in ``window`` (seconds) is remembered of all."""
        return self._is_read and window <= self._longest

    def from_table(self, key: str) -> Limits | None:
        """What the table of ``sql_limits_by_id`` has said of ``key``, if it has been asked."""
        return self._from_table.get(key)

    def on_record(self, seconds: int, now: int) -> int:
        """How many entries are on record in the last ``seconds``, to a thousandth of the time that is remembered."""
        with self.lock:
            return self._on_record.since(now - seconds)

    def of_domains(self, domains: Iterable[str], most: int) -> list[str]:
        """Up to ``most`` counters of the users, the senders and the whole of ``domains``."""
        found: dict[str, None] = {}
        for domain in domains:
            for end in (f"@{domain}\n", f":{domain}\n"):
                at = self._names.find(end)
                while at >= 0 and len(found) < most:
                    found[self._names[self._names.rfind("\n", 0, at) + 1 : at + len(end) - 1]] = None
                    at = self._names.find(end, at + 1)
        return list(found)

    def judge_by(self, desk: Desk) -> None:
        """Judge by the rules of ``desk`` from now on, of which the configuration is newer; no other store is read."""
        self._judging = desk

    def matching(self, text: str, most: int, is_wanted: Callable[[str], bool]) -> list[str]:
        """Up to ``most`` counters on record whose id holds ``text``, and that are wanted.

        Those that came in the last :data:`NAMES_SECONDS` may not be among them.
        """
        found: list[str] = []
        names, at = self._names, 0
        while text and len(found) < most:
            at = names.find(text, at)
            if at < 0:
                break
            begin, end = names.rfind("\n", 0, at) + 1, names.find("\n", at)
            key, at = names[begin:end], end
            if text in id_of_key(prefix_and_key(key)[1]) and is_wanted(key):
                found.append(key)
        return found

    def seen(self, key: str, limits: Limits) -> Seen | None:
        """How ``limits`` of the counter ``key`` stand, for one more, and what it was charged.

        None: it is being read, for the first time or further back.
        """
        with self.lock:
            if not self._is_read:
                return None
            return Seen(self.ledger.explain(Demand((one_more(key, limits),))), self.ledger.charges_of(key))

    def _begin(self, now: int, longest: int) -> None:
        """Read all of the ``longest`` window, in seconds."""
        self._longest = longest
        with self.lock:
            self._is_read = False
            self.ledger = self._desk.ledger(now)
            self._reread.clear()
            self._leaders = Leaders()
            self._on_record = OnRecord(longest)
        self._near.clear()
        self._all = self.ledger.counters()
        self._pages = iter(self._desk.store.follow(max(0, now - longest)))

    def _count(self, page: Iterable[Entry], now: int, touched: dict[str, None]) -> None:
        entries = credible(page, now)
        while some := list(itertools.islice(entries, AT_ONCE)):
            with self.lock:
                for entry in some:
                    if entry.date <= self._reread.get(entry.counter, -1):
                        continue  # it was there when that was reread
                    self.ledger.apply(entry)
                    self._on_record.count(entry.date)
                    touched[entry.counter] = None

    def _listen(self) -> None:
        """Find out which daemons are at work."""
        if time.monotonic() - self._listened >= LISTEN_SECONDS:
            self._listened = time.monotonic()
            heartbeats = self._desk.store.heartbeats()
            self._heartbeats = None if heartbeats is None else tuple(heartbeats)

    def _recount(self, touched: dict[str, None]) -> None:
        """Reread some of those that seem to be close: what was given back to them is not told otherwise."""
        if not self.recounts:
            return
        keys = list(self._near)[:MOST_RECOUNTED]
        for key in keys:
            self._near[key] = self._near.pop(key)  # the others come first the next time
        hinted, self._hinted = self._hinted[:MOST_RECOUNTED], ()
        touched.update(dict.fromkeys(hinted))
        self.reread(self._desk, list(dict.fromkeys((*hinted, *keys))))

    def look_at(self, keys: Sequence[str]) -> None:
        """``keys`` ran into limits lately: to be reread with the next look where it takes long to read all."""
        if self.recounts:
            self._hinted = tuple(key for key in keys if kind_of(key) != OTHERS)

    def reread(self, desk: Desk, keys: Sequence[str]) -> None:
        """Have what ``desk`` finds in the store of ``keys`` take the place of what is remembered of them."""
        if not keys:
            return
        now = desk.store.now()
        found = credible(desk.store.entries(keys, max(0, now - self._longest)), now)
        entries = [entry for entry in found if entry.date <= now]  # of a second that is not over, more may come
        with self.lock:
            for key in keys:
                self.ledger.apply(Entry(key, 0, now + 1, "", RESET))
                self._reread.pop(key, None)
                self._reread[key] = now
            for entry in entries:
                self.ledger.apply(entry)
            while len(self._reread) > MOST_KNOWN:
                del self._reread[next(iter(self._reread))]

    def _next_in_turn(self) -> list[str]:
        found = list(itertools.islice(self._all, IN_TURNS))
        if len(found) < IN_TURNS:
            self._all = self.ledger.counters()
            with self.lock:
                self._leaders.begin_pass()
                return [*found, *self._leaders.kept()]  # of whom some may not be remembered any more
        return found

    def _look_up(self, touched: dict[str, None], now: int) -> None:
        """Ask the table of ``sql_limits_by_id`` about some of those that are not known, those in ``touched`` first."""
        if self._judging.table is None:
            return
        if now - self._looked_up > KNOWN_SECONDS or len(self._from_table) > MOST_KNOWN:
            self._to_look_up.update(dict.fromkeys(key for key in self._near if key in self._from_table))
            self._from_table.clear()
            self._looked_up = now
        for key in tuple(touched):
            if len(self._to_look_up) >= MOST_KNOWN:
                break
            if key not in self._from_table and rule_and_key(key)[0] == DEFAULT:
                self._to_look_up[key] = None
        for key in list(itertools.islice(self._to_look_up, MOST_LOOKUPS)):
            del self._to_look_up[key]
            self._from_table[key] = self._judging.from_table(key)
            touched[key] = None

    def _judge(self, keys: Iterable[str], facts: Facts) -> int:
        """Find out which of ``keys`` are close; how many that is beyond :data:`MOST_CLOSE`."""
        more = 0
        waiting = iter(keys)
        while some := list(itertools.islice(waiting, AT_ONCE)):
            in_force = [
                self._judging.in_force(key, self._overrides.get(key), self._from_table.get(key), facts) for key in some
            ]
            with self.lock:
                for key, one in zip(some, in_force, strict=True):
                    found = self._judged(key, one)
                    if found is None:
                        self._near.pop(key, None)
                    elif key in self._near or len(self._near) < MOST_CLOSE:
                        self._near[key] = found
                    else:
                        more += 1
        return more

    def _judged(self, key: str, in_force: InForce) -> Sender | None:
        """How ``key`` stands, if it is close to one of its limits, and not blocked by an override."""
        limits, windows = in_force.limits, self._leaders.windows
        if limits:  # what has expired is dropped, or it would pile up of whoever goes on sending
            self.ledger.trim(Charge(key, 0, limits, keep_seconds=self._longest))
        used = self.ledger.usage(key, (*windows, *limits))
        mails = used[: len(windows)]
        used_up = max(map(share, used[len(windows) :], limits), default=0.0)
        self._leaders.note(key, mails, used_up)
        if used_up < CLOSE or (in_force.override and any(limit.maximum == 0 for limit in limits)):
            return None
        return Sender(key, mails[0], in_force, self.ledger.explain(Demand((one_more(key, in_force.limits),))))

    def _picture(self, now: int, more: int) -> Picture:
        limited: list[Sender] = []
        close: list[Sender] = []
        for one in self._near.values():
            (close if free_in(one.usages) == 0 else limited).append(one)
        for some in (limited, close):
            some.sort(key=_heaviest_first)
        windows = self.ledger.windows
        return Picture(
            now,
            limited=tuple(limited),
            close=tuple(close),
            overrides=tuple(self._overrides.values()),
            ids=len(windows),
            more=more,
            crowded=windows.overflowing > 0,
            read=None,
            heartbeats=self._heartbeats,
        )


def _heaviest_first(sender: Sender) -> tuple[float, int, str]:
    tightest = sender.tightest
    return (-share(tightest.used, tightest.limit) if tightest else 0.0, -sender.mails, sender.key)
