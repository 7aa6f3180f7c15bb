"""What a log tells of one mail in several lines is one mail of the past."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from policyd_rate_limit.maillog.mail import Decided, Mail, Origin
from policyd_rate_limit.rehearsal.decided import DecidedMails
from policyd_rate_limit.rehearsal.figures import Figures
from policyd_rate_limit.rehearsal.gathering import MOST_WAITING, WAIT_SECONDS, Gathering
from policyd_rate_limit.rehearsal.past import JOIN_SECONDS
from policyd_rate_limit.rehearsal.replies import Replies
from policyd_rate_limit.rehearsal.users import MOST_KNOWN, Users
from support.rehearsed import NOON, decided, mail, refusal, settings_of

Told = tuple[float, tuple[str, ...], int, int]
"""When it was, in seconds after noon, to whom, how many recipients it had, and how many were refused."""


def gathered(*items: Mail | Decided, figures: Figures | None = None) -> list[Told]:
    replies = Replies([settings_of("limits: 10/1h")])
    counted = Figures() if figures is None else figures
    users = Users()
    known = DecidedMails({"default": "recipients", "volume": "bytes"}, users, counted)
    found = known.told(Gathering(replies, users, counted).gather(items))
    return [(round(one.time - NOON, 3), one.recipients, one.recipient_count, one.refused) for one in found]


def times(found: Iterable[Told]) -> list[float]:
    return [time for time, *_ in found]


def test_a_mail_that_was_accepted_is_one_by_itself() -> None:
    assert gathered(mail(1, recipient_count=3), mail(1, recipients=("a@x", "b@x"), recipient_count=2)) == [
        (1, (), 3, 0),
        (1, ("a@x", "b@x"), 2, 0),
    ]


def test_what_nobody_is_asked_about_is_counted_and_left_out() -> None:
    figures = Figures()
    others = [mail(1, origin=origin) for origin in (Origin.LOCAL, Origin.INTERNAL, Origin.REINJECTED)]
    assert gathered(*others, refusal(2, reply="<x@y>: Relay access denied"), figures=figures) == []
    assert (figures.nobody_asks, figures.refused_otherwise) == (3, 1)


def test_a_mail_that_is_refused_for_its_content_was_asked_about_before() -> None:
    """The daemon has counted it: END-OF-MESSAGE comes before a milter sees the end, as RCPT and DATA do."""
    figures = Figures()
    content = {"stage": "END-OF-MESSAGE", "reply": "5.7.1 Spam message rejected", "queue_id": "4A"}
    refused_one = refusal(1, recipients=("a@x",), queue_id="4A")
    assert gathered(refused_one, refusal(2, recipients=("b@x",), **content), figures=figures) == [
        (2, ("b@x", "a@x"), 2, 1)
    ]
    assert (figures.refused_for_content, figures.refused_otherwise) == (1, 0)
    without_id = refusal(1, stage="END-OF-MESSAGE", reply="too large", queue_id="")
    assert gathered(without_id, figures=figures) == [], "it may never have been taken"
    assert figures.refused_otherwise == 1


def test_a_refusal_where_nothing_counts_is_counted_and_left_out() -> None:
    figures = Figures()
    assert gathered(refusal(1, stage="MAIL"), figures=figures) == []
    assert figures.refused_elsewhere == 1


def test_recipients_who_are_refused_one_after_the_other_are_of_one_mail() -> None:
    assert gathered(*(refusal(1 + at / 10, recipients=(f"{at}@x",)) for at in range(3))) == [
        (1.2, ("0@x", "1@x", "2@x"), 3, 3)
    ]


def test_who_is_named_twice_is_so_in_two_mails() -> None:
    assert gathered(refusal(1), refusal(1.1), refusal(1.2)) == [
        (1, ("bob@example.net",), 1, 1),
        (1.1, ("bob@example.net",), 1, 1),
        (1.2, ("bob@example.net",), 1, 1),
    ]


def test_who_is_refused_later_is_so_in_another_mail() -> None:
    found = gathered(refusal(1, recipients=("a@x",)), refusal(1.1 + JOIN_SECONDS, recipients=("b@x",)))
    assert [one[1] for one in found] == [("a@x",), ("b@x",)]


def test_other_users_clients_sessions_and_hosts_have_mails_of_their_own() -> None:
    others = [
        refusal(1, recipients=("a@x",)),
        refusal(1, "carol", recipients=("b@x",)),
        refusal(1, recipients=("c@x",), client_address="192.0.2.2"),
        refusal(1, recipients=("d@x",), host="other"),
        refusal(1, recipients=("e@x",), session=1),
        refusal(1, recipients=("f@x",), session=2),
    ]
    assert len(gathered(*others)) == 6


def test_the_first_recipients_who_are_refused_belong_to_the_mail_that_follows() -> None:
    first, then = refusal(1, recipients=("a@x",)), mail(1.5, recipients=("b@x", "c@x"), recipient_count=2)
    assert gathered(first, then) == [(1.5, ("a@x", "b@x", "c@x"), 3, 1)]


def test_a_mail_to_whom_was_refused_just_now_is_another_one() -> None:
    assert gathered(refusal(1), mail(1.5, recipients=("bob@example.net",))) == [
        (1, ("bob@example.net",), 1, 1),
        (1.5, ("bob@example.net",), 1, 0),
    ]


def test_who_is_refused_when_there_is_a_queue_id_belongs_to_its_mail_however_long_that_takes() -> None:
    late = WAIT_SECONDS - 1
    found = gathered(
        refusal(1, queue_id="Q1", recipients=("b@x",)),
        mail(2, "carol"),
        mail(1 + late, queue_id="Q1", recipients=("a@x",)),
    )
    assert found == [(2, (), 1, 0), (1 + late, ("a@x", "b@x"), 2, 1)]


def test_a_queue_id_of_another_host_is_another_mail() -> None:
    found = gathered(refusal(1, queue_id="Q1", host="one"), mail(2, queue_id="Q1", host="two"))
    assert [one[2:] for one in found] == [(1, 1), (1, 0)]


def test_a_mail_that_never_comes_to_its_end_is_known_by_who_was_refused() -> None:
    found = gathered(refusal(1, queue_id="Q1"), mail(2 + WAIT_SECONDS, "carol"))
    assert found == [(1, ("bob@example.net",), 1, 1), (2 + WAIT_SECONDS, (), 1, 0)]
    assert gathered(refusal(1, queue_id="Q1")) == [(1, ("bob@example.net",), 1, 1)]


def test_a_refusal_at_data_ends_its_mail() -> None:
    found = gathered(
        refusal(1, recipients=("a@x",)),
        refusal(1.5, queue_id="Q1", recipients=("b@x",)),
        refusal(1.7, queue_id="Q1", stage="DATA", recipients=()),
        mail(1.8, "carol"),
    )
    assert found == [(1.7, ("a@x", "b@x"), 4, 4), (1.8, (), 1, 0)]


def test_of_several_recipients_who_are_refused_at_data_two_are_known_to_be_there_and_of_one_all() -> None:
    found = gathered(refusal(1, queue_id="Q1", stage="DATA", recipients=()), refusal(2, queue_id="Q2", stage="DATA"))
    assert found == [(1, (), 2, 2), (2, ("bob@example.net",), 1, 1)]


def test_what_comes_meanwhile_keeps_its_place() -> None:
    found = gathered(refusal(1), mail(1.5, "carol"), mail(1.9, "dave"), mail(9, "erin"))
    assert times(found) == [1, 1.5, 1.9, 9]


def test_what_waits_is_bounded() -> None:
    many = [refusal(1 + at / 1e6, f"user{at}") for at in range(MOST_WAITING + 5)]
    gathering = Gathering(Replies([settings_of("limits: 10/1h")]), Users(), Figures())
    came = 0

    def told() -> Iterable[Mail]:
        nonlocal came
        for came, one in enumerate(many, 1):  # noqa: B007 - it is looked at meanwhile
            yield one

    next(gathering.gather(told()))
    assert came == MOST_WAITING + 2


# What the daemon itself has logged, with debug on


def test_decisions_tell_of_recipients_and_postfix_of_the_size() -> None:
    figures = Figures()
    found = gathered(
        decided(1, "admitted", "1.0", recipient="a@x"),
        decided(1.1, "refused", "1.0", recipient="b@x", queue_id="Q1"),
        refusal(1.1, queue_id="Q1", recipients=("b@x",)),
        mail(1.5, queue_id="Q1", recipient_count=1),
        figures=figures,
    )
    assert found == [(1.1, ("a@x", "b@x"), 2, 1)]  # when it was asked
    assert figures.known_from_decisions == 1


def test_one_that_was_asked_about_before_it_had_a_queue_id_is_found_by_who_sent_it() -> None:
    found = gathered(decided(1, "admitted", "1.0", recipient="a@x"), mail(1.5), mail(1.6, queue_id="Q9"))
    assert found == [(1, ("a@x",), 1, 0)]


@pytest.mark.parametrize("stage", ["RCPT", "DATA"])
def test_the_log_of_postfix_may_have_whole_seconds_alone_and_come_first(stage: str) -> None:
    """Its lines of a second come before all decisions of that second."""
    found = gathered(
        mail(1, queue_id="Q1"),
        mail(1, queue_id="Q3"),
        refusal(1, queue_id="" if stage == "RCPT" else "Q2", stage=stage),
        *(
            decided(
                *(1 + number / 10, verdict, f"{number}.0", stage),
                recipient="a@x",
                queue_id="" if stage == "RCPT" else f"Q{number}",
            )
            for number, verdict in enumerate(("admitted", "refused", "admitted"), 1)
        ),
    )
    assert [(time, refused) for time, _, _, refused in found] == [(1.1, 0), (1.2, 1), (1.3, 0)]


@pytest.mark.parametrize("queue_id", ["", "Q1"])  # with smtpd_proxy_filter the daemon is told of none
def test_one_that_is_refused_for_its_content_takes_no_other_mail_for_itself(queue_id: str) -> None:
    found = gathered(
        decided(1, "admitted", "1.0", "DATA", recipient="a@x", queue_id=queue_id),
        refusal(1.1, queue_id="Q1", stage="END-OF-MESSAGE", reply="5.7.1 Spam message rejected", recipients=("a@x",)),
        decided(8, "admitted", "2.0", "DATA", recipient="b@x", queue_id=queue_id and "Q2"),
        mail(8.1, queue_id="Q2", recipients=("b@x",)),
        decided(16, "admitted", "3.0", "DATA", recipient="c@x", queue_id=queue_id and "Q3"),
        mail(16.1, queue_id="Q3", recipients=("c@x",)),
    )
    assert times(found) == [1, 8, 16]


def test_a_mail_whose_content_takes_long_has_its_turn_when_it_is_there() -> None:
    found = gathered(
        decided(1, "admitted", "1.0", "DATA", queue_id="Q1"),
        mail(30, "carol", host="elsewhere"),
        mail(60, queue_id="Q1"),
    )
    assert times(found) == [30, 60]


def test_mails_of_two_hosts_with_one_queue_id_are_two() -> None:
    assert len(gathered(mail(1, host="one", queue_id="Q1"), mail(1, host="two", queue_id="Q1"))) == 2


def test_a_mail_that_is_refused_at_data_has_as_many_recipients_as_were_counted() -> None:
    found = gathered(
        decided(1, "admitted", "0.0", "DATA", cost=1, queue_id="Q0"),
        mail(1.1, queue_id="Q0"),
        decided(2, "refused", "1.0", "DATA", cost=7, queue_id="Q1"),
        refusal(2, queue_id="Q1", stage="DATA", recipients=()),
        mail(2.5, "carol", host="elsewhere"),
    )
    assert found == [(1, (), 1, 0), (2, (), 7, 7), (2.5, (), 1, 0)]


def test_of_several_who_are_refused_at_data_where_no_rule_counts_recipients_two_are_known_to_be_there() -> None:
    found = gathered(
        decided(1, "admitted", "0.0", "DATA", cost=1, queue_id="Q0"),
        decided(2, "refused", "1.0", "DATA", rule="messages", cost=1),
        decided(3, "refused", "2.0", "DATA", rule="messages", cost=1, recipient="a@x"),
    )
    assert [(count, refused) for _, _, count, refused in found] == [(1, 0), (2, 2), (1, 1)]


def test_the_size_of_what_was_refused_is_what_a_rule_has_counted() -> None:
    replies = Replies([settings_of("limits: 10/1h")])
    gathering, known = Gathering(replies, Users(), Figures()), DecidedMails({"volume": "bytes"}, Users(), Figures())
    items = [
        decided(1, "not-limited", "0.0", queue_id="Q0"),
        decided(2, "refused", "1.0", "END-OF-MESSAGE", rule="volume", cost=12_345, queue_id="Q1"),
    ]
    assert [one.mail.size for one in known.told(gathering.gather(items))] == [0, 12_345]


def test_of_a_host_that_asks_a_mail_about_which_nobody_was_asked_is_left_out() -> None:
    figures = Figures()
    found = gathered(
        decided(1, "admitted", "1.0", "DATA", queue_id="Q1"),
        mail(1.1, queue_id="Q1"),
        mail(2, queue_id="Q2"),
        mail(3 + WAIT_SECONDS, queue_id="Q3"),  # debug is off by then
        figures=figures,
    )
    assert times(found) == [1, 3 + WAIT_SECONDS]
    assert figures.not_asked == 1


def test_without_debug_decisions_are_no_mails() -> None:
    found = gathered(decided(1, "refused", "1.0", recipient="a@x"), refusal(1, recipients=("a@x",)))
    assert found == [(1, ("a@x",), 1, 1)]


def test_several_lines_about_one_request_are_one_recipient() -> None:
    found = gathered(
        decided(1, "admitted", "1.0", recipient="a@x"),
        decided(1, "would-refuse", "1.0", recipient="a@x", rule="shadow"),
        decided(1, "warned", "1.0", recipient="a@x"),
        decided(1, "blocked", "2.0", recipient="a@x"),
    )
    assert found == [(1, ("a@x",), 1, 0)]


def test_a_mail_all_of_whose_recipients_are_refused_is_over_soon() -> None:
    found = gathered(
        decided(0, "not-counted", "0.0", "DATA"),
        decided(1, "refused", "1.0", recipient="a@x"),
        decided(1.5, "refused", "1.0", recipient="b@x"),
        mail(2 + JOIN_SECONDS, "carol"),
    )
    assert found == [(0, (), 1, 0), (1.5, ("a@x", "b@x"), 2, 2), (2 + JOIN_SECONDS, (), 1, 0)]


# Whose it was that was refused


def who(*items: Mail | Decided) -> list[str]:
    """The users of those who were refused."""
    replies, users = Replies([settings_of("limits: 10/1h")]), Users()
    told = DecidedMails({}, users, Figures()).told(Gathering(replies, users, Figures()).gather(items))
    return [one.mail.sasl_username for one in told if one.refused]


def without_user(seconds: float, **others: Any) -> Mail:
    return refusal(seconds, sasl_username="", **others)


def test_who_is_refused_is_the_user_who_sent_so_before() -> None:
    assert who(mail(1), without_user(9)) == ["alice@example.org"]
    assert who(without_user(9, session=1), mail(10, session=2)) == [""]


def test_in_the_same_session_it_is_the_same_user_whoever_has_sent_so_before() -> None:
    before = mail(1, "bob", sender="alice@example.org")
    assert who(before, mail(8, session=7, sender="other@example.org"), without_user(9, session=7)) == [
        "alice@example.org"
    ]


def test_whom_the_daemon_has_refused_is_known_from_it() -> None:
    assert who(decided(1, "refused", "1.0"), without_user(9)) == ["alice@example.org"]


def test_who_has_sent_so_without_logging_in_is_nobody() -> None:
    assert who(mail(1), mail(5, sasl_username=""), without_user(9)) == [""]


def test_the_mail_that_follows_says_whose_the_refusals_before_it_are() -> None:
    assert who(without_user(1, recipients=("a@x",)), mail(1.5, recipients=("b@x",))) == ["alice@example.org"]


def test_who_is_known_is_bounded() -> None:
    users = Users()
    for number in range(MOST_KNOWN + 1):
        users.note(mail(1, f"user{number}", session=number + 1))
    assert users.of(without_user(2, sender=f"user{MOST_KNOWN}")).name == f"user{MOST_KNOWN}"
    assert users.of(without_user(2, sender="user0", session=1)).name == ""
