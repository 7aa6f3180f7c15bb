"""A Cluster of three masters, and a master with a replica and three Sentinels."""

from __future__ import annotations

import contextlib
import itertools
import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from policyd_rate_limit.domain.charge import Charge, Demand, Exceeded, Verdict, refusal
from policyd_rate_limit.domain.counting import digest
from policyd_rate_limit.domain.limits import PER_MAIL, Limit
from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.administration import Override
from policyd_rate_limit.storage.batch import Batch
from policyd_rate_limit.storage.contract import CommitFailed
from policyd_rate_limit.storage.redis.administration import RedisAdministration
from policyd_rate_limit.storage.redis.node import NodeError, slot_of
from policyd_rate_limit.storage.redis.store import RedisStore
from storage.hit_rows import THIS_HOUR, row
from storage.stores import demand, new_memory, values_in
from support.actors import TESTER
from support.demands import demand_of
from support.redis_servers import RedisServer, Replicated, cluster
from support.wait import wait_until

TIMEOUT = 10.0
ELECTION = "Sentinels that get no processor for a second begin another election"
_prefixes = (f"test{number}" for number in itertools.count())


def new_store(config: dict[str, Any], timeout: float = TIMEOUT) -> RedisStore:
    return RedisStore(config, new_memory(time.time), longest=3600, timeout=timeout)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    """The Cluster of all tests here, each with a prefix of its own."""
    with cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest.fixture
def store(nodes: list[RedisServer]) -> Iterator[RedisStore]:
    """A store on the Cluster."""
    config = {"url": nodes[0].url, "cluster": True, "prefix": next(_prefixes)}
    with contextlib.closing(new_store(config)) as store:
        yield store


def charges(*costs: tuple[str, int, int]) -> Demand:
    """Charges of (key, cost, maximum) for one mail."""
    return Demand(tuple(Charge(key, cost, (Limit(maximum, 3600),)) for key, cost, maximum in costs))


def admitted(store: RedisStore, *demands: Demand) -> list[bool]:
    return [verdict.admitted for verdict in store.admit(demands, (), 1.0)]


def used(store: RedisStore, key: str, most: int = 50) -> int:
    """What lies in the window of ``key``."""
    probes = [charges((key, 1, maximum), ("never", 1, 0)) for maximum in range(1, most)]
    return [len(verdict.exceeded) for verdict in store.admit(probes, (), 1.0)].index(1)


def on_each_node(store: RedisStore) -> list[str]:
    """A key for each of the three masters, in their order."""
    found: dict[int, str] = {}
    for number in itertools.count():
        key = f"user:{number}"
        found.setdefault(slot_of(store._keys.counter(key)) * 3 // 16_384, key)
        if len(found) == 3:
            break
    return [found[node] for node in range(3)]


def test_ids_are_spread_over_the_masters(store: RedisStore, nodes: list[RedisServer]) -> None:
    """Each id has its limit, and all of its keys are on one master."""
    demands = [
        demand(f"user:{number}", 3, mail=f"mail{number}.{turn}", part="r") for number in range(60) for turn in range(5)
    ]
    verdicts = [verdict.admitted for verdict in store.admit(demands, (), 1.0)]
    assert verdicts == [True, True, True, False, False] * 60
    assert [sum(verdict.counted) for verdict in store.admit(demands, (), 1.0)] == [0] * 300
    found = []
    for node in nodes:
        with node.client() as client:
            found.append({key.split(":c:")[1] for key in client.scan_iter("*:c:*") if key.startswith(prefix(store))})
    assert sum(map(len, found)) == 60
    assert all(len(keys) > 5 for keys in found)


def in_flight(store: RedisStore, *demands: Demand) -> Batch:
    batch = store.prepare(demands, 1.0)
    assert batch is not None
    assert batch.descriptors
    return batch


def received(batch: Batch) -> list[bool]:
    """What is admitted, as soon as something more can be read."""
    while (verdicts := batch.poll()) is None:
        assert select.select(batch.descriptors, (), (), TIMEOUT)[0]
    return [verdict.admitted for verdict in verdicts]


def test_batches_are_in_flight_to_all_masters(store: RedisStore, nodes: list[RedisServer]) -> None:
    """Whichever of them answers last; what has been read is read no more."""
    keys = on_each_node(store)
    batches = [[demand(key, 3) for key in order] for order in itertools.permutations(keys)]
    assert admitted(store, demand(keys[0], 3)) == [True]  # there are connections
    for number, key in enumerate(keys):
        slow = nodes[number]
        with slow.client() as client:
            client.execute_command("CLIENT", "PAUSE", 300, "ALL")
        one, two = in_flight(store, *batches[0]), in_flight(store, demand(key, 3), demand("user:other", 100))
        started = time.process_time()
        assert len(received(one)) == len(keys)
        assert received(two)[1]
        assert time.process_time() - started < 0.15
    assert [used(store, key) for key in keys] == [3, 3, 3]


def test_a_master_that_hangs_up_is_noticed_by_who_waits_for_another(
    store: RedisStore, nodes: list[RedisServer]
) -> None:
    keys = on_each_node(store)
    assert admitted(store, *(demand(key, 3) for key in keys)) == [True] * 3
    with nodes[0].client() as client:
        client.execute_command("CLIENT", "PAUSE", 300, "ALL")
    batch = in_flight(store, demand(keys[0], 3))
    with nodes[2].client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(NodeError):
        received(batch)
    assert [verdict.admitted for verdict in batch.finish()] == [True]
    assert used(store, keys[0]) == 2


def prefix(store: RedisStore) -> str:
    return store._keys.prefix


def test_charges_on_several_masters_are_all_admitted_or_none(store: RedisStore) -> None:
    one, two, three = on_each_node(store)
    assert admitted(store, charges((one, 2, 10), (two, 3, 10), (three, 4, 10))) == [True]
    assert [used(store, key) for key in (one, two, three)] == [2, 3, 4]
    # The third refuses: what the first two have reserved is given back.
    verdict = store.admit([charges((one, 2, 10), (two, 3, 10), (three, 7, 10))], (), 1.0)
    assert verdict == [refusal(Limit(10, 3600), 2)]
    assert [used(store, key) for key in (one, two, three)] == [2, 3, 4]


def test_a_mail_that_was_refused_by_the_second_master_may_be_asked_again(store: RedisStore) -> None:
    one, two, _ = on_each_node(store)
    refused = demand_of(charges((one, 1, 10), (two, 2, 1)).charges, "m", "r")
    small = demand_of(charges((one, 1, 10), (two, 1, 1)).charges, "m", "r")
    assert [admitted(store, asks) for asks in (refused, refused, small, small, refused)] == [
        [False],
        [False],
        [True],
        [True],
        [True],
    ]
    assert [used(store, key) for key in (one, two)] == [1, 1]


def test_nobody_relies_on_what_is_only_reserved(store: RedisStore) -> None:
    """The same mail, asked about several times at once: what one undoes, another does not take as charged."""
    one, two, _ = on_each_node(store)
    refused = demand_of(charges((one, 1, 10), (two, 2, 1)).charges, "m", "r")
    small = demand_of(charges((one, 1, 10), (two, 1, 1)).charges, "m", "r")
    assert sum(admitted(store, refused, refused, small, small, refused)) == 1
    assert [used(store, key) for key in (one, two)] == [1, 1]
    roomy = demand_of(charges((one, 1, 10), (two, 1, 10)).charges, "n", "r")
    assert admitted(store, roomy, roomy, roomy) == [True, True, True]
    assert [used(store, key) for key in (one, two)] == [2, 2]


def test_a_value_is_counted_once_all_masters_have_admitted_its_mail(store: RedisStore) -> None:
    """Whichever of them is asked first; what one refuses is noted nowhere, and nobody relies on what is reserved."""
    key = on_each_node(store)[0]
    places = f"places/distinct-client_address|{key}"
    other = f"person|{key}"
    assert slot_of(store._keys.counter(other)) != slot_of(store._keys.counter(places))
    roomy, full = Charge(other, 1, (Limit(100, 3600),)), Charge(other, 101, (Limit(100, 3600),))

    def mail(value: str, charge: Charge, name: str = "", first: bool = True) -> Demand:
        distinct = Charge(places, 0, (Limit(2, 3600),), digest(value))
        return Demand((distinct, charge) if first else (charge, distinct), name)

    for first in (True, False):
        assert admitted(store, mail("refused", full, "", first), mail("refused", full, "m", first)) == [False] * 2
        assert values_in(store, places) == [0 if first else 1]
        asked = [mail("a", full, "n", first), mail("a", roomy, "o", first), mail("a", roomy, "", first)]
        assert admitted(store, *asked) == [False, True, True]
        assert values_in(store, places) == [1]
    found = verdicts(store, mail("b", roomy, "p"), mail("c", roomy, "q"), mail("b", roomy))
    assert [verdict.admitted for verdict in found] == [True, False, True]
    assert found[1] == refusal(Limit(2, 3600))
    assert values_in(store, places) == [2]


def rules(keys: Sequence[str], *asked: tuple[int, int, bool], mail: str = "m") -> Demand:
    """A charge of (cost, maximum, refuses) for each of ``keys``, of one part of a mail."""
    return Demand(
        tuple(
            Charge(key, cost, (Limit(maximum, 3600),), "r", refuses=refuses)
            for key, (cost, maximum, refuses) in zip(keys, asked, strict=True)
        ),
        mail,
    )


def verdicts(store: RedisStore, *demands: Demand) -> list[Verdict]:
    return store.admit(demands, (), 1.0)


def exceeded(*charges: tuple[int, int]) -> tuple[Exceeded, ...]:
    """By (index of the charge, maximum)."""
    return tuple(Exceeded(index, Limit(maximum, 3600)) for index, maximum in charges)


def refused_for(*charges: tuple[int, int], by: int = 0) -> Verdict:
    """By the ``by``-th of ``charges`` that are exceeded."""
    found = exceeded(*charges)
    return Verdict((), found, found[by])


def test_a_refusal_of_the_second_master_tells_what_is_exceeded_on_the_others(store: RedisStore) -> None:
    """The first would let the mail pass, the third would refuse it, too: nothing is counted on any."""
    keys = on_each_node(store)
    asks = rules(keys, (2, 1, False), (3, 2, True), (4, 3, True))
    refused = refused_for((0, 1), (1, 2), (2, 3), by=1)
    assert verdicts(store, asks, asks) == [refused, refused]
    assert [used(store, key) for key in keys] == [0, 0, 0]
    # The first has reserved, which is given back, and the third admits: it counts nothing that it was only asked about.
    asks = rules(keys, (2, 5, True), (3, 2, True), (4, 5, True))
    assert verdicts(store, asks) == [refused_for((1, 2))]
    assert [used(store, key) for key in keys] == [0, 0, 0]
    # What was refused is not remembered as charged.
    assert verdicts(store, rules(keys, (2, 5, True), (3, 5, True), (4, 5, True))) == [Verdict((2, 3, 4))]
    assert [used(store, key) for key in keys] == [2, 3, 4]


def test_a_master_that_is_asked_after_a_refusal_knows_what_the_mail_was_charged(store: RedisStore) -> None:
    """Its limit is reached by that mail itself, so that it is not exceeded by it."""
    keys = on_each_node(store)
    assert verdicts(store, rules(keys, (1, 9, True), (1, 9, True), (3, 3, True))) == [Verdict((1, 1, 3))]
    one, two, three = rules(keys, (1, 9, True), (9, 9, True), (3, 3, True)).charges
    two = replace(two, part="another")
    assert verdicts(store, Demand((one, two, three), "m")) == [refused_for((1, 9))]
    assert verdicts(store, Demand((one, two, replace(three, part="another")), "m")) == [refused_for((1, 9), (2, 3))]
    assert [used(store, key) for key in keys] == [1, 1, 3]


@pytest.mark.parametrize("observing", range(3))
def test_a_charge_that_refuses_nothing_lies_on_another_master(store: RedisStore, observing: int) -> None:
    """It alone is not counted where it is exceeded; it is told beside what refuses, and refuses nothing itself."""
    keys = on_each_node(store)
    refusing = [at for at in range(3) if at != observing]

    def asks(mail: str, cost: int, *, most: int) -> Demand:
        maxima = [(cost, 1, False) if at == observing else (cost, most, True) for at in range(3)]
        return rules(keys, *maxima, mail=mail)

    assert verdicts(store, asks("one", 1, most=9)) == [Verdict((1, 1, 1))]
    counted = tuple(0 if at == observing else 2 for at in range(3))
    assert verdicts(store, asks("two", 2, most=9)) == [Verdict(counted, exceeded((observing, 1)))]
    # The same mail once more: what was counted is known, what was not is exceeded again.
    assert verdicts(store, asks("two", 2, most=9)) == [Verdict((0, 0, 0), exceeded((observing, 1)))]
    all_exceeded = exceeded(*((at, 1 if at == observing else 4) for at in range(3)))
    assert verdicts(store, asks("three", 2, most=4)) == [Verdict((), all_exceeded, all_exceeded[refusing[0]])]
    assert [used(store, key) for key in keys] == [1 if at == observing else 3 for at in range(3)]


@pytest.mark.parametrize("observing", range(3))
def test_a_lost_answer_of_what_was_exceeded_and_let_pass(store: RedisStore, observing: int) -> None:
    """The masters are asked again, and answer as the first time: nothing is counted twice, nor what was let pass."""
    keys = on_each_node(store)
    limits = [(2, 1, False) if at == observing else (2, 9, True) for at in range(3)]
    asked = [rules(keys, *limits, mail=mail) for mail in ("one", "two", "")]
    lost = store._inquire(asked)
    counted = tuple(0 if at == observing else 2 for at in range(3))
    for _ in range(2):
        again = store._inquire(asked)
        again.number, again._common, again._settled_field = lost.number, lost._common, lost._settled_field
        store._link.connect(TIMEOUT)
        while commands := again.ask():
            store._exchange(commands)
            again.take()
        found = [question.result for question in again.questions]
        assert found == [Verdict(counted, exceeded((observing, 1)))] * 3
    assert [used(store, key) for key in keys] == [0 if at == observing else 6 for at in range(3)]


def test_a_mail_is_bounded_by_what_is_only_reserved_too(store: RedisStore) -> None:
    """By a limit per mail on each master; what another one made be given back counts no more."""
    one, two, _ = on_each_node(store)
    per_mail = Limit(2, PER_MAIL)

    def asks(part: str, most: int = 9, settles: int = 0) -> Demand:
        limits = {one: (per_mail,), two: (Limit(most, 3600),)}
        return Demand(tuple(Charge(key, settles or 1, limits[key], part, settles > 0) for key in limits), "m")

    assert admitted(store, asks("a"), asks("b", most=0), asks("c")) == [True, False, False]
    assert verdicts(store, asks("b", most=0)) == [refusal(Limit(0, 3600), 1)]
    assert admitted(store, asks("b")) == [True]
    assert verdicts(store, asks("c")) == [refusal(per_mail)]
    assert admitted(store, asks("a"), asks("b"), asks("", settles=3), asks("", settles=2)) == [True, True, False, True]
    assert [used(store, key) for key in (one, two)] == [2, 2]


def test_a_settlement_over_several_masters(store: RedisStore) -> None:
    one, two, three = on_each_node(store)
    keys = (one, two, three)

    def settled(*costs: int) -> Demand:
        asked = charges(*((key, cost, 10) for key, cost in zip(keys, costs, strict=True)))
        return demand_of(asked.charges, "m", settles=True)

    assert [store.admit([settled(*costs)], (), 1.0)[0].counted for costs in ((2, 3, 4), (5, 3, 1), (5, 3, 1))] == [
        (2, 3, 4),
        (3, 0, -3),
        (0, 0, 0),
    ]
    assert [used(store, key) for key in keys] == [5, 3, 1]
    assert admitted(store, settled(6, 11, 0)) == [False]
    assert [used(store, key) for key in keys] == [5, 3, 1]


def test_what_was_decided_while_the_cluster_was_away_is_replayed_everywhere(
    store: RedisStore, nodes: list[RedisServer]
) -> None:
    keys = on_each_node(store)
    other = new_memory(time.time)
    records = []
    for _ in range(3):
        other.advance()
        record = other.decide([charges(*((key, 2, 50) for key in keys))])[1]
        assert record is not None
        records.append(record)
    for _ in range(2):
        store.admit((), records, 1.0)
        store._link.disconnect()
    assert [used(store, key) for key in keys] == [6, 6, 6]


def test_the_hit_history_and_the_audit_trail_are_of_all_masters(nodes: list[RedisServer]) -> None:
    """A key of another slot is reset, and its entry is there all the same."""
    config = {"url": nodes[1].url, "cluster": True, "prefix": next(_prefixes)}
    with (
        contextlib.closing(new_store(config)) as store,
        contextlib.closing(RedisAdministration(config, longest=3600, timeout=TIMEOUT)) as administration,
    ):
        keys = on_each_node(store)
        assert admitted(store, *(demand(key, 9, cost=2) for key in keys)) == [True] * 3
        store.add_history([row(key) for key in keys] + [row(hour=THIS_HOUR - 3600)])
        store.add_history([row(keys[0])])
        assert [administration.reset(key, TESTER) for key in keys] == [2] * 3
        administration.set_override(Override(keys[0], (), administration.now() + 60), TESTER)
        assert administration.remove_override(keys[0], TESTER)
        found = sorted((one.key, one.hits) for one in administration.hit_history(THIS_HOUR))
        assert found == sorted([(keys[0], 2), (keys[1], 1), (keys[2], 1)])
        assert len(list(administration.hit_history(0))) == 4
        assert [(one.action, one.subject) for one in administration.audit()] == [
            ("revoke", keys[0]),
            ("allow", keys[0]),
            *(("reset", key) for key in reversed(keys)),
        ]
        assert {one.detail for one in administration.audit() if one.action == "reset"} == {"2 mails taken back"}
        store.clean(TIMEOUT)
        assert len(administration.audit()) == 5


def test_any_node_leads_to_all(nodes: list[RedisServer]) -> None:
    """The first address does not answer, the second does."""
    config = {
        "url": "redis://127.0.0.1:1",
        "nodes": [["127.0.0.1", nodes[2].port]],
        "cluster": True,
        "prefix": next(_prefixes),
    }
    with contextlib.closing(new_store(config)) as store:
        assert admitted(store, *(demand(f"user:{number}") for number in range(20))) == [True] * 20


def test_a_slot_that_moves_keeps_its_counts(store: RedisStore, nodes: list[RedisServer]) -> None:
    """While it is moved (ASK), between the keys of one id (TRYAGAIN), and after (MOVED)."""
    key = on_each_node(store)[0]
    asks = demand(key, 6, mail="m", part="r")
    again = [demand(key, 6, mail=f"m{number}", part="r") for number in range(10)]
    assert admitted(store, asks, again[0]) == [True, True]
    slot = slot_of(store._keys.counter(key))
    with contextlib.ExitStack() as stack:
        source, target, _ = clients = [stack.enter_context(node.client()) for node in nodes]
        ids = [client.execute_command("CLUSTER", "MYID") for client in clients]
        target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        assert admitted(store, again[0]) == [True]  # the source has all keys of this one still
        keys = source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)
        assert len(keys) >= 2

        def move() -> None:
            moves = ("MIGRATE", "127.0.0.1", nodes[1].port, "", 0, 5000, "KEYS", *keys)
            source.execute_command(*moves)
            for client in (target, source, clients[2]):
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])

        mover = threading.Timer(0.2, move)
        mover.start()
        # A new mail is neither here nor there: that is for later.
        assert admitted(store, again[1]) == [True]
        mover.join()
        assert admitted(store, asks, *again[2:7]) == [True, True, True, True, False, False]
        assert used(store, key) == 6


def test_while_a_slot_is_moved_each_id_is_asked_for_where_it_is(store: RedisStore, nodes: list[RedisServer]) -> None:
    """A new one is the target's already, this once (ASK); one of before stays with the source until the end."""
    in_first = (f"moving:{number}" for number in itertools.count())
    key = next(key for key in in_first if slot_of(store._keys.counter(key)) * 3 < 16_384)
    slot = slot_of(store._keys.counter(key))
    beside = next(other for other in in_first if slot_of(store._keys.counter(other)) == slot)
    assert admitted(store, demand(key, 2)) == [True]
    with contextlib.ExitStack() as stack:
        source, target, other = clients = [stack.enter_context(node.client()) for node in nodes]
        ids = [client.execute_command("CLUSTER", "MYID") for client in clients]
        target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        try:
            asked = [admitted(store, demand(name, 2))[0] for name in (beside, key, beside, key, beside)]
            assert asked == [True, True, True, False, False]
            assert target.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot) == 1
        finally:
            keys = source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)
            source.execute_command("MIGRATE", "127.0.0.1", nodes[1].port, "", 0, 5000, "KEYS", *keys)
            for client in (target, source, other):
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])
        assert admitted(store, demand(beside, 3), demand(beside, 3), demand(key, 2)) == [True, False, False]


def test_a_master_that_is_away_leaves_the_others_answers(nodes: list[RedisServer]) -> None:
    """What the others decided holds, memory decides the rest, and everything is counted once afterwards."""
    config = {"url": nodes[0].url, "cluster": True, "prefix": next(_prefixes)}
    with contextlib.closing(new_store(config)) as store:
        keys = on_each_node(store)
        asks = [demand(key, 50, mail="m", part="r") for key in keys]
        assert admitted(store, *asks) == [True] * 3
        nodes[1].signal(STOP)
        store._link.timeout = 0.5
        again = [demand(key, 50, cost=2, mail=f"n{key}", part="r") for key in keys]
        with pytest.raises(CommitFailed) as failure:
            store.admit(again, (), 1.0)
        assert [sum(verdict.counted) for verdict in failure.value.verdicts] == [2, 2, 2]
        record = failure.value.record
        assert record is not None
        nodes[1].signal(CONTINUE)
        store._link.timeout = TIMEOUT
        wait_until(lambda: tries(lambda: store.admit(again, [record], 1.0)), "the Cluster is whole")
        assert [used(store, key) for key in keys] == [3, 3, 3]


STOP, CONTINUE = 19, 18  # SIGSTOP, SIGCONT


def tries(step: Callable[[], object]) -> bool:
    """Whether ``step`` succeeds."""
    try:
        step()
    except (StoreUnavailable, CommitFailed):
        return False
    return True


@pytest.mark.depends_on_machine(reason=ELECTION)
@pytest.mark.long(8)
def test_a_failover_by_sentinel(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The master dies, the replica becomes master: what it had heard of counts, and the store goes on with it."""
    with (
        Replicated(tmp_path_factory.mktemp("sentinel")) as servers,
        contextlib.closing(new_store(servers.config())) as store,
    ):
        assert admitted(store, *([demand("user:a", 5)] * 3)) == [True] * 3
        with servers.replica.client() as replica:
            wait_until(lambda: replica.exists("policyd:c:{6:user:a}"), "the replica has heard of it")
        servers.master.kill()
        with pytest.raises((StoreUnavailable, CommitFailed)):
            store.admit([demand("user:b", 5)], (), 1.0)
        wait_until(lambda: tries(lambda: store.admit([demand("user:c", 5)], (), 1.0)), "the replica is master", 30)
        assert admitted(store, *([demand("user:a", 5)] * 4)) == [True, True, False, False]


@pytest.mark.depends_on_machine(reason=ELECTION)
def test_a_master_that_became_a_replica_is_left(tmp_path_factory: pytest.TempPathFactory) -> None:
    """It still answers, with READONLY: the store asks the Sentinels again."""
    with (
        Replicated(tmp_path_factory.mktemp("sentinel")) as servers,
        contextlib.closing(new_store(servers.config())) as store,
    ):
        assert admitted(store, demand("user:a", 5)) == [True]
        with servers.replica.client() as replica:
            wait_until(lambda: replica.exists("policyd:c:{6:user:a}"), "the replica has heard of it")
        with servers.sentinels[0].client() as sentinel:
            sentinel.execute_command("SENTINEL", "FAILOVER", servers.SERVICE)
        asks = iter(lambda: demand("user:b", 10**6), None)

        def moved() -> bool:
            tries(lambda: store.admit([next(asks)], (), 1.0))
            try:
                with servers.replica.client() as client:
                    return bool(client.exists("policyd:c:{6:user:b}")) and client.role()[0] == "master"
            except RedisConnectionError:  # Sentinel has all clients of a new master disconnected
                return False

        wait_until(moved, "the new master is asked", 30)
        assert admitted(store, *([demand("user:a", 5)] * 5)) == [True] * 4 + [False]


def test_sentinels_that_know_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        config = {"sentinels": [["127.0.0.1", 1], ["127.0.0.1", server.port]], "service_name": "limits"}
        with pytest.raises(StoreUnavailable, match="Sentinel"):
            new_store(config).admit((), (), 1.0)
