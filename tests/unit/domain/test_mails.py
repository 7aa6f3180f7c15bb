"""What is remembered of the mails of the last moments."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.domain.mails import MOST_ENTRIES_OF_A_MAIL, Mails


def entry(mail: str, amount: int = 1, part: str = "a", date: int = 0, counter: str = "k") -> Entry:
    return Entry(counter, amount, date, mail, part)


def test_nothing_is_known_of_a_mail_that_never_came() -> None:
    mails = Mails()
    assert not mails.entries("m")
    mails.add(entry("m", -1))
    assert len(mails) == 0


def test_charges_come_back_in_order() -> None:
    mails = Mails()
    charges = [entry("m", number, f"part{number}") for number in range(1, 4)]
    for charge in charges:
        mails.add(charge)
    assert list(mails.entries("m")) == charges
    assert len(mails) == 1


def test_what_is_given_back_is_the_newest_of_its_counter() -> None:
    mails = Mails()
    for charge in (entry("m", 2, "a"), entry("m", 5, "a", counter="other"), entry("m", 2, "b"), entry("m", -3, "b")):
        mails.add(charge)
    assert [(e.counter, e.amount) for e in mails.entries("m")] == [("k", 1), ("other", 5), ("k", 0)]
    # The part stays charged: it is not charged again when it comes again.
    assert [e.part for e in mails.entries("m")] == ["a", "a", "b"]


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 3)), min_size=20, max_size=80))
def test_the_last_mails_are_remembered_whole_in_bounded_memory(charges: list[tuple[int, int]]) -> None:
    """A mail is known as long as fewer entries than a generation holds have come since its last one."""
    generation, most = 8, 3
    mails, known = Mails(generation, most), dict[str, list[Entry]]()
    last_seen: dict[str, int] = {}
    for number, (name, part) in enumerate(charges):
        charge = entry(f"m{name}", 1, f"p{part}")
        mails.add(charge)
        last_seen[charge.mail] = number
        known.setdefault(charge.mail, []).append(charge)
        remembered = [len(mails.entries(mail)) for mail in known]
        assert sum(remembered) <= 2 * generation + most
        assert max(remembered) <= most
        for mail, all_of_it in known.items():
            entries = list(mails.entries(mail))
            if not entries:
                # Each addition brings at most what was known of its mail, and itself.
                assert (number - last_seen[mail]) * (most + 1) >= generation
                all_of_it.clear()
            else:
                joined = sum(one.amount for one in all_of_it[most - 1 :])
                assert entries == [
                    *all_of_it[: most - 1],
                    *(replace(one, amount=joined) for one in all_of_it[most - 1 : most]),
                ]


def test_as_many_mails_of_one_recipient_are_remembered_as_two_generations_hold() -> None:
    mails = Mails(per_generation=10)
    for number in range(100):
        mails.add(entry(f"m{number}"))
        assert len(mails) <= 20
        assert all(mails.entries(f"m{before}") for before in range(max(0, number - 9), number + 1))


def test_a_mail_of_many_recipients() -> None:
    mails = Mails()
    for number in range(MOST_ENTRIES_OF_A_MAIL + 10):
        mails.add(entry("m", 1, f"part{number}"))
    assert len(mails.entries("m")) == MOST_ENTRIES_OF_A_MAIL


def test_what_a_mail_was_charged_is_known_where_its_parts_are_not() -> None:
    """On each counter by itself; but on one that comes only then."""
    mails = Mails(most_of_a_mail=4)
    for number in range(10):
        for counter in ("k", "bytes|k"):
            mails.add(entry("m", 1 + number, f"part{number}", date=number, counter=counter))
    mails.add(entry("m", 7, counter="late"))
    entries = mails.entries("m")
    assert [(e.counter, e.amount, e.part, e.date) for e in entries] == [
        ("k", 1, "part0", 0),
        ("bytes|k", 1, "part0", 0),
        ("k", sum(range(2, 11)), "part1", 1),
        ("bytes|k", sum(range(2, 11)), "part1", 1),
    ]
    mails.add(entry("m", -50, date=1))
    assert [e.amount for e in mails.entries("m") if e.counter == "k"] == [1, 4]


def test_no_date_is_later_than_a_step_back() -> None:
    mails = Mails()
    for date in (5, 15, 10):
        mails.add(entry("m", 1, f"at{date}", date))
    mails.redate(10)
    assert [e.date for e in mails.entries("m")] == [5, 10, 10]
