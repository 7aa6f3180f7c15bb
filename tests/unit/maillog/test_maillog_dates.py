"""The dates of log lines: each form, and what a form leaves out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.maillog.dates import Dates
from support.maillogs import NOW, Log, moment

if TYPE_CHECKING:
    from datetime import tzinfo
    from pathlib import Path

BERLIN = ZoneInfo("Europe/Berlin")
NOON = moment("2026-11-28T12:00:01+01:00")


def times(dates: Dates, *lines: str) -> list[float | None]:
    """Unix seconds of each line, as a reader asks for them; None: it has no date."""
    found: list[float | None] = []
    for line in (line.encode() for line in lines):
        end = dates.read(line)
        found.append(dates.exact(line, end) if end else None)
    return found


def of_berlin(written: float = NOW) -> Dates:
    return Dates(BERLIN, written)


@pytest.mark.parametrize(
    ("date", "fraction"),
    [
        ("Nov 28 12:00:01 ", 0),
        ("Nov 28 12:00:01.123456 ", 0.123456),
        ("2026 Nov 28 12:00:01 ", 0),
        ("Nov 28 2026 12:00:01 ", 0),
        ("<22>Nov 28 12:00:01 ", 0),
        ("2026-11-28T12:00:01.123456+01:00 ", 0.123456),
        ("2026-11-28T11:00:01.123Z ", 0.123),
        ("2026-11-28T12:00:01+01:00 ", 0),
        ("2026-11-28T06:00:01-0500 ", 0),
        ("2026-11-28T12:00:01.123456+0100 ", 0.123456),
        ("2026-11-28T12:00:01,123+01:00 ", 0.123),
        ("2026-11-28T13:00:01+02 ", 0),
        ("2026-11-28 12:00:01 ", 0),
        ("<22>1 2026-11-28T12:00:01.123456+01:00 ", 0.123456),
        ("Sat 2026-11-28 12:00:01 CET ", 0),
        ("Sat 2026-11-28 11:00:01 UTC ", 0),
        ("Sat 2026-11-28 12:00:01.123456 CET ", 0.123456),
        ("Sat 2026-11-28 14:00:01 +03 ", 0),
        (f"{NOON:.0f}.123456 ", 0.123456),
    ],
)
def test_forms(date: str, fraction: float) -> None:
    dates = of_berlin()

    [time] = times(dates, f"{date}mx postfix/smtpd[1]: connect")
    assert time == pytest.approx(NOON + fraction, abs=1e-6)
    assert date.startswith(dates.prefix.decode())
    assert dates.is_protocol == date.startswith("<22>1 ")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Nov 31 12:00:01 mx",
        "Nov 28 24:00:01 mx",
        "Nov 28 12:60:01 mx",
        "Now 28 12:00:01 mx",
        "Nov 28 12:00 mx",
        "2026-13-28T12:00:01Z mx",
        "2026-11-28T12:00:01+99:99 mx",
        "0000-11-28T12:00:01 mx",
        " Nov 28 12:00:01 mx",
        "1969-12-31T23:59:59Z mx",
        "0001-01-01T00:00:00+14:00 mx",
        "9999-12-31T23:59:59-12:00 mx",
        "9999 Dec 31 23:59:59 mx",
    ],
)
def test_what_is_no_date(line: str) -> None:
    assert times(of_berlin(), line) == [None]


def test_days_of_one_figure_and_a_leap_second() -> None:
    assert times(of_berlin(), "Nov  8 12:00:01 mx", "2026-11-08T12:00:60+01:00 mx") == [
        moment("2026-11-08T12:00:01+01:00"),
        moment("2026-11-08T12:00:59+01:00"),
    ]


@pytest.mark.parametrize(
    ("written", "date", "expected"),
    [
        ("2026-12-01T00:00:00", "Nov 30 00:00:00", "2026-11-30"),
        ("2026-12-01T00:00:00", "Dec  1 12:00:00", "2026-12-01T12:00:00"),  # a clock in front of ours
        ("2026-12-01T00:00:00", "Dec  3 00:00:00", "2025-12-03"),
        ("2027-01-01T00:00:00", "Dec 31 00:00:00", "2026-12-31"),
        ("2026-12-31T23:00:00", "Jan  1 00:00:00", "2027-01-01"),
        ("2026-12-01T00:00:00", "Feb 29 00:00:00", "2024-02-29"),
        ("2104-01-01T00:00:00", "Feb 29 00:00:00", "2096-02-29"),
        ("2024-03-01T00:00:00", "Feb 29 00:00:00", "2024-02-29"),
    ],
)
def test_the_year_is_the_latest_that_the_log_can_be_of(written: str, date: str, expected: str) -> None:
    assert times(Dates(UTC, moment(written)), f"{date} mx") == [moment(expected)]


def test_a_year_turns_inside_of_a_log() -> None:
    dates = Dates(UTC, moment("2027-02-01"))

    assert times(
        dates,
        "Dec 31 23:59:59 mx",
        "Jan  1 00:00:00 mx",
        "Dec 31 23:59:59 mx",  # a process that is late
        "Jan  1 00:00:01 mx",
    ) == [
        moment("2026-12-31T23:59:59"),
        moment("2027-01-01T00:00:00"),
        moment("2026-12-31T23:59:59"),
        moment("2027-01-01T00:00:01"),
    ]
    assert dates.backwards == 0


def test_a_quiet_log_may_leap_over_half_a_year_and_over_leap_days() -> None:
    assert times(
        Dates(UTC, moment("2028-12-01")), "Jan  2 00:00:00 mx", "Feb 29 00:00:00 mx", "Sep 20 00:00:00 mx"
    ) == [
        moment("2028-01-02"),
        moment("2028-02-29"),
        moment("2028-09-20"),
    ]


def test_a_leap_day_in_a_year_that_has_none_is_the_day_after() -> None:
    assert times(Dates(UTC, moment("2026-12-01")), "Feb 28 00:00:00 mx", "Feb 29 00:00:01 mx") == [
        moment("2026-02-28"),
        moment("2026-03-01T00:00:01"),
    ]


def test_an_hour_that_comes_twice_is_told_apart_by_the_order() -> None:
    dates = of_berlin()

    lines = [f"Oct 25 {time} mx" for time in ("01:59:59", "02:00:00", "02:59:59", "02:00:00", "02:59:59", "03:00:00")]
    first = moment("2026-10-25T01:59:59+02:00")
    assert times(dates, *lines) == [first, first + 1, first + 3600, first + 3601, first + 7200, first + 7201]
    assert dates.backwards == 0


def test_a_small_step_in_an_hour_that_comes_twice_is_none_into_its_second() -> None:
    first = moment("2026-10-25T02:30:30+02:00")

    assert times(of_berlin(), "Oct 25 02:30:30 mx", "Oct 25 02:30:29 mx") == [first, first - 1]


def test_an_hour_that_comes_twice_is_told_apart_by_its_zone() -> None:
    second = moment("2026-10-25T02:30:00+01:00")
    dates = of_berlin()

    assert times(
        dates,
        "2026-10-25T02:30:00.5+02:00 mx",
        "2026-10-25T02:30:00.5+01:00 mx",
        "Sun 2026-10-25 02:30:00 CET mx",
    ) == [second - 3600 + 0.5, second + 0.5, second]
    line = b"2026-10-25T02:30:00.5+01:00 mx"
    assert times(dates, "2026-10-25T02:30:00.5+02:00 mx") == [second - 3600 + 0.5]
    assert line.startswith(dates.prefix)
    assert dates.exact(line, line.index(b" ") + 1) == second + 0.5


@pytest.mark.parametrize("digits", ["1" * 400, "1" * 10_000, "x", ""])
def test_a_fraction_that_is_none_behind_one_of_the_same_second(digits: str) -> None:
    dates = of_berlin()
    [second] = times(dates, "2026-11-28T12:00:01.0+01:00 mx")
    line = f"2026-11-28T12:00:01.{digits}+01:00 mx".encode()

    assert line.startswith(dates.prefix)
    assert dates.exact(line, line.index(b" ") + 1) == second


def test_an_hour_that_does_not_exist() -> None:
    assert times(of_berlin(), "Mar 29 01:59:59 mx", "Mar 29 03:00:00 mx") == [
        moment("2026-03-29T01:59:59+01:00"),
        moment("2026-03-29T01:59:59+01:00") + 1,
    ]
    assert times(of_berlin(), "Mar 29 02:30:00 mx") == [moment("2026-03-29T03:30:00+02:00")]


@pytest.mark.parametrize("zone", [BERLIN, UTC, ZoneInfo("Australia/Lord_Howe"), ZoneInfo("America/St_Johns")])
@given(steps=st.lists(st.integers(0, 4000), min_size=1, max_size=60), start=st.integers(0, 365 * 24))
def test_local_times_are_read_back(zone: tzinfo, steps: list[int], start: int) -> None:
    """But for those of an hour that comes twice, whose order may say too little."""
    now = moment("2026-01-02T00:00:00") + 3600 * start
    dates = Dates(zone, moment("2027-01-02"))
    for step in steps:
        now += step
        local = datetime.fromtimestamp(now, zone)
        [time] = times(dates, local.strftime("%Y %b %e %H:%M:%S mx"))
        if local.utcoffset() == local.replace(fold=1 - local.fold).utcoffset():
            assert time == now
        else:
            assert time in (now, now - 3600, now + 3600, now - 1800, now + 1800)


@given(st.floats(0, 4e9), st.integers(-14 * 60, 14 * 60), st.integers(0, 9))
def test_rfc_3339_is_read_back(time: float, offset: int, digits: int) -> None:
    zone = timezone(timedelta(minutes=offset))
    date = datetime.fromtimestamp(int(time), zone)
    fraction = f".{int(time % 1 * 10**digits):0{digits}d}" if digits else ""
    text = f"{date:%Y-%m-%dT%H:%M:%S}{fraction}{date:%z} mx"

    assert times(Dates(UTC, 5e9), text) == [pytest.approx(int(time) + float(f"0{fraction}" if digits else 0))]


def test_steps_back_lose_no_mail_and_time_stays(tmp_path: Path) -> None:
    log = Log(tmp_path, "".join(_mail(number, minute) for number, minute in enumerate((10, 20, 5, 6, 21), 1)))

    noon = moment("2026-11-28T12:00:00")
    assert [mail.time - noon for mail in log.mails] == [600, 1200, 1200, 1200, 1260]
    assert log.tally.backwards == 1


def test_a_date_far_beyond_the_present_is_not_believed(tmp_path: Path) -> None:
    wrong = _mail(2, 11).replace("Nov 28", "2036 Nov 28")

    log = Log(tmp_path, _mail(1, 10) + wrong + _mail(3, 12))
    noon = moment("2026-11-28T12:00:00")
    assert [mail.time - noon for mail in log.mails] == [600, 600, 720]
    assert log.tally.backwards == 1


def test_a_log_of_a_clock_in_front_of_ours_is_read_as_it_is(tmp_path: Path) -> None:
    text = (_mail(1, 10) + _mail(2, 11)).replace("Nov 28", "2036 Nov 28")

    noon = moment("2036-11-28T12:00:00")
    assert [mail.time - noon for mail in Log(tmp_path, text).mails] == [600, 660]


def _mail(number: int, minute: int) -> str:
    begin = f"Nov 28 12:{minute:02d}:00 mx postfix/"
    return (
        f"{begin}smtpd[1]: 4F1AB2C3D{number}: client=a[192.0.2.1]\n"
        f"{begin}qmgr[2]: 4F1AB2C3D{number}: from=<a@x>, size=1, nrcpt=1 (queue active)\n"
    )
