"""A mail server's days, made up: what pages about it show. Whoever looks at them sees every state that there is."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from policyd_rate_limit import config
from policyd_rate_limit.admin import overrides
from policyd_rate_limit.admin.opening import open_desk
from policyd_rate_limit.backends import backend_of
from policyd_rate_limit.config import Settings
from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.storage.administration import Actor, HitDetails, HourOfHits, OriginalHits
from policyd_rate_limit.storage.heartbeat import Heartbeat
from policyd_rate_limit.storage.log import daemons as of_log
from policyd_rate_limit.storage.log.administration import LogAdministration
from policyd_rate_limit.storage.record import pack
from policyd_rate_limit.storage.replica import Memory
from policyd_rate_limit.subjects import make_subjects
from support.daemon import configuration, write_configuration

HOUR, DAY = 3_600, 86_400

RULES: Mapping[str, object] = {
    "rules": {
        "usual": {
            "key": "sasl_username",
            "limits": ["30/1h", "100/1d"],
            "overrides": {"newsletter@example.org": "2000/1d"},
        },
        "per-network": {"key": "client_address/24/48", "limits": "200/1h", "shadow": True},
        "per-domain": {"key": "sasl_domain", "limits": "1000/1d"},
        "volume": {"key": "sasl_username", "count": "bytes", "limits": "200M/1d"},
    }
}

PEOPLE = ("anna", "bert", "carla", "david", "elif", "frida", "georg", "hanna", "ivan", "jana", "karim", "lena")
CALLER = "carla@example.org"
"""Who calls the help desk: limited in the rule "usual"."""

HELPED = "user:hanna@example.org"
"""Who has other limits in the rule "usual"."""

STOLEN = "georg@example.org"
"""Whose account was stolen: blocked."""

LOST = "mx2.example.org"
"""The host whose daemon is silent."""

ODD = "<img src=x onerror=alert(1)>\"&'@example.org"
"""An id that a stranger has chosen."""


def settings_in(directory: Path) -> Settings:
    """The settings of a daemon with rules that keeps everything in ``directory``."""
    return config.load(write_configuration(directory, configuration(directory, **RULES))).settings


def fill(settings: Settings, now: int | None = None) -> None:
    """Put two days of mail into the database of ``settings``, with what came of them."""
    now = int(time.time()) if now is None else now
    dice = random.Random(7)
    entries = sorted(_entries(dice, now), key=lambda entry: entry.date)
    store = backend_of(settings).make_store(make_subjects(settings), Memory(Ledger(settings.max_ids), time.time))
    numbers = itertools.count(1)
    try:
        store.admit((), (), 10.0)
        waiting = iter(entries)
        while some := list(itertools.islice(waiting, 200)):
            store.admit((), [pack(4711, next(numbers), some[-1].date, some)], 10.0)
    finally:
        store.close()
    with open_desk(settings, as_account=False) as desk:
        hits = [OriginalHits(0, one) for one in _hits(dice, now)]
        for _, page in itertools.groupby(sorted(hits, key=lambda one: one.hits.hour), key=lambda one: one.hits.hour):
            desk.store.bring_history(list(page))
        night, mona, ticket = Actor("root", "shell on mx1"), Actor("mona", "web 192.0.2.17"), "ticket 4711"
        overrides.override(desk, f"user:{STOLEN}", (Limit(0, 1),), 2 * DAY, "stolen: 40 countries in an hour", by=night)
        overrides.override(desk, HELPED, (Limit(500, DAY),), 8 * HOUR, f"invitation, {ticket}", "usual", by=mona)
        overrides.reset(desk, "user:bert@example.org", by=mona, note="sent to himself in a loop, is mended")
        if isinstance(desk.store, LogAdministration):
            for at, (host, ago, waits) in enumerate((("mx1", 5, 0), (LOST, HOUR, 3), (f"{ODD}.mx3", 9, 1))):
                run, socket = f"{at:032x}", "unix:ratelimit/policy"
                beat = Heartbeat(run, host, socket, 4711, "2.0.0", now - DAY, now - ago, waits)
                of_log.beat(desk.store.open(), beat, 10.0, is_first=True)


def _entries(dice: random.Random, now: int) -> Iterator[Entry]:
    many = {CALLER: 70, STOLEN: 100, "elif@example.org": 84, "newsletter@example.org": 250, "ivan@example.org": 0}
    for person in (*PEOPLE, "newsletter"):
        user = f"{person}@example.org"
        for _ in range(many.get(user, dice.randrange(3, 40))):
            age = HOUR + 60 + min(dice.expovariate(1 / (6 * HOUR)), DAY - 3 * HOUR)
            yield from _mail(user, int(now - age), dice)
    for number in range(30):  # what makes them limited in this hour
        yield from _mail(CALLER, now - 40 * number - 200, dice)
        yield from _mail("ivan@example.org", now - 100 * number - 60, dice)
    yield from _mail(ODD, now - 300, dice)
    yield from _mail(ODD.replace("example.org", "example.net"), now - 300, dice)


def _mail(user: str, date: int, dice: random.Random) -> Iterator[Entry]:
    domain = user.rpartition("@")[2]
    network = f"192.0.{dice.choice((2, 2, 2, 3))}.0/24"
    for counter in (f"usual|user:{user}", f"per-network|client:{network}", f"per-domain|sasl_domain:{domain}"):
        yield Entry(counter, 1, date, "", "")
    yield Entry(f"volume/bytes|user:{user}", dice.randrange(2_000, 900_000), date, "", "")


def _hits(dice: random.Random, now: int) -> Iterator[HourOfHits]:
    this = now - now % HOUR
    for user, limit, hours in (
        (CALLER, Limit(30, HOUR), (0, 1, 3)),
        (STOLEN, Limit(100, DAY), range(2, 9)),
        ("elif@example.org", Limit(30, HOUR), (26, 27)),
        (ODD, Limit(30, HOUR), (0,)),
    ):
        for ago in hours:
            yield _hit(f"usual|user:{user}", limit, "refused", this - ago * HOUR, now, user, dice)
    for ago in range(0, 20, 3):
        hour = this - ago * HOUR
        yield _hit(
            "per-network|client:192.0.2.0/24", Limit(200, HOUR), "would-refuse", hour, now, "anna@example.org", dice
        )


def _hit(key: str, limit: Limit, kind: str, hour: int, now: int, user: str, dice: random.Random) -> HourOfHits:
    last = min(hour + dice.randrange(600, 3_500), now - 30)
    queue_id = f"4Zk{dice.randrange(16**7):07X}"
    details = HitDetails(queue_id, f"192.0.2.{dice.randrange(1, 250)}", user, "someone@example.com", "a1b2.c3")
    return HourOfHits(hour, key, limit, kind, dice.randrange(1, 40), max(hour, last - 500), last, details)


@contextlib.contextmanager
def made_up(directory: Path) -> Iterator[Settings]:
    """The settings of a database that is filled."""
    settings = settings_in(directory)
    fill(settings)
    yield settings
