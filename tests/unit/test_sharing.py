"""What peers share: who has to give up something, and whose turn it is."""

from __future__ import annotations

import dataclasses
import random
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.sharing import MOST_LOOKED_AT, Peer, Shares


@dataclasses.dataclass(eq=False)
class Connection:
    """A connection that does as the test says."""

    shares: Shares
    peer_name: str
    heard: float = 0.0
    waits: bool = False
    held: int = 0
    name: str = ""
    peer: Peer = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.peer = self.shares.join(self.peer_name, self)

    def take_turn(self) -> bool:
        raise NotImplementedError

    def abort(self) -> None:
        self.shares.leave(self.peer, self)


def connected(shares: Shares, **numbers: int) -> dict[str, list[Connection]]:
    return {name: [Connection(shares, name) for _ in range(number)] for name, number in numbers.items()}


def replaceable(shares: Shares, newcomer: str, now: float = 0.0) -> Connection | None:
    found = shares.replaceable(newcomer, now)
    if found is None:
        return None
    peer, connection = found
    assert isinstance(connection, Connection)
    assert connection.peer is peer
    return connection


def test_nobody_is_connected() -> None:
    assert Shares().replaceable("a", 0.0) is None
    assert Shares().next_turn() is None


@pytest.mark.parametrize("newcomer", ["postfix", "many", "new", "few"])
def test_the_peer_with_most_connections_gives_up_one(newcomer: str) -> None:
    shares = Shares()
    connected(shares, postfix=5, many=9, few=1)
    found = replaceable(shares, newcomer)
    assert found is not None
    assert found.peer_name == "many"


def test_of_peers_with_equally_many_it_is_the_newcomers_own() -> None:
    for newcomer in "abc":
        shares = Shares()
        connected(shares, a=3, b=3, c=3)
        found = replaceable(shares, newcomer)
        assert found is not None
        assert found.peer_name == newcomer


def test_the_longest_idle_ends_first() -> None:
    shares = Shares()
    ours = connected(shares, a=5)["a"]
    for now, heard in enumerate((3, 0, 4, 2), 1):
        shares.order()
        ours[heard].heard = float(now)
    shares.order()
    ended = []
    while (found := replaceable(shares, "a", 5.0)) is not None:
        ended.append(ours.index(found))
        found.abort()
    assert ended == [1, 3, 0, 4, 2]


def test_who_was_heard_in_this_second_is_not_idle_before_the_order_is_made() -> None:
    shares = Shares()
    ours = connected(shares, a=3)["a"]
    ours[0].heard = ours[1].heard = 7.0
    assert replaceable(shares, "a", 7.0) is ours[2]


@pytest.mark.parametrize(("newcomers", "ends"), [(4, True), (5, False), (9, False), (10, False)])
def test_who_waits_for_an_answer_ends_only_for_a_much_lighter_peer(newcomers: int, ends: bool) -> None:
    shares = Shares()
    for connection in connected(shares, a=10)["a"]:
        connection.waits = True
    connected(shares, b=newcomers)
    found = replaceable(shares, "b")
    if newcomers == 10:
        assert found is not None
        assert found.peer_name == "b"  # its own, which is idle
        return
    assert (found is not None and found.peer_name == "a") == ends


def test_finding_one_takes_no_time_where_all_wait() -> None:
    shares = Shares()
    for connection in connected(shares, a=20_000)["a"]:
        connection.waits = True
    assert replaceable(shares, "a", 1.0) is None  # all are put in order, once a second
    looked = 0

    class Looking(Connection):
        def __getattribute__(self, name: str) -> object:
            nonlocal looked
            looked += name == "waits"
            return super().__getattribute__(name)

    for one in tuple(shares._peers["a"].connections):
        assert isinstance(one, Connection)
        one.__class__ = Looking
    for _ in range(10):
        assert replaceable(shares, "a", 1.0) is None
    assert looked <= 10 * MOST_LOOKED_AT


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=60))
def test_the_heaviest_is_known_whatever_comes_and_goes(steps: list[tuple[str, bool]]) -> None:
    shares = Shares()
    here: dict[str, list[Connection]] = {name: [] for name in "abcd"}
    for name, joins in steps:
        if joins:
            here[name].append(Connection(shares, name))
        elif here[name]:
            gone = here[name].pop(0)
            gone.abort()
            gone.abort()  # once more does nothing
        most = max(map(len, here.values()))
        assert shares._highest == most
        found = replaceable(shares, "new")
        assert (found is None) == (most == 0)
        assert found is None or len(here[found.peer_name]) == most
        assert set(shares._peers) == {name for name in here if here[name]}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1000)), max_size=40))
def test_memory_is_summed_up_whoever_holds_it(steps: list[tuple[int, int]]) -> None:
    shares = Shares()
    all_ = [Connection(shares, name) for name in "aabbbc"]
    gone: set[int] = set()
    for number, size in steps:
        if size == 1000:
            all_[number].abort()
            gone.add(number)
        elif number not in gone:
            shares.hold(all_[number].peer, all_[number], size)
        assert shares.held == sum(connection.held for connection in all_)
        for peer in shares._peers.values():
            assert peer.held == sum(connection.held for connection in peer.connections)
    if len(gone) < len(all_):
        greediest = shares.greediest()
        assert sum(one.held for one in greediest) == max(peer.held for peer in shares._peers.values())
        assert [one.held for one in greediest] == sorted((one.held for one in greediest), reverse=True)


def turns(shares: Shares, number: int, *, more: bool = True) -> list[Connection]:
    """Who has the next ``number`` of turns; with ``more`` each goes on."""
    taken = []
    for _ in range(number):
        connection = shares.next_turn()
        if connection is None:
            break
        assert isinstance(connection, Connection)
        taken.append(connection)
        if more:
            shares.queue(connection.peer, connection, fresh=False)
    return taken


def queue(*connections: Connection, fresh: bool = False) -> None:
    for connection in connections:
        connection.shares.queue(connection.peer, connection, fresh=fresh)


def test_each_peer_has_as_many_turns_as_any_other() -> None:
    shares = Shares()
    ours = connected(shares, many=1000, few=2, one=1)
    for connections in ours.values():
        queue(*connections)
    of = Counter(connection.peer_name for connection in turns(shares, 300))
    assert of == {"many": 100, "few": 100, "one": 100}


def test_each_connection_of_a_peer_has_as_many_turns_as_any_other() -> None:
    shares = Shares()
    ours = connected(shares, a=10)["a"]
    queue(*ours)
    assert set(Counter(map(id, turns(shares, 50))).values()) == {5}


def test_who_asks_now_and_then_does_not_wait_for_those_who_always_ask() -> None:
    shares = Shares()
    ours = connected(shares, a=1001)["a"]
    queue(*ours[1:])
    turns(shares, 10)
    queue(ours[0], fresh=True)
    assert ours[0] in turns(shares, 2)


def test_those_who_always_ask_have_their_turns_beside_any_number_of_others() -> None:
    shares = Shares()
    ours = connected(shares, a=1001)["a"]
    queue(*ours[1:], fresh=True)
    queue(ours[0])
    assert ours[0] in turns(shares, 2, more=False)


def test_who_has_gone_has_no_turn() -> None:
    shares = Shares()
    ours = connected(shares, a=3, b=1)
    for connections in ours.values():
        queue(*connections)
    ours["a"][1].abort()
    ours["b"][0].abort()
    assert turns(shares, 10, more=False) == [ours["a"][0], ours["a"][2]]


def test_whoever_comes_and_goes_gets_no_more_turns_and_leaves_nothing() -> None:
    shares = Shares()
    queue(*connected(shares, b=2)["b"])
    stays = connected(shares, a=1)["a"]
    for _ in range(100):
        queue(*stays)
        one = Connection(shares, "a")
        queue(one)
        one.abort()
    assert len(shares.turns) == 2
    assert Counter(one.peer_name for one in turns(shares, 100)) == {"a": 50, "b": 50}


def test_a_turn_costs_the_same_with_any_number_of_connections() -> None:
    """No queue is gone through for one connection; what takes 20 times as long would be."""

    def seconds(number: int) -> float:
        shares = Shares()
        ours = connected(shares, a=number)["a"]
        queue(*ours)
        random.Random(1).shuffle(ours)
        start = time.process_time()
        turns(shares, 1000)
        for one in ours[:1000]:
            one.abort()
        return time.process_time() - start

    few, many = (min(seconds(number) for _ in range(3)) for number in (1000, 50_000))
    assert many < 20 * few + 0.05
