"""Actions with variables."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.domain.charge import Usage
from policyd_rate_limit.domain.limits import LARGEST, Limit
from policyd_rate_limit.domain.rules.texts import (
    LONGEST_TEXT,
    LONGEST_VALUE,
    Text,
    WrongText,
    check_text,
    clock_time,
    in_words,
    one_line,
)
from support.asked import as_sent, asked

LIMIT = Limit(100, 3600)
NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC).timestamp()
DAY = 86_400


@pytest.fixture(autouse=True)
def in_berlin() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "CET-1CEST,M3.5.0,M10.5.0/3"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def filled(action: str, limit: Limit = LIMIT, usage: Usage | None = None, **values: str) -> str:
    check_text(action)
    return Text(action).fill(asked(**values), "person", "user:alice", limit, usage, NOW)


def test_variables_are_filled_in() -> None:
    action = "450 4.7.1 {rule}: {key}: {used} of {maximum} in {period} ({limit}), next in {free_in}, at {free_at}"
    usage = Usage("user:alice", LIMIT, 99, 600)
    expected = "450 4.7.1 person: user:alice: 99 of 100 in 1h (100/1h), next in 10m, at 13:10"
    assert filled(action, usage=usage) == expected


def test_attributes_are_variables() -> None:
    action = "REJECT {sender} {sender_domain} {helo_name} {recipient_count}."
    assert (
        filled(action, sender="A@Bücher.example", helo_name="x") == "REJECT A@Bücher.example xn--bcher-kva.example x 0."
    )


def test_what_nothing_is_known_of_is_a_question_mark() -> None:
    assert filled("450 {used} {free_in} {free_at}") == "450 ? ? ?"


def test_what_is_never_free_is_told() -> None:
    usage = Usage("user:alice", LIMIT, 99, None)
    assert filled("450 {used} {free_in} {free_at}", usage=usage) == "450 99 never never"


def test_a_limit_of_one_mail_has_no_period() -> None:
    assert filled("450 {limit}: {maximum} in a {period}", Limit(50, 0)) == "450 50/mail: 50 in a mail"


def test_what_a_text_needs_is_known_beforehand() -> None:
    assert not Text("DEFER").has_variables
    assert Text("DEFER {key}").has_variables
    assert not Text("DEFER {key} {sender}").asks_use
    assert Text("DEFER {key} {free_at}").asks_use
    assert Text("DEFER {key}").action == "DEFER {key}"
    assert filled("DEFER_IF_PERMIT as it is") == "DEFER_IF_PERMIT as it is"


def test_a_value_holds_no_variables() -> None:
    assert filled("450 {sender}{helo_name}", sender="{key}", helo_name="{rule}") == "450 {key}{rule}"


@given(st.text().map(as_sent) | st.text(st.characters(categories=["Cs", "Cc"])))
def test_a_value_is_one_line_of_utf_8(value: str) -> None:
    line = one_line(value)
    assert line.encode().decode() == line
    assert len(line.splitlines()) <= 1
    assert not any(ord(sign) < 32 or 127 <= ord(sign) < 160 for sign in line)
    assert len(line) <= LONGEST_VALUE + 1


def test_a_hostile_byte_is_a_question_mark() -> None:
    assert filled("450 <{sender}>", sender="a\udcff\x00\x1b\r\x85\u2028\u202eb") == "450 <a???????b>"


def test_a_long_value_is_cut() -> None:
    assert one_line("x" * LONGEST_VALUE) == "x" * LONGEST_VALUE
    assert one_line("x" * (LONGEST_VALUE + 1)) == "x" * LONGEST_VALUE + "…"


def test_a_long_text_is_cut_between_characters() -> None:
    text = filled("450 " + "{sender} " * 20, sender="€" * 300)
    assert len(text.encode()) in range(LONGEST_TEXT - 2, LONGEST_TEXT + 1)
    assert text.startswith("450 €€€")


def test_what_the_configuration_holds_is_made_utf_8_too() -> None:
    assert filled("450 \udcff {rule}") == "450 ? person"


@pytest.mark.parametrize(
    "action",
    [
        "450 {unknown}",
        "450 {}",
        "450 {Key}",
        "450 { key }",
        "450 { } braces",
        "450 {time}",
        "{key}",
        " {key} x",
        "DEFER{key}",
        "4{used}0 x",
        "FILTER smtp:{sender_domain}",
        "filter smtp:[{helo_name}]",
        "REDIRECT {sender}",
        "  BCC {sender}",
    ],
)
def test_a_variable_that_may_not_be_there_is_told(action: str) -> None:
    with pytest.raises(WrongText) as caught:
        check_text(action)
    assert str(caught.value) == f"expected {caught.value.expected}, found {caught.value.value!r}"


@pytest.mark.parametrize("action", ["", "DUNNO", "FILTER smtp:[192.0.2.1]", "PREPEND X-Key: {key}", "450 }{"])
def test_what_is_right_is_not(action: str) -> None:
    check_text(action)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0s"),
        (45, "45s"),
        (120, "120s"),
        (121, "3m"),
        (3540, "59m"),
        (3541, "1h"),
        (3601, "1h1m"),
        (11_100, "3h5m"),
        (DAY - 30, "1d"),
        (DAY, "1d"),
        (DAY + 1, "1d1h"),
        (2 * DAY - 1, "2d"),
    ],
)
def test_a_time_to_wait_is_rounded_up(seconds: int, words: str) -> None:
    assert in_words(seconds) == words


@given(st.integers(0, 100 * DAY))
def test_words_are_never_less_than_the_time(seconds: int) -> None:
    units = {"s": 1, "m": 60, "h": 3600, "d": DAY}
    total, number = 0, ""
    for sign in in_words(seconds):
        if sign in units:
            total, number = total + int(number) * units[sign], ""
        else:
            number += sign
    assert seconds <= total < seconds + (1 if seconds <= 120 else 60 if seconds < DAY - 60 else 3600)


@pytest.mark.parametrize(
    ("now", "wait", "shown"),
    [
        (datetime(2026, 3, 4, 12, 0, tzinfo=UTC), 0, "13:00"),
        (datetime(2026, 3, 4, 12, 0, tzinfo=UTC), 59, "13:01"),
        (datetime(2026, 3, 4, 22, 0, tzinfo=UTC), 3540, "23:59"),
        (datetime(2026, 3, 4, 22, 0, tzinfo=UTC), 3541, "2026-03-05 00:00"),
        (datetime(2026, 3, 4, 22, 0, tzinfo=UTC), 7200, "2026-03-05 01:00"),
        (datetime(2026, 3, 29, 0, 30, tzinfo=UTC), 3600, "03:30"),  # there is no 02:30
        (datetime(2026, 10, 25, 0, 30, tzinfo=UTC), 3600, "02:30"),  # which comes twice
    ],
)
def test_a_moment_is_told_by_the_clock(now: datetime, wait: int, shown: str) -> None:
    assert clock_time(now.timestamp() + wait, now.timestamp()) == shown


def test_a_moment_that_nobody_lives_to_see_is_told_all_the_same() -> None:
    assert clock_time(NOW + LARGEST, NOW)
