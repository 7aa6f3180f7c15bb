"""Whom a rule blocks: which counters, from when on, and who is told."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from policyd_rate_limit.domain.limits import BLOCKED, Limit
from policyd_rate_limit.domain.request import Request
from policyd_rate_limit.storage.administration import Override
from support.policies import Nobody
from support.ruled import NOON, Ruled

FAIL, BLOCK = "450 later", "550 blocked"
ALICE = "alice@example.org"
LIMIT = Limit(1, 3600)


def rules(*lines: str) -> str:
    return "\n".join(
        ["fail_action: 450 later", "block_action: 550 blocked", "rules:", *(f"  {line}" for line in lines)]
    )


class Blocking(Ruled):
    """Notes what is to be kept, of which ``room`` is left, and who is said to be blocked."""

    def __init__(self, *lines: str, room: int = 100) -> None:
        super().__init__(rules(*lines))
        self.room = room
        self.kept: list[Sequence[Override]] = []
        self.told: list[tuple[str, Limit, int, bool]] = []
        told = self.told

        class Noting(Nobody):
            def blocks(self, _request: Request, counter: str, limit: Limit, seconds: int, *, shadow: bool) -> None:
                told.append((counter, limit, seconds, shadow))

        self.service.observer = Noting()
        self.service._keep_blocks = self._keep

    def _keep(self, blocks: Sequence[Override]) -> int:
        if len(blocks) > self.room:
            return 0
        self.kept.append(blocks)
        return len(self.kept)

    def first(self, **attributes: str) -> str:
        """What is answered at the first stage of a mail."""
        return self.mail(1, size=1000, **attributes)[0]

    @property
    def counters(self) -> list[str]:
        """Those that are blocked."""
        return [block.key for blocks in self.kept for block in blocks]


def test_all_rules_with_that_key_block_from_the_next_request_on() -> None:
    blocking = Blocking(
        "person: {key: sasl_username, limits: 1/1h, block: 2h}",
        "volume: {key: sasl_username, count: bytes, limits: 1M/1d}",
        "either: {key: sasl_username|client_address, limits: 100/1d}",
        "domain: {key: sasl_domain, limits: 100/1d}",
        "sender: {key: sender, limits: 100/1d}",
        "pair: {key: sasl_username+client_address, limits: 100/1d}",
        "machine: {key: server, limits: 100/1d}",
    )
    assert blocking.mail()[-1] == "dunno"
    assert not blocking.kept
    assert blocking.first() == FAIL
    (blocks,) = blocking.kept
    assert {block[1:] for block in blocks} == {((BLOCKED,), NOON + 7200, "rule person: 1/1h exceeded")}
    assert blocking.counters == [f"person|user:{ALICE}", f"volume/bytes|user:{ALICE}", f"either|user:{ALICE}"]
    assert blocking.told == [(f"person|user:{ALICE}", LIMIT, 7200, False)]
    assert blocking.first() == BLOCK
    assert blocking.first(sasl_username="bob@example.org") == "dunno"
    assert len(blocking.kept) == 1
    blocking.now = NOON + 7200
    assert blocking.first() == "dunno"


def test_the_rule_of_limits_is_one_of_them() -> None:
    blocking = Blocking("person: {key: sasl_username, limits: 1/1h, block: 2h}")
    blocking.reload("limits: 9/1h\n" + rules("person: {key: sasl_username, limits: 1/1h, block: 2h}"))
    assert [blocking.first(), blocking.first(), blocking.first()] == ["dunno", FAIL, BLOCK]
    assert blocking.counters == [f"person|user:{ALICE}", f"user:{ALICE}"]


@pytest.mark.parametrize(
    ("key", "address", "counters"),
    [
        ("client_address", "192.0.2.1", ["x|client:192.0.2.1", "y|client:192.0.2.1"]),
        ("client_address/24/56", "192.0.2.1", ["x|client:192.0.2.0/24"]),
        ("client_address", "2001:db8::7", ["x|client:2001:db8::/64", "y|client:2001:db8::/64"]),
        ("sasl_domain", "192.0.2.1", ["x|sasl_domain:example.org"]),
        ("sasl_username+client_address", "192.0.2.1", [f"x|user+client:{ALICE}+192.0.2.1"]),
    ],
)
def test_whose_counters_are_blocked(key: str, address: str, counters: list[str]) -> None:
    blocking = Blocking(
        f"x: {{key: {key}, limits: 1/1h, block: 1h}}",
        "y: {key: client_address, limits: 100/1h}",
        "z: {key: sasl_username, limits: 100/1h}",
    )
    assert [blocking.first(client_address=address) for _ in range(3)] == ["dunno", FAIL, BLOCK]
    assert blocking.counters == counters


def test_shadow_tells_and_blocks_nobody() -> None:
    blocking = Blocking("person: {key: sasl_username, limits: 1/1h, block: 2h, shadow: true}")
    assert [blocking.first() for _ in range(3)] == ["dunno"] * 3
    assert {*blocking.told} == {(f"person|user:{ALICE}", LIMIT, 7200, True)}
    assert not blocking.kept


def test_a_rule_that_holds_blocks_what_refuses_elsewhere() -> None:
    blocking = Blocking(
        "held: {key: sasl_username, limits: 1/1h, action: hold, block: 2h}",
        "person: {key: sasl_username, limits: 100/1h}",
    )
    assert [blocking.first(), blocking.first(), blocking.first()] == ["dunno", "hold", BLOCK]


def test_what_another_rule_refuses_exceeds_nothing_that_only_holds() -> None:
    """As it is told nowhere else."""
    blocking = Blocking(
        "held: {key: sasl_username, limits: 1/1h, action: hold, block: 2h}",
        "person: {key: sasl_username, limits: 1/1h}",
    )
    assert [blocking.first() for _ in range(3)] == ["dunno", FAIL, FAIL]
    assert not blocking.kept


def test_who_holds_alone_is_held_while_blocked_and_blocked_once() -> None:
    blocking = Blocking("held: {key: sasl_username, limits: 1/1h, action: hold, block: 2h}")
    assert [blocking.first() for _ in range(4)] == ["dunno", "hold", "hold", "hold"]
    assert len(blocking.kept) == len(blocking.told) == 1
    blocking.now += 3700  # the limit would let it pass
    assert blocking.first() == "hold"


def test_several_rules_may_block_for_one_mail() -> None:
    blocking = Blocking(
        "person: {key: sasl_username, limits: 1/1h, block: 1h}",
        "client: {key: client_address, limits: 1/1h, block: 2h}",
        "other: {key: sasl_username, limits: 1/1h, block: 3h}",
    )
    assert [blocking.first(), blocking.first()] == ["dunno", FAIL]
    assert [(counter, seconds) for counter, _, seconds, _ in blocking.told] == [
        (f"person|user:{ALICE}", 3600),
        ("client|client:192.0.2.1", 7200),
    ]  # what the first blocks the third does not shorten or lengthen


@pytest.mark.parametrize("limits", [(), (Limit(0, 1),), (Limit(1, 3600),)])
def test_an_override_in_force_is_never_changed(limits: tuple[Limit, ...]) -> None:
    blocking = Blocking(
        "volume: {key: sasl_username, count: messages, limits: 100/1h}",
        "person: {key: sasl_username, limits: 1/1h, block: 1h}",
    )
    by_hand = Override(f"volume/messages|user:{ALICE}", limits, int(NOON) + 60, "by hand")
    blocking.service.override([by_hand])
    blocking.first()
    blocking.first()
    assert by_hand.key not in blocking.counters


def test_without_room_nobody_is_blocked() -> None:
    blocking = Blocking("person: {key: sasl_username, limits: 1/1h, block: 1h}", room=0)
    assert [blocking.first() for _ in range(3)] == ["dunno", FAIL, FAIL]
    assert not blocking.told


def test_what_is_on_its_way_to_the_database_stays_in_force() -> None:
    """Until the database is known to have it: from then on that says who is blocked."""
    blocking = Blocking("person: {key: sasl_username, limits: 1/1h, block: 1h}")
    for user in (ALICE, "bob@example.org"):
        blocking.first(sasl_username=user)
        assert blocking.first(sasl_username=user) == FAIL
    (alice,), (bob,) = blocking.kept
    blocking.service.override([], 0)  # as it was read before either was written
    assert {blocking.first(sasl_username=user) for user in (ALICE, "bob@example.org")} == {BLOCK}
    blocking.service.override([alice], 1)  # the first is there
    assert {blocking.first(sasl_username=user) for user in (ALICE, "bob@example.org")} == {BLOCK}
    blocking.service.override([], 1)  # an administrator has freed her
    assert blocking.first() == FAIL
    assert blocking.first(sasl_username="bob@example.org") == BLOCK
    allowed = Override(bob.key, (Limit(1, 3600),), int(NOON) + 60)
    blocking.service.override([allowed], 1)  # and has decided about him before it was brought
    assert blocking.first(sasl_username="bob@example.org") == FAIL
    blocking.service.override([], 1)
    assert blocking.first(sasl_username="bob@example.org") == FAIL
