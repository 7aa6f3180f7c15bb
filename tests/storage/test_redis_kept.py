"""How Redis keeps what it has counted: one thing in several ways, of which each is understood."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from policyd_rate_limit.domain.charge import Charge, Demand, Verdict, refusal
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.domain.mails import REMEMBERED_SECONDS
from policyd_rate_limit.storage.redis.store import RedisStore
from storage.stores import Clock, new_memory
from support.demands import demand_of
from support.redis_servers import External, RedisServer

HOUR = 3_600
PATIENCE = 20.0
ALICE = "user:alice"
CHARGES = (Charge(ALICE, 1, (Limit(10, HOUR),)),)
ONE, TWO = demand_of(CHARGES, "mail", "one"), demand_of(CHARGES, "mail", "two")
COUNTED, KNOWN = Verdict((1,)), Verdict((0,))

Server = RedisServer | External
_prefixes = (f"kept{number}" for number in itertools.count())


@pytest.fixture
def store(server: Server) -> Iterator[RedisStore]:
    config = {"url": server.url, "prefix": next(_prefixes)}
    with contextlib.closing(RedisStore(config, new_memory(time.time), longest=HOUR, timeout=PATIENCE)) as store:
        yield store


def ask(store: RedisStore, *demands: Demand) -> Sequence[Verdict]:
    return store.admit(demands, (), PATIENCE)


@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
def test_a_mail_with_one_charge_and_with_several(server: Server, store: RedisStore, first: bool) -> None:
    """The first mail of an id for long is kept with its counter, as long as it has one charge."""
    key = store._keys.mail(ALICE, "mail")
    with server.client() as client:
        if not first:
            ask(store, replace(ONE, mail="before"))
        for demands, verdicts, kind in (
            ((ONE,), [COUNTED], "none" if first else "string"),
            ((ONE,), [KNOWN], "none" if first else "string"),
            ((TWO, ONE, TWO), [COUNTED, KNOWN, KNOWN], "hash"),
            ((ONE,), [KNOWN], "hash"),
        ):
            assert ask(store, *demands) == verdicts
            assert client.type(key) == kind
        assert 0 < client.ttl(key) <= REMEMBERED_SECONDS


@pytest.mark.parametrize("after", [REMEMBERED_SECONDS, 2 * REMEMBERED_SECONDS])
def test_a_mail_of_long_ago_gives_way(server: Server, after: int) -> None:
    clock = Clock()
    config = {"url": server.url, "prefix": next(_prefixes)}
    with (
        contextlib.closing(RedisStore(config, new_memory(clock), longest=60, timeout=PATIENCE, clock=clock)) as store,
        server.client() as client,
    ):
        # The window is shorter than mails are remembered.
        first, later = (demand_of((replace(CHARGES[0], limits=(Limit(10, 60),)),), mail, "one") for mail in "ab")
        assert ask(store, first) == [COUNTED]
        assert client.ttl(store._keys.counter(ALICE)) >= REMEMBERED_SECONDS
        clock.now += REMEMBERED_SECONDS - 1
        assert ask(store, first) == [KNOWN]
        clock.now += after - REMEMBERED_SECONDS + 2
        assert ask(store, later) == [COUNTED]
        assert ask(store, later) == [KNOWN]
        assert not client.exists(store._keys.mail(ALICE, later.mail))


@pytest.mark.parametrize(
    "demand", [replace(ONE, mail="m" * 64), demand_of(CHARGES, "mail", "p" * 300)], ids=["mail", "part"]
)
def test_what_is_too_long_has_a_key_of_its_own(server: Server, store: RedisStore, demand: Demand) -> None:
    with server.client() as client:
        assert ask(store, demand) == [COUNTED]
        assert ask(store, demand) == [KNOWN]
        assert client.type(store._keys.mail(ALICE, demand.mail)) == "string"


def test_a_mail_that_was_kept_as_a_hash_is_known(server: Server, store: RedisStore) -> None:
    """As all were before there was another way, here those of a counter that has expired."""
    with server.client() as client:
        assert ask(store, ONE) == [COUNTED]
        assert ask(store, TWO) == [COUNTED]
        client.delete(store._keys.counter(ALICE))
        assert ask(store, ONE, TWO) == [KNOWN, KNOWN]


def test_a_refused_mail_is_known_as_well(store: RedisStore) -> None:
    """Its charge alone was kept, and the limit has been reached since."""
    others = demand_of((replace(CHARGES[0], cost=9),), "other", "one")
    assert ask(store, ONE, others) == [COUNTED, Verdict((9,))]
    assert ask(store, ONE, TWO) == [KNOWN, refusal(Limit(10, HOUR))]


def test_one_charge_is_settled(store: RedisStore) -> None:
    settled = demand_of(CHARGES, "mail", settles=True)
    nothing = demand_of((replace(CHARGES[0], cost=0),), "mail", settles=True)
    assert ask(store, ONE, settled, nothing) == [COUNTED, KNOWN, Verdict((-1,))]
