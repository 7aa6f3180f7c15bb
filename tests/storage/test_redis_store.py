"""The store on one server: what it counts and where."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.domain.charge import Charge, Demand, Verdict, refusal
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.domain.mails import REMEMBERED_SECONDS
from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.redis import link as redis_link
from policyd_rate_limit.storage.redis.keys import Keys
from policyd_rate_limit.storage.redis.node import NodeError, Remedy
from policyd_rate_limit.storage.redis.session import Session
from policyd_rate_limit.storage.redis.store import RedisStore
from storage.redis_stores import TIMEOUT, ask, new_prefix, store_on
from storage.stores import admitted, demand, new_memory
from support.redis_servers import External, RedisServer


def test_a_limit_within_a_batch_and_over_batches(server: RedisServer | External) -> None:
    with store_on(server) as store:
        for left in (3, 0):
            assert admitted(store, *([demand(maximum=3)] * 5)) == [index < left for index in range(5)]
        assert ask(store, demand(maximum=3)) == [refusal(Limit(3, 3600))]
        assert ask(store, demand("user:bob", 3, cost=3), demand("user:bob", 3)) == [
            Verdict((3,)),
            refusal(Limit(3, 3600)),
        ]


def test_charges_of_one_mail_are_admitted_all_or_none(server: RedisServer | External) -> None:
    limits = (Limit(5, 60), Limit(3, 3600))

    def asks(**costs: int) -> Demand:
        return Demand(tuple(Charge(key, cost, limits) for key, cost in costs.items()), "m")

    with store_on(server) as store:
        assert ask(store, asks(user=2, domain=4)) == [refusal(Limit(3, 3600), 1)]
        assert ask(store, asks(user=2, domain=6)) == [refusal(Limit(5, 60), 1)]
        assert ask(store, asks(user=3, domain=2)) == [Verdict((3, 2))]


def test_units_of_one_key_are_counted_apart(server: RedisServer | External) -> None:
    limits = (Limit(1, 60),)
    asks = [Demand((Charge(counter, 1, limits),)) for counter in ("user:a", "bytes|user:a") * 2]
    with store_on(server) as store:
        assert admitted(store, *asks) == [True, True, False, False]


def test_daemons_share_counts_and_mails(server: RedisServer | External) -> None:
    with store_on(server) as one, store_on(server, prefix=one._keys.prefix) as two:
        first = demand(maximum=2, mail="m", part="one")
        second = demand(maximum=2, mail="m", part="two")
        assert admitted(one, first) == admitted(two, second) == [True]
        assert [sum(verdict.counted) for verdict in ask(two, first)] == [0]
        assert admitted(one, demand(maximum=2)) == [False]
        settled = demand(maximum=2, cost=1, mail="m", settles=True)
        assert ask(one, settled) == [Verdict((-1,))]
        assert admitted(two, demand(maximum=2), demand(maximum=2)) == [True, False]


def test_databases_and_prefixes_are_apart(server: RedisServer | External) -> None:
    with store_on(server) as one, store_on(server) as two:
        assert admitted(one, demand(maximum=1)) == admitted(two, demand(maximum=1)) == [True]
    with store_on(server, db=1, prefix="policyd") as one, store_on(server, db=2, prefix="policyd") as two:
        key = f"user:{time.time()}"
        assert admitted(one, demand(key, 1)) == admitted(two, demand(key, 1)) == [True]
        assert admitted(one, demand(key, 1)) == [False]


IDS = (
    "user:\N{PILE OF POO}@example.org",
    'user:o\'hara "quoted" \\ back',
    "user:\udcff\udc80 bytes that are not UTF-8",
    "user:\ud800 a lone surrogate",
    "user:{braces}",
    "user:}",
    "}",
    "user:a\nb\r\n\0c",
    "user:*?[a-z]",
    "user:" + "x" * 16_000,
    "user:" + "x" * 16_001,
    "user:" + "\N{PILE OF POO}" * 200,
)


def test_any_id_is_counted_for_itself(server: RedisServer | External) -> None:
    with store_on(server) as store:
        asks = [demand(key, 2, mail="m", part="\udcff\ud800") for key in IDS]
        assert [sum(verdict.counted) for verdict in ask(store, *asks, *asks)] == [1] * len(IDS) + [0] * len(IDS)
        again = [demand(key, 2, mail="\udcff}") for key in IDS]
        assert admitted(store, *again, *again) == [True] * len(IDS) + [True] * len(IDS)
        assert admitted(store, *(demand(key, 2) for key in IDS)) == [False] * len(IDS)


NAMES = st.text(st.sampled_from("a:{}1#\N{PILE OF POO}\ud800"), max_size=8)


@given(st.tuples(NAMES, NAMES), st.tuples(NAMES, NAMES))
def test_no_two_names_share_a_key(one: tuple[str, str], other: tuple[str, str]) -> None:
    keys = Keys("policyd", clustered=False)
    if one != other:
        assert keys.mail(*one) != keys.mail(*other)
    if one[0] != other[0]:
        assert keys.counter(one[0]) != keys.counter(other[0])
    assert keys.counter(one[0]) not in (keys.mail(*one), keys.mail(*other))


def test_keys_expire_by_themselves(server: RedisServer | External) -> None:
    """Each with what it is for; nothing stays for ever but the identity of the installation."""
    with store_on(server) as store, server.client() as client:
        short = [demand("user:short", seconds=60, mail=mail, part="r") for mail in ("first", "m")]
        ask(store, *short, demand("user:long", seconds=86400))
        prefix = store._keys.prefix
        lives = {key: client.ttl(key) for key in client.scan_iter(f"{prefix}:*")}
        assert lives.pop(f"{prefix}:{{administration}}:installation") == -1  # which does
        assert set(lives) == {
            f"{prefix}:c:{{10:user:short}}",
            f"{prefix}:m:{{10:user:short}}m",
            f"{prefix}:c:{{9:user:long}}",
        }
        # The first mail is kept with it.
        assert REMEMBERED_SECONDS < lives[f"{prefix}:c:{{10:user:short}}"] <= REMEMBERED_SECONDS * 9 // 8 + 2
        assert 86400 < lives[f"{prefix}:c:{{9:user:long}}"] <= 86400 * 9 // 8 + 1
        assert REMEMBERED_SECONDS - 20 < lives[f"{prefix}:m:{{10:user:short}}m"] <= REMEMBERED_SECONDS


def test_a_refusal_writes_nothing(server: RedisServer | External) -> None:
    with store_on(server) as store, server.client() as client:
        assert admitted(store, demand(maximum=1)) == [True]
        before = dump(client, store)
        assert admitted(store, demand(maximum=1), demand("user:nobody", 0)) == [False, False]
        assert dump(client, store) == before


def dump(client: Any, store: RedisStore) -> dict[str, object]:
    return {
        key: client.execute_command("DUMP", key, NEVER_DECODE=True)
        for key in client.scan_iter(f"{store._keys.prefix}:*")
    }


def test_memory_knows_what_was_admitted(server: RedisServer | External) -> None:
    """It decides when the server is away."""
    limits = (Limit(10, 3600),)
    with store_on(server) as store:
        ask(store, demand(cost=2), demand(cost=1, mail="m", part="r"), demand(cost=4, mail="m", settles=True))
        windows = store._memory.ledger.windows
        assert windows.usage("user:a", limits) == (6,)
        ask(store, demand(cost=2, mail="m", settles=True), demand(cost=8))
        assert windows.usage("user:a", limits) == (4,)
        store.reload()
        assert store._memory.ledger.windows.usage("user:a", limits) == (0,)


def test_the_servers_clock_is_the_clock(server: RedisServer | External) -> None:
    """A daemon whose own clock is wrong knows the server's from the first batch on."""
    memory = new_memory(lambda: time.time() - 90.0)
    config = {"url": server.url, "prefix": new_prefix()}
    with contextlib.closing(RedisStore(config, memory, longest=60, timeout=TIMEOUT)) as store:
        ask(store, demand(seconds=60))
        assert abs(memory.date - time.time()) < 5
        assert memory.ledger.windows.usage("user:a", (Limit(9, 60),)) == (1,)


def test_clean_says_that_nothing_needed_to_be_deleted(own: RedisServer) -> None:
    with store_on(own) as store:
        ask(store, demand())
        assert store.clean(1.0) == 0
    own.kill()
    with store_on(own) as store, pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1"):
        store.clean(1.0)


@pytest.mark.parametrize(("seconds", "cut_times"), [(TIMEOUT, 2), (0.0, 1)], ids=["in time", "late"])
def test_a_connection_that_is_cut_while_it_is_made_is_no_outage(
    server: RedisServer | External, monkeypatch: pytest.MonkeyPatch, seconds: float, cut_times: int
) -> None:
    """Not even where the first try takes longer than all are meant to."""
    monkeypatch.setattr(redis_link, "CONNECTING_SECONDS", seconds)
    with store_on(server) as store:
        connect, cuts = store._link.servers.connect, [True] * cut_times

        def cut() -> Session:
            if cuts:
                cuts.pop()
                raise NodeError("cut", Remedy.RECONNECT)
            return connect()

        monkeypatch.setattr(store._link.servers, "connect", cut)
        assert admitted(store, demand()) == [True]
        assert not cuts


def test_without_room_for_a_thread_it_is_away(server: RedisServer | External, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with store_on(server) as store:
        monkeypatch.setattr(threading.Thread, "start", start)
        with pytest.raises(StoreUnavailable, match="can't start new thread"):
            admitted(store, demand())
        monkeypatch.undo()
        assert admitted(store, demand()) == [True]


def test_a_record_that_cannot_be_understood_holds_nobody_up(
    server: RedisServer | External, caplog: pytest.LogCaptureFixture
) -> None:
    memory = new_memory(time.time)
    memory.advance()
    good = memory.decide([demand(cost=2)])[1]
    assert good is not None
    with store_on(server) as store:
        bad = good._replace(number=7, entries='[["user:a","many",0,"",""]]')
        assert store.admit([demand(maximum=2)], [good, bad], 1.0) == [refusal(Limit(2, 3600))]
        assert [record.levelname for record in caplog.records if "cannot be understood" in record.message] == ["ERROR"]
