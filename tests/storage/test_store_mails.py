"""What every store knows of a mail, over one table of databases: its parts, its settling, its limits.

See :mod:`policyd_rate_limit.storage.contract`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from policyd_rate_limit.domain.charge import Charge, Demand, Exceeded, Verdict, refusal
from policyd_rate_limit.domain.limits import PER_MAIL, Limit, longest_of
from policyd_rate_limit.domain.mails import REMEMBERED_SECONDS
from storage.stores import HOUR, PATIENCE, START, Clock, Database, admitted, demand, new_memory, usage


def test_a_part_of_a_mail_is_charged_once_by_all_daemons(database: Database, clock: Clock) -> None:
    """Postfix asks again, and it may ask another daemon."""
    one, two = database.store(clock), database.store(clock)
    for store in (one, two, one):
        assert admitted(store, *(demand(mail="m", part=part) for part in "aabb")) == [True] * 4
        assert usage(store, ["user:a"]) == {"user:a": 2}
    one.close()
    late = database.store(clock)
    assert admitted(late, demand(mail="m", part="b")) == [True]
    assert usage(late, ["user:a"]) == usage(two, ["user:a"]) == {"user:a": 2}
    late.close()
    two.close()


def test_the_same_part_of_a_mail_is_charged_to_another_user(database: Database, clock: Clock) -> None:
    """SPEC: charged once is what the same id sends again. An instance that a second user names too is no free mail."""
    one, two = database.store(clock), database.store(clock)
    for key in ("user:a", "user:b"):
        for store in (one, two, one):
            assert admitted(store, demand(key, 2, mail="m", part="r")) == [True]
    assert usage(one, ["user:a", "user:b"]) == {"user:a": 1, "user:b": 1}
    assert admitted(two, demand("user:b", 2, mail="m", part="s"), demand("user:b", 2, mail="m", part="t")) == [
        True,
        False,
    ]
    assert admitted(two, demand("user:a", 2, mail="m", settles=True, cost=2)) == [True]
    assert usage(one, ["user:a", "user:b"]) == {"user:a": 2, "user:b": 2}
    assert admitted(one, demand("user:c", 1, mail="m", settles=True, cost=2)) == [False]
    one.close()
    two.close()


@pytest.mark.parametrize("recipients", [1, 3, 5])
def test_a_mail_is_settled_by_another_daemon(database: Database, clock: Clock, recipients: int) -> None:
    """Up or down from what others were asked about, even from what was charged seconds before, and only once."""
    one, two = database.store(clock), database.store(clock)
    assert admitted(one, demand(mail="m", part="a"), demand(mail="m", part="b")) == [True, True]
    clock.now += 5
    assert admitted(two, demand(mail="m", part="c")) == [True]
    settled = demand(mail="m", settles=True, cost=recipients)
    for store in (two, one, two):
        assert admitted(store, settled) == [True]
        assert usage(store, ["user:a"]) == {"user:a": recipients}
    one.close()
    two.close()
    clock.now = START + HOUR + 1
    three = database.store(clock)
    assert usage(three, ["user:a"])["user:a"] <= recipients
    three.close()


TWO_OF_A_MAIL = Limit(2, PER_MAIL)


def of_mail(mail: str, part: str, *more: Limit, cost: int = 1) -> Demand:
    """A recipient of ``mail``, or with an empty ``part`` all of them, within two and ``more``."""
    return Demand((Charge("user:a", cost, (TWO_OF_A_MAIL, *more), part, not part),), mail)


def test_a_limit_per_mail_bounds_each_mail_over_daemons(database: Database, clock: Clock) -> None:
    """The one recipient too many is refused, and later the whole mail; the next mail is another one."""
    store, other = database.store(clock), database.store(clock)
    five = Limit(5, HOUR)
    assert admitted(store, of_mail("m", "a", five)) == [True]
    assert admitted(other, of_mail("m", "b", five), of_mail("m", "c", five)) == [True, False]
    assert store.admit([of_mail("m", "c", five)], (), PATIENCE) == [refusal(TWO_OF_A_MAIL)]
    assert admitted(store, of_mail("m", "a", five), of_mail("m", "b", five)) == [True, True]
    for cost, is_admitted in ((3, False), (2, True), (1, True), (2, True)):
        assert admitted(other, of_mail("m", "", five, cost=cost)) == [is_admitted]
        clock.now += 1
    assert admitted(other, of_mail("n", "a", five), of_mail("n", "b", five), of_mail("n", "c", five)) == [
        True,
        True,
        False,
    ]
    # Whose recipients are too many for its window alone; and without an id, each is a mail of its own.
    assert store.admit([of_mail("o", "", five, cost=2)], (), PATIENCE) == [refusal(five)]
    assert admitted(store, of_mail("", "a", five), of_mail("", "", cost=3), of_mail("", "", cost=2)) == [
        True,
        False,
        True,
    ]
    assert usage(store, ["user:a"]) == {"user:a": 7}
    store.close()
    other.close()


def test_a_limit_per_mail_alone_needs_no_window(database: Database, clock: Clock) -> None:
    """It holds for as long as mails are remembered, also by daemons that start meanwhile."""
    longest = longest_of((TWO_OF_A_MAIL,))
    for part, is_admitted in (("a", True), ("b", True), ("c", False), ("a", True)):
        store = database.store(clock, longest=longest)
        assert admitted(store, of_mail("m", part)) == [is_admitted]
        store.close()
        clock.now += REMEMBERED_SECONDS // 3 - 2
    assert clock.now > START + REMEMBERED_SECONDS


def test_a_limit_per_mail_is_explained_by_what_its_mail_was_charged(database: Database, clock: Clock) -> None:
    """Of a mail that is too large already: never. With other limits, and without."""
    store = database.store(clock)
    hour = Limit(9, HOUR)

    def explained(*asked: Demand) -> list[list[tuple[Limit, int, int | None]]]:
        return [[usage[1:] for usage in usages] for usages in store.explain(asked)]

    assert admitted(store, of_mail("m", "a", hour), of_mail("n", "", hour, cost=2)) == [True, True]
    assert explained(of_mail("m", "b", hour), of_mail("n", "b"), of_mail("o", "", hour, cost=3)) == [
        [(TWO_OF_A_MAIL, 1, 0), (hour, 3, 0)],
        [(TWO_OF_A_MAIL, 2, None)],
        [(TWO_OF_A_MAIL, 0, None), (hour, 3, 0)],
    ]
    assert explained(of_mail("m", "", cost=2), of_mail("m", "", cost=3), of_mail("", "b")) == [
        [(TWO_OF_A_MAIL, 1, 0)],
        [(TWO_OF_A_MAIL, 1, None)],
        [(TWO_OF_A_MAIL, 0, 0)],
    ]
    store.close()


def test_pending_records_tell_what_their_mails_were_charged(database: Database, clock: Clock) -> None:
    """As they were decided while the database was away."""
    store = database.store(clock)
    assert admitted(store, of_mail("m", "a")) == [True]
    memory = new_memory(clock)
    memory.advance()
    (verdict,), record = memory.decide([of_mail("m", "b")])
    assert verdict.admitted
    assert record is not None
    for _ in range(2):
        (verdict,) = store.admit([of_mail("m", "c")], [record], PATIENCE)
        assert verdict == refusal(TWO_OF_A_MAIL)
    # Another daemon knows it from the database.
    store.close()
    store = database.store(clock)
    assert admitted(store, of_mail("m", "c"), of_mail("m", "b"), of_mail("n", "c")) == [False, True, True]
    store.close()


def test_a_mail_that_another_charge_refuses_is_charged_nothing(database: Database, clock: Clock) -> None:
    """Per mail or not, whichever comes first; what refuses nobody is not counted beyond its limit."""
    store = database.store(clock)
    (of_user,) = of_mail("m", "a").charges
    watched = Charge("watch|user:a", 1, (Limit(1, PER_MAIL), Limit(9, HOUR)), "a", refuses=False)
    of_domain = Charge("domain:d", 1, (Limit(1, HOUR),), "a")
    parts = [
        Demand(tuple(replace(charge, part=part) for charge in (of_user, watched, of_domain)), "m") for part in "ab"
    ]
    assert admitted(store, *parts) == [True, False]
    wider = [replace(one, charges=one.charges[:2]) for one in parts]
    (verdict,) = store.admit(wider[1:], (), PATIENCE)
    assert verdict == Verdict((1, 0), (Exceeded(1, Limit(1, PER_MAIL)),))
    assert usage(store, ["user:a", "watch|user:a", "domain:d"]) == {"user:a": 2, "watch|user:a": 1, "domain:d": 1}
    store.close()
