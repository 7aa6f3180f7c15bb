"""Plots: drawn figures are where their values say, whatever they are, and no text becomes markup."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import pairwise
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd_rate_limit.language.wording import english
from policyd_rate_limit.plots import ticks
from policyd_rate_limit.plots.axes import Mark
from policyd_rate_limit.plots.curve import Curve, Line, number_at
from policyd_rate_limit.plots.histogram import Bin, Histogram, bins
from policyd_rate_limit.plots.numbers import NARROW_SPACE, grouped, share, short
from policyd_rate_limit.plots.over_time import Look, OverTime, Panel, Series
from policyd_rate_limit.plots.plot import Plot, shortened, style
from policyd_rate_limit.plots.shares import MOST_SHARE, Bar, Shares

BEGIN = 1_795_993_200  # 2026-11-30 00:00 in Berlin
BERLIN = ZoneInfo("Europe/Berlin")
WIDTHS = (860, 360)
NASTY = '<script>alert("1")</script>&\'\x00\ud800]]>'


def over_time(*values: int, before: tuple[int, ...] = (), begin: float = BEGIN, step: int = 3600) -> OverTime:
    refused: tuple[Series, ...] = (Series("new", [value // 2 for value in values], Look.HATCHED),)
    if before:
        refused += (Series("before", before, Look.DASHED),)
    panels = [Panel("mails", (Series("mails", values),)), Panel("refused", refused)]
    return OverTime("time", "Mails over time", panels, begin=begin, step=step, zone=BERLIN)


def parsed(plot: Plot, width: int = 860) -> ElementTree.Element:
    return ElementTree.fromstring(plot.svg(width))


def boxes(root: ElementTree.Element, look: str) -> list[tuple[float, ...]]:
    """The rectangles (x, y, width, height) of all paths of a class."""
    found: list[tuple[float, ...]] = []
    for path in root.iter("path"):
        if path.get("class") == look:
            drawn = path.get("d", "").split("M")[1:]
            found += [tuple(float(number) for number in re.findall(r"-?[\d.]+", one)[:4]) for one in drawn]
    return found


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter("text")]


def plots_of(label: str, number: int) -> list[Plot]:
    series = Series(label, [number, 0, number])
    return [
        OverTime("a", label, [Panel(label, (series, series))], begin=BEGIN, step=60, zone=UTC),
        Shares("b", label, [Bar(label, number, 7, label)], whose=label, what=label),
        Curve("c", label, [Line(label, [(1, number), (max(number, 2), 0)])], across=label, upwards=label,
              marks=[Mark(5, label)]),
        Histogram("d", label, bins([number]), across=label, upwards=label, marks=[Mark(5, label)]),
    ]  # fmt: skip


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("number", [0, 1, 2**53])
def test_any_text_and_any_number_is_drawn(width: int, number: int) -> None:
    for plot in plots_of(NASTY, number):
        markup = plot.svg(width)
        assert "<script" not in markup
        assert "style=" not in markup
        assert "://" not in markup
        root = ElementTree.fromstring(markup)
        assert root.get("role") == "img"
        assert root.get("viewBox", "").startswith(f"0 0 {width} ")
        ids = [element.get("id") for element in root.iter() if element.get("id")]
        assert len(ids) == len(set(ids))
        assert root.get("aria-labelledby") in ids
        assert root.get("aria-describedby") in ids
        for element in root.iter():
            for name in ("x", "y", "width", "height"):
                assert float(element.get(name, 0)) == float(element.get(name, 0)), "not a number"
            assert float(element.get("width", 1)) >= 0


@pytest.mark.parametrize("width", WIDTHS)
def test_without_figures_it_says_so(width: int) -> None:
    empty = [
        OverTime("a", "a", [Panel("mails", (Series("mails", []),))], begin=BEGIN, step=60, zone=UTC),
        Shares("b", "b", [], whose="user", what="mails"),
        Curve("c", "c", [Line("ids", [])], across="maximum", upwards="refused"),
        Histogram("d", "d", [], across="peak", upwards="users"),
    ]
    for plot in empty:
        assert texts(parsed(plot, width)) == ["nothing to show"]
        assert plot.description == "There are no figures."
        assert not plot.table().rows


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=120), st.sampled_from(WIDTHS))
@settings(max_examples=40)
def test_bars_over_time_are_as_high_as_their_figures(values: list[int], width: int) -> None:
    root = parsed(over_time(*values), width)
    drawn = boxes(root, "plot-main")
    together = -(-len(values) * 3 // (width - 72))
    added = [sum(values[at : at + together]) for at in range(0, len(values), together)]
    shown = [figure for figure in added if figure]
    assert len(drawn) == len(shown)
    heights = [height for _, _, _, height in drawn]
    for figure, height in zip(shown, heights, strict=True):
        assert height == pytest.approx(figure / max(shown) * max(heights), abs=0.02)
    assert all(y + height == pytest.approx(drawn[0][1] + drawn[0][3], abs=0.02) for _, y, _, height in drawn)


def test_what_was_before_is_a_line_where_there_was_something() -> None:
    root = parsed(over_time(8, 8, 8, 8, before=(0, 4, 2, 0)))
    (dashed,) = [path for path in root.iter("path") if path.get("class") == "plot-before" and "V" in path.get("d", "")]
    assert dashed.get("d", "").count("M") == 1
    # Up to what 4 is, half as far down for 2, back to the axis.
    top, middle, base = (float(y) for y in re.findall(r"V([\d.]+)", dashed.get("d", "")))
    assert base - middle == pytest.approx((base - top) / 2)


def test_each_step_tells_its_figures_to_who_points_at_it() -> None:
    said = [title.text for rect in parsed(over_time(1200, 7)).iter("rect") for title in rect.iter("title")]
    assert said == [
        f"Mon 2026-11-30 00:00: mails: 1{NARROW_SPACE}200, refused: 600",
        "Mon 2026-11-30 01:00: mails: 7, refused: 3",
    ]


def test_the_table_has_every_figure_and_the_description_the_sums() -> None:
    plot = over_time(1200, 7)
    assert plot.table().head == ("from", "mails", "refused")
    assert plot.table().rows[1] == ("Mon 2026-11-30 01:00", "7", "3")
    assert f"1{NARROW_SPACE}207 in all, most on Mon 2026-11-30 00:00" in plot.description


def test_hours_are_those_of_the_zone_also_when_its_clock_is_changed() -> None:
    begin = datetime(2026, 10, 25, tzinfo=BERLIN).timestamp()  # the day of 25 hours
    found = ticks.dates(begin, begin + 25 * 3600, 9, BERLIN, english())
    assert [tick.text for tick in found] == [
        "Sun 25 Oct", "03:00", "06:00", "09:00", "12:00", "15:00", "18:00", "21:00", "Mon 26 Oct",
    ]  # fmt: skip
    assert found[1].value - begin == 4 * 3600
    assert [tick.is_major for tick in found] == [True, *[False] * 7, True]


@pytest.mark.parametrize(
    ("seconds", "first", "last"),
    [(600, "12:00", "12:10"), (86_400, "12:00", "12:00"), (86_400 * 30, "Mon 2 Mar", "Mon 30 Mar"),
     (86_400 * 365, "May 2026", "Mar 2027"), (86_400 * 3650, "2028", "2036")],
)  # fmt: skip
def test_ticks_of_time_stand_at_round_moments(seconds: int, first: str, last: str) -> None:
    begin = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
    found = ticks.dates(begin, begin + seconds, 10, UTC, english())
    assert (found[0].text, found[-1].text) == (first, last)
    assert 2 <= len(found) <= 11


@given(st.floats(0, 4e9), st.integers(1, 2**31), st.integers(2, 12))
@settings(max_examples=60)
def test_ticks_of_time_are_few_and_in_order(begin: float, span: int, most: int) -> None:
    found = [tick.value for tick in ticks.dates(begin, begin + span, most, BERLIN, english())]
    assert found == sorted(set(found))
    assert len(found) <= most + 2
    assert all(begin <= value <= begin + span for value in found)


@given(st.integers(0, 2**53), st.integers(2, 8))
def test_ticks_of_counts_reach_the_highest(highest: int, most: int) -> None:
    found = ticks.counts(highest, most)
    assert found[0] == 0
    assert found[-1] >= max(1, highest)
    assert 2 <= len(found) <= most + 2


@pytest.mark.parametrize("width", WIDTHS)
def test_bars_end_at_their_share_of_the_maximum(width: int) -> None:
    root = parsed(Shares("b", "b", [Bar("a", 50, 100), Bar("b", 150, 100), Bar("c", 0, 9)], whose="u", what="m"), width)
    full = next(float(rect.get("width", 0)) for rect in root.iter("rect") if rect.get("class") == "plot-ground")
    unit = full / 1.53
    within = [float(rect.get("width", 0)) for rect in root.iter("rect") if rect.get("class") == "plot-main"]
    beyond = [float(rect.get("width", 0)) for rect in root.iter("rect") if rect.get("class") == "plot-strong"]
    assert within == pytest.approx([unit / 2, unit], abs=0.02)
    assert beyond == pytest.approx([unit / 2], abs=0.02)


def test_a_bar_far_beyond_is_broken_off_and_says_its_figure() -> None:
    plot = Shares("b", "b", [Bar("a", 10**6, 100, "in 1d"), Bar("blocked", 3, 0)], whose="user", what="mails")
    root = parsed(plot)
    ground, beyond = (
        next(float(rect.get("width", 0)) for rect in root.iter("rect") if rect.get("class") == look)
        for look in ("plot-ground", "plot-strong")
    )
    assert beyond == pytest.approx(ground * (1 - 1 / MOST_SHARE), abs=0.02)
    assert f"1{NARROW_SPACE}000{NARROW_SPACE}000 of 100 in 1d" in texts(root)
    assert plot.table().rows[1][3] == "∞"


def test_a_curve_steps_down_where_its_values_are() -> None:
    plot = Curve(
        "c", "c", [Line("ids", [(1, 100), (10, 10), (100, 0)]), Line("mails", [(1, 1000), (100, 0)])],
        across="maximum", upwards="refused", marks=[Mark(10, "suggested")],
    )  # fmt: skip
    root = parsed(plot)
    (solid,) = [
        path.get("d", "") for path in root.iter("path") if path.get("class") == "plot-line" and "V" in path.get("d", "")
    ]
    start, first, second = re.findall(r"[MH]([\d.]+)[ V]([\d.]+)", solid)
    # One power of ten lower is one band lower, each time; the last band is for nothing.
    assert float(second[1]) - float(first[1]) == pytest.approx(2 * (float(first[1]) - float(start[1])), abs=0.05)
    assert float(second[0]) - float(first[0]) == pytest.approx(float(first[0]) - float(start[0]), abs=0.05)
    mark = next(path.get("d", "") for path in root.iter("path") if path.get("class") == "plot-mark")
    assert float(mark[1:].split(" ")[0]) == pytest.approx(float(first[0]), abs=0.1)
    assert plot.table().rows[1] == ("10", "10", f"1{NARROW_SPACE}000")
    assert f"suggested: 10; ids: 10; mails: 1{NARROW_SPACE}000." in plot.description
    with pytest.raises(ValueError, match="two lines"):
        Curve("c", "c", [Line("a", [])] * 3, across="", upwards="")


def test_a_curve_holds_until_its_next_value() -> None:
    points = [(5, 9), (10, 4)]
    assert [number_at(points, value) for value in (1, 5, 9, 10, 99)] == [9, 9, 9, 4, 4]
    assert number_at([], 1) == 0


@given(st.lists(st.integers(1, 2**53), min_size=1))
@settings(max_examples=40)
def test_bins_hold_every_value_once_and_leave_no_gap(values: list[int]) -> None:
    found = bins(values)
    for one, after in pairwise(found):
        assert one.high == after.low
    assert [sum(one.low <= value < one.high for value in values) for one in found] == [one.number for one in found]
    assert sum(one.number for one in found) == len(values)


def test_bars_of_a_histogram_lie_between_their_bounds() -> None:
    root = parsed(Histogram("d", "d", [Bin(1, 2, 10), Bin(2, 5, 0), Bin(5, 10, 1)], across="peak", upwards="users"))
    (left, _, width, tall), (right, _, _, low) = boxes(root, "plot-main")
    assert tall == pytest.approx(2 * low)
    assert left + width < right


def test_figures_are_written_so_that_they_can_be_read() -> None:
    assert [grouped(number) for number in (0, 999, 1000, 1234567, 0.125, 2.0)] == [
        "0", "999", f"1{NARROW_SPACE}000", f"1{NARROW_SPACE}234{NARROW_SPACE}567", "0.12", "2",
    ]  # fmt: skip
    assert [short(number) for number in (1000, 10_000, 12_345, 2_500_000, 3 * 10**9)] == [
        f"1{NARROW_SPACE}000", "10k", f"12{NARROW_SPACE}345", "2.5M", "3G",
    ]  # fmt: skip
    assert [share(*pair) for pair in ((1, 2), (1, 10**6), (999_999, 10**6), (0, 5), (1, 0))] == [
        f"50{NARROW_SPACE}%", f"< 0.1{NARROW_SPACE}%", f"> 99.9{NARROW_SPACE}%", f"0{NARROW_SPACE}%", "–",
    ]  # fmt: skip
    assert [english().each(seconds) for seconds in (60, 7200, 86_400, 90, 604_800)] == [
        "minute", "2 hours", "day", "90 seconds", "week",
    ]  # fmt: skip
    assert shortened("alice@example.org", 999) == "alice@example.org"
    assert shortened("alice@example.org", 80) == "alice….org"


def test_the_style_names_every_class_that_is_drawn_and_both_schemes() -> None:
    sheet = style()
    assert "prefers-color-scheme: dark" in sheet
    assert "@media print" in sheet
    for plot in [*plots_of("x", 20), over_time(4, 2, before=(1, 0))]:
        for element in parsed(plot).iter():
            for name in (element.get("class") or "").split():
                assert f".{name}" in sheet, name
