"""How Redis keeps what it has counted: one thing in several ways, of which each is understood."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from policyd_rate_limit.domain.charge import RECIPIENTS, Charge, Demand, Verdict
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.domain.mails import REMEMBERED_SECONDS
from policyd_rate_limit.storage.redis import RedisStore
from storage.stores import new_memory
from support.redis_servers import External, RedisServer, single

HOUR = 3_600
PATIENCE = 20.0
ALICE = "user:alice"
CHARGES = (Charge(ALICE, RECIPIENTS, 1, (Limit(10, HOUR),)),)
ONE, TWO = Demand(CHARGES, "mail", "one"), Demand(CHARGES, "mail", "two")
COUNTED, KNOWN = Verdict(True, charged=1), Verdict(True)

Server = RedisServer | External
_prefixes = (f"kept{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all tests here, each with a prefix of its own."""
    with single(tmp_path_factory.mktemp("redis")) as server, server.client() as client:
        yield server
        client.flushdb()


@pytest.fixture
def store(server: Server) -> Iterator[RedisStore]:
    config = {"url": server.url, "prefix": next(_prefixes)}
    with contextlib.closing(RedisStore(config, new_memory(time.time), longest=HOUR, timeout=PATIENCE)) as store:
        yield store


def ask(store: RedisStore, *demands: Demand) -> Sequence[Verdict]:
    return store.admit(demands, (), PATIENCE)


def test_a_mail_with_one_charge_and_with_several(server: Server, store: RedisStore) -> None:
    key = store._keys.mail(ALICE, "mail")
    with server.client() as client:
        for demands, verdicts, kind in (
            ((ONE, ONE), [COUNTED, KNOWN], "string"),
            ((ONE,), [KNOWN], "string"),
            ((TWO, ONE, TWO), [COUNTED, KNOWN, KNOWN], "hash"),
            ((ONE,), [KNOWN], "hash"),
        ):
            assert ask(store, *demands) == verdicts
            assert client.type(key) == kind
        assert 0 < client.ttl(key) <= REMEMBERED_SECONDS


def test_a_refused_mail_is_known_as_well(store: RedisStore) -> None:
    """Its charge alone was kept, and the limit has been reached since."""
    others = Demand((replace(CHARGES[0], cost=9),), "other", "one")
    assert ask(store, ONE, others) == [COUNTED, Verdict(True, charged=9)]
    assert ask(store, ONE, TWO) == [KNOWN, Verdict(False, ALICE, Limit(10, HOUR))]


def test_one_charge_is_settled(store: RedisStore) -> None:
    settled = Demand(CHARGES, "mail", "", settles=True)
    nothing = Demand((replace(CHARGES[0], cost=0),), "mail", "", settles=True)
    assert ask(store, ONE, settled, nothing) == [COUNTED, KNOWN, Verdict(True, charged=-1)]
