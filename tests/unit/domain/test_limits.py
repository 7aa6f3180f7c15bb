"""How limits are read."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd_rate_limit.domain.limits import (
    BLOCKED,
    LARGEST,
    LONGEST_TEXT,
    MOST_LIMITS,
    PER_MAIL,
    SUFFIXES,
    Limit,
    LimitsError,
    longest_of,
    parse_limits,
    parse_limits_text,
    parse_period,
    shown_limit,
    spell_limit,
    spell_period,
    tolerated_limits,
    windows_of,
)
from policyd_rate_limit.domain.mails import REMEMBERED_SECONDS

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

limits = st.lists(
    st.tuples(st.integers(0, LARGEST), st.integers(1, LARGEST)),
    unique_by=lambda pair: pair[1],
    max_size=MOST_LIMITS,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([], ()),
        ((), ()),
        ([[10, 60], [150, 86400]], ((10, 60), (150, 86400))),
        (((150, 86400), (10, 60)), ((150, 86400), (10, 60))),
        ("10/1m", ((10, 60),)),
        (" 10 / 1 m ", ((10, 60),)),
        ("10/m", ((10, 60),)),
        ("10/60", ((10, 60),)),
        ([150, "1d"], ((150, 86400),)),
        ([10, 60], ((10, 60),)),
        (["10/1m", [150, "1d"], ("1000", "2w")], ((10, 60), (150, 86400), (1000, 1209600))),
        ([["10", "60"]], ((10, 60),)),
        ([[0, 60]], ((0, 60),)),
        ([[LARGEST, LARGEST]], ((LARGEST, LARGEST),)),
        ([[1, seconds] for seconds in range(1, 33)], tuple((1, seconds) for seconds in range(1, 33))),
    ],
)
def test_limits_are_read(value: object, expected: tuple[tuple[int, int], ...]) -> None:
    assert parse_limits(value) == expected
    assert all(type(limit) is Limit for limit in parse_limits(value))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        10,
        10.5,
        {10: 60},
        "",
        "10",
        "10/",
        "10/1y",
        "10/1M",
        "10/1m/2",
        "10/1m, 150/1d",
        "ten/1m",
        "-1/1m",
        "१०/1m",  # digits, but not ours
        "10/0s",
        [10],
        [None],
        [[]],
        [[10]],
        [[10, 60, 1]],
        [[10, 0]],
        [[10, -60]],
        [[-10, 60]],
        [[True, 60]],
        [[10, True]],
        [[10.0, 60]],
        [[10, 60.0]],
        [[10, float("nan")]],
        [[10, float("inf")]],
        [[10, None]],
        [[10, [60]]],
        [[LARGEST + 1, 60]],
        [[10, LARGEST + 1]],
        [[10, "9007199254740992s"]],
        [[10, "9007199254740991w"]],
        [[10, "9" * 5000]],
        [[10, 60], [10, 60]],
        [[10, 60], [20, "1m"]],
        [[n, n] for n in range(1, MOST_LIMITS + 2)],
    ],
)
def test_what_are_no_limits_is_told(value: object) -> None:
    with pytest.raises(LimitsError, match=r"^expected .+, found ."):
        parse_limits(value)


def test_old_numbers_are_tolerated_in_as_many_limits_as_there_may_be() -> None:
    value, odd = tolerated_limits([[10.5, seconds] for seconds in range(1, 33)])
    assert parse_limits(value) == tuple((10, seconds) for seconds in range(1, 33))
    assert len(odd) == 32


def test_the_place_of_a_wrong_pair_is_told() -> None:
    with pytest.raises(LimitsError) as caught:
        parse_limits([[10, 60], [1, 2], [3]])
    assert caught.value.place == (2,)
    assert caught.value.value == [3]
    with pytest.raises(LimitsError) as caught:
        parse_limits("nonsense")
    assert caught.value.place == ()


def test_a_number_that_python_does_not_write_is_refused_all_the_same() -> None:
    with pytest.raises(LimitsError, match="found something too large to show"):
        parse_limits([10**5000, 60])


def test_a_message_is_short_whatever_is_wrong() -> None:
    with pytest.raises(LimitsError) as caught:
        parse_limits(["x" * 100_000])
    assert len(str(caught.value)) < 300


@settings(deadline=None)
@given(limits)
def test_limits_are_what_they_were(pairs: list[tuple[int, int]]) -> None:
    expected = tuple(Limit(*pair) for pair in pairs)
    assert parse_limits(pairs) == expected
    assert parse_limits(parse_limits(pairs)) == expected
    assert parse_limits([f"{mails}/{seconds}s" for mails, seconds in pairs]) == expected
    if len(repr(pairs)) <= LONGEST_TEXT:
        assert parse_limits_text(repr(pairs)) == expected
        assert parse_limits_text(str([list(pair) for pair in pairs])) == expected


@settings(deadline=None)
@given(st.integers(1, 1_000_000), st.sampled_from(sorted(UNITS)))
def test_units_are_as_long_as_they_are(count: int, unit: str) -> None:
    assert parse_period(f"{count}{unit}") == count * UNITS[unit]


@pytest.mark.parametrize("text", ["[[5, 60]]", "[(5, 60)]", "((5, 60),)", "[5, 60]", "5/1m", " [['5', '1m']]\n"])
def test_limits_of_a_database_are_text(text: str) -> None:
    assert parse_limits_text(text) == (Limit(5, 60),)


@pytest.mark.parametrize(
    ("value", "read", "odd"),
    [
        ([[10, 60], ["150", "1d"]], ((10, 60), (150, 86400)), 0),
        ([10.0, 3600.0], ((10, 3600),), 0),
        ([[10.0, 3600.0]], ((10, 3600),), 0),
        ([["150", "3600"], ["10", 60]], ((150, 3600), (10, 60)), 0),
        (((10, 60.5), (1.5, 3600)), ((10, 61), (1, 3600)), 2),
        ([[10, 0], [5, -1.5], [20, 60]], ((20, 60),), 2),
        ([[-1, 60]], ((0, 60),), 1),
        ([[20, 60], [7, 61], [10, 60], [30, 60]], ((7, 61), (10, 60)), 2),
        ([[True, 60]], ((1, 60),), 1),
        ([[10**20, 10**20]], ((LARGEST, LARGEST),), 1),
        ([[math.inf, 60]], ((LARGEST, 60),), 1),
        ([[10, -math.inf], [5, 60]], ((5, 60),), 1),
        (["10/1m", [5, 3600.0]], ((10, 60), (5, 3600)), 0),
        ("10/1m", ((10, 60),), 0),
    ],
)
def test_what_old_versions_limited_by(value: object, read: tuple[Limit, ...], odd: int) -> None:
    found, oddities = tolerated_limits(value)
    assert parse_limits(found) == read
    assert len(oddities) == odd
    assert parse_limits_text(repr(value).replace("inf", "1e999").strip("'"), tolerant=True) == read


@pytest.mark.parametrize("text", ["[[10.5, 60]]", "[[10, 0], [5, 60]]", "[[10, 60], [5, 60]]"])
def test_what_old_versions_took_is_refused_in_what_is_written_today(text: str) -> None:
    """An administrator who writes it is asked what is meant; a table that has held it for years is read."""
    with pytest.raises(LimitsError):
        parse_limits_text(text)
    assert parse_limits_text(text, tolerant=True)


@pytest.mark.parametrize("value", [[[5, 0]], [[5, -1], [7, -math.inf]]])
def test_limits_of_which_none_applies_are_no_exemption(value: object) -> None:
    found, oddities = tolerated_limits(value)
    assert parse_limits(found) == ()
    assert oddities
    with pytest.raises(LimitsError, match="a limit that can apply"):
        parse_limits_text(repr(value).replace("inf", "1e999"), tolerant=True)


@pytest.mark.parametrize("value", [None, 5, [[1, 2, 3]], [[math.nan, 60]], [["x", 1]], [[1, 2]] * (MOST_LIMITS + 1)])
def test_what_no_version_could_count_with_stays(value: object) -> None:
    found, oddities = tolerated_limits(value)
    assert oddities == ()
    with pytest.raises(LimitsError):
        parse_limits(found)


@given(
    st.lists(st.tuples(st.integers(-3, 20) | st.floats(-3, 20), st.integers(-3, 20) | st.floats(-3, 20)), max_size=9)
)
def test_what_is_tolerated_is_never_looser(pairs: list[tuple[float, float]]) -> None:
    read = parse_limits(tolerated_limits(pairs)[0])
    for maximum, seconds in pairs:
        if seconds > 0:
            assert any(limit.maximum <= max(0, maximum) and limit.seconds >= seconds for limit in read)


def test_no_limits_in_a_database() -> None:
    assert parse_limits_text("[]") == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[",
        "[[5, 60]",
        "[[5, 60], *x]",
        "[__import__('os').abort()]",
        "[x for x in [5, 60]]",
        "[9**9**9]",
        "[" * 2000 + "]" * 2000,
        "[" + "-" * 4000 + "1]",
        "[[5, " + "6" * 4090 + "]]",
        "[[5, 60]]" + " " * LONGEST_TEXT + "x",
        "[{[]}]",
        "['\0']",
    ],
)
def test_other_text_of_a_database_is_refused(text: str) -> None:
    with pytest.raises(LimitsError, match=r"^expected .+, found ."):
        parse_limits_text(text)


def test_text_of_a_database_that_is_too_long_is_refused_for_that() -> None:
    """Whatever it would mean."""
    longest = "[[5, 60]" + " " * (LONGEST_TEXT - len("[[5, 60]]")) + "]"
    assert parse_limits_text(f"  {longest}\n") == (Limit(5, 60),)
    with pytest.raises(LimitsError, match=f"at most {LONGEST_TEXT} characters"):
        parse_limits_text(longest.replace(" ]", "  ]"))


@settings(deadline=None)
@given(st.text(max_size=40))
def test_text_gives_limits_or_an_error_that_says_so(text: str) -> None:
    for read in (parse_limits, parse_limits_text):
        try:
            found = read(text)
        except LimitsError:
            continue
        assert all(limit.maximum >= 0 and limit.seconds >= 1 for limit in found)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "1s"), (59, "59s"), (60, "1m"), (90, "90s"), (5400, "90m"), (86400, "1d"), (604800, "1w"), (86400 * 8, "8d")],
)
def test_periods_are_written_in_their_largest_unit(seconds: int, text: str) -> None:
    assert spell_period(seconds) == text


@settings(deadline=None)
@given(limits)
def test_limits_are_read_as_they_are_written(pairs: list[tuple[int, int]]) -> None:
    for pair in pairs:
        assert parse_limits(spell_limit(Limit(*pair))) == (pair,)


def test_the_longest_window() -> None:
    assert longest_of((Limit(150, 86400), Limit(10, 60))) == 86400
    assert longest_of(()) == 0


def test_a_limit_per_mail_looks_at_what_is_remembered_of_mails() -> None:
    """It has no window, and needs what its mail was charged."""
    per_mail = Limit(50, PER_MAIL)
    assert longest_of((per_mail,)) == longest_of((per_mail, Limit(10, 60))) == REMEMBERED_SECONDS
    assert longest_of((per_mail, Limit(10, 86400))) == 86400
    assert windows_of((per_mail, Limit(10, 60))) == (Limit(10, 60),)
    assert windows_of((per_mail,)) == windows_of(()) == ()
    assert per_mail.is_per_mail
    assert not Limit(50, 1).is_per_mail


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("50/mail", ((50, PER_MAIL),)),
        (" 50 / mail ", ((50, PER_MAIL),)),
        ([50, "mail"], ((50, PER_MAIL),)),
        ([[50, "mail"]], ((50, PER_MAIL),)),
        ([["0", "mail"]], ((0, PER_MAIL),)),
        (["50/mail", "100/1h"], ((50, PER_MAIL), (100, 3600))),
        (["9/1m", "100/1h", "50/mail"], ((50, PER_MAIL), (9, 60), (100, 3600))),
        (["100/1h"], ((100, 3600),)),
        ([], ()),
    ],
)
def test_a_limit_per_mail_comes_first(value: object, expected: tuple[tuple[int, int], ...]) -> None:
    assert parse_limits(value, per_mail=True) == expected
    assert all(type(limit) is Limit for limit in parse_limits(value, per_mail=True))


@pytest.mark.parametrize("value", ["50/mail", [50, "mail"], ["50/mail", "100/1h"], ["100/1h", [50, "mail"]]])
def test_a_limit_per_mail_is_refused_where_none_can_be(value: object) -> None:
    for read in (parse_limits, lambda value: parse_limits_text(str(value)), lambda value: tolerated(value)):
        with pytest.raises(LimitsError, match=r"expected a whole number of seconds from 1 .+ found .+mail"):
            read(value)


def tolerated(value: object) -> object:
    return parse_limits(tolerated_limits(value)[0])


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (["50/mail", "60/mail"], "each period once, not a limit per mail again, found '60/mail'"),
        ("50/Mail", "or '50/mail', found '50/Mail'"),
        ("50/mails", "or '50/mail', found '50/mails'"),
        ("50/1 mail", "found '50/1 mail'"),
        ("50/0", "found '50/0'"),
        ([[50, 0]], r"found \[50, 0\]"),
        ("/mail", "a whole number of mails from 0 "),
        ("-1/mail", "a whole number of mails from 0 "),
        ("10M/mail", "a whole number of mails from 0 "),
        (f"{LARGEST + 1}/mail", "a whole number of mails from 0 "),
        ("mail", "or '50/mail', found 'mail'"),
    ],
)
def test_what_is_no_limit_per_mail_is_told(value: object, told: str) -> None:
    with pytest.raises(LimitsError, match=told):
        parse_limits(value, per_mail=True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("10M/mail", ((10_000_000, PER_MAIL),)),
        ("500M/1d", ((500_000_000, 86400),)),
        ("64 Ki / 1h", ((65_536, 3600),)),
        (["1G", "1d"], ((1_000_000_000, 86400),)),
        ([["2Mi", 60], "1Gi/mail", "3k/1d"], ((2**30, PER_MAIL), (2 * 2**20, 60), (3_000, 86400))),
        ("7/1d", ((7, 86400),)),
        ([7, 60], ((7, 60),)),
        ("0k/1d", ((0, 86400),)),
        (f"{LARGEST}/1d", ((LARGEST, 86400),)),
    ],
)
def test_a_maximum_may_have_a_suffix(value: object, expected: tuple[tuple[int, int], ...]) -> None:
    assert parse_limits(value, per_mail=True, unit_suffixes=True) == expected


@pytest.mark.parametrize(
    "text",
    ["1.5G/1d", "1,5G/1d", "G/1d", "1g/1d", "1K/1d", "1GB/1d", "1G i/1d", "1e3/1d", "-1k/1d", "9999999999999G/1d"],
)
def test_other_suffixes_are_refused(text: str) -> None:
    expected = f"expected a whole number from 0 to {LARGEST}, such as 500, '10M' or '64Ki', in .+, found '{text}'"
    with pytest.raises(LimitsError, match=expected):
        parse_limits(text, unit_suffixes=True)


def test_a_suffix_is_refused_where_none_can_be() -> None:
    with pytest.raises(LimitsError, match="a whole number of mails"):
        parse_limits("10k/1d")


@given(st.integers(0, LARGEST), st.sampled_from(sorted(SUFFIXES)), st.integers(0, LARGEST))
def test_a_suffix_multiplies(number: int, suffix: str, seconds: int) -> None:
    period = f"{seconds}" if seconds else "mail"
    text = f"{number}{suffix}/{period}"
    if number * SUFFIXES[suffix] > LARGEST:
        with pytest.raises(LimitsError):
            parse_limits(text, per_mail=True, unit_suffixes=True)
    else:
        limits = parse_limits(text, per_mail=True, unit_suffixes=True)
        assert limits == ((number * SUFFIXES[suffix], seconds),)
        assert parse_limits(spell_limit(limits[0]), per_mail=True) == limits


def test_a_limit_per_mail_is_written_as_it_is_read() -> None:
    assert spell_limit(Limit(50, PER_MAIL)) == shown_limit(Limit(50, PER_MAIL)) == "50/mail"
    assert spell_period(PER_MAIL) == "mail"


def test_a_block_is_shown_as_one() -> None:
    assert shown_limit(BLOCKED) == "blocked"
    assert shown_limit(Limit(0, 60)) == "0/1m"
    assert shown_limit(Limit(10, 60)) == "10/1m"


def test_a_block_is_read_as_any_limit() -> None:
    """As it stands in the database, written by this daemon or another."""
    assert parse_limits([list(BLOCKED)]) == parse_limits("0/1") == (BLOCKED,)
