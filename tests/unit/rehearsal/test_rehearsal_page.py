"""The page of a rehearsal: valid, of itself alone, and it says what was found."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.errors import SystemRefusal
from policyd_rate_limit.rehearsal.page import MOST_BARS, MOST_LISTED, make_page, write_page
from policyd_rate_limit.rehearsal.result import (
    ComparedRule,
    Counts,
    DifferingId,
    IdResult,
    Peak,
    Rehearsal,
    RuleResult,
    Series,
    ShadowComparison,
    Side,
)
from policyd_rate_limit.system.whole_file import write_whole
from support.strict_html import check_page

BEGIN = 1_795_993_200  # Mon 2026-11-30 00:00 in Berlin
BERLIN = ZoneInfo("Europe/Berlin")
HOUR = Limit(100, 3600)
NASTY = "<script>alert('1')</script>&\"\u202e\udcff@example.org"


def hit(name: str, refused: int = 3, used: int = 130) -> IdResult:
    counts = Counts(mails=50, refused=refused, refused_recipients=refused)
    peaks = (Peak(HOUR, used), Peak(Limit(500, 86_400), 20))
    return IdResult("mailbox", f"user:{name}", counts, BEGIN + 60, BEGIN + 7200, HOUR, 3661, BEGIN + 9000, peaks)


def rehearsal(*names: str, old: bool = True) -> Rehearsal:
    ids = tuple(map(hit, names))
    rule = RuleResult(
        "mailbox", "recipients", False, True, "450 too many", Counts(1200, 3), ids, 0, Counts(), ids,
        ("helo is not logged",),
    )  # fmt: skip
    series = Series(BEGIN, 3600, (1000, 200), (2, 1), (0, 1))
    before = Side("old.yaml", 1, 1, 0, (rule,))
    return Rehearsal(
        Side("new.yaml", 3, 4, 7, (rule,)), before if old else None, 1200, 1300, BEGIN, BEGIN + 7200, 1, len(ids), 0,
        {"mailbox": ids} if ids else {}, {}, 0, series, ("RCPT", "DATA"), "as main.cf says", {"not_understood": 4},
        (("mail.log.1.gz", "ends early"),), ("3 mails came from pickup",),
    )  # fmt: skip


def page(result: Rehearsal) -> str:
    return make_page(result, BERLIN, BEGIN + 86_400)


def test_the_page_says_what_was_found() -> None:
    text = page(rehearsal("alice@example.org"))
    check_page(text)
    for words in (
        "1 sender would be refused who was not before.",
        "From Mon 2026-11-30 00:00 to Mon 2026-11-30 02:00 there were 1\u202f200 mails",
        "alice@example.org",
        "100/1h",
        "1 h 1 min",
        "130 of 100 in 1h",
        "Postfix is taken to ask at RCPT, DATA, as main.cf says.",
        "helo is not logged",
        "<code>mail.log.1.gz</code>: ends early",
        "not understood",
        "3 mails came from pickup.",
        "All times: Europe/Berlin.",
    ):
        assert words in text, words


def test_what_strangers_have_chosen_is_text() -> None:
    text = page(rehearsal(NASTY))
    check_page(text)
    assert "<script" not in text
    assert "\u202e" not in text
    assert "\\u202e" in text
    text.encode()


@pytest.mark.parametrize("old", [True, False])
def test_nobody_is_hit(old: bool) -> None:
    text = page(replace(rehearsal(old=old), newly_refused=0))
    check_page(text)
    assert "Nobody would be refused who was not before." in text
    assert "Nobody is refused who was not before." in text
    assert ("compared with what really happened" in text) is not old


def test_what_it_is_compared_with_may_be_figures_of_shadow() -> None:
    rules = (ComparedRule("mailbox", 5, 3, (DifferingId("user:bob", 2, 0),), 0, 1),)
    shadow = ShadowComparison("shadow.json", BEGIN, BEGIN + 86_400, BEGIN + 60, BEGIN + 7200, rules)
    gone = IdResult("mailbox", "user:bob", Counts(refused=2), BEGIN + 60, BEGIN + 90, HOUR)
    result = replace(rehearsal(old=False), shadow=shadow, no_longer_hit={"mailbox": (gone,)}, incomparable=1)
    text = page(result)
    check_page(text)
    for words in (
        "compared with what rules in shadow would have refused from Mon 2026-11-30 00:00 to Tue 2026-12-01 00:00, as "
        "shadow.json tells.",
        "Compared are requests from Mon 2026-11-30 00:01 to Mon 2026-11-30 02:00",
        "Refused by shadow alone",
        "1 id could not be compared, since the log is not of their time, or shadow.json does not name all",
    ):
        assert words in text, words
    assert "for ever" not in text  # how long who was not rehearsed would have waited is not known
    nothing = page(replace(result, shadow=shadow._replace(began=None, ended=None, rules=())))
    check_page(nothing)
    assert "Nothing could be compared: the log has no mail of that time." in nothing


@pytest.mark.parametrize(("number", "words"), [(1, "there was 1 mail that"), (2, "there were 2 mails that")])
def test_one_is_not_many(number: int, words: str) -> None:
    text = page(replace(rehearsal(old=False), mails=number, refused_before=number))
    assert words in text
    assert f"{number} mail{'' if number == 1 else 's'} of this log {'was' if number == 1 else 'were'} refused" in text


def test_a_log_without_mails() -> None:
    side = Side(None, 0, 0, 0, ())
    empty = Series(0, 3600, (), (), ())
    result = replace(
        rehearsal(), new=side, old=None, mails=0, recipients=0, began=None, ended=None, newly_refused=0, series=empty
    )
    text = page(result)
    check_page(text)
    assert "There are no mails in this log to rehearse." in text
    assert "nothing to show" in text


def test_many_ids_are_listed_up_to_a_bound_and_the_rest_is_counted() -> None:
    result = rehearsal(*(f"user{number}@example.org" for number in range(MOST_LISTED + 50)))
    text = page(result)
    check_page(text)
    assert "250 senders would be refused" in text
    assert "And 50 more by this rule." in text
    assert text.count('class="plot-ground"') == 2 * MOST_BARS


def test_nothing_may_be_loaded_or_run() -> None:
    text = page(rehearsal("alice"))
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in text.replace("&#39;", "'")


def test_a_page_takes_the_place_of_the_one_before_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("before")
    path.chmod(0o640)
    write_page(path, rehearsal("alice"), BERLIN, BEGIN)
    check_page(path.read_text())
    assert path.stat().st_mode & 0o777 == 0o640
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("kept")
    link = tmp_path / "page.html"
    link.symlink_to(kept)
    with pytest.raises(SystemRefusal, match="found a link"):
        write_page(link, rehearsal("alice"), BERLIN, BEGIN)
    with pytest.raises(SystemRefusal, match="found a directory"):
        write_whole(tmp_path, b"", replace=True)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SystemRefusal, match="found a device, a pipe or a socket"):
        write_whole(tmp_path / "pipe", b"", replace=True)
    assert kept.read_text() == "kept"


def test_a_file_is_replaced_where_that_is_asked_for_alone(tmp_path: Path) -> None:
    path = tmp_path / "new.yaml"
    write_whole(path, b"one", replace=False)
    with pytest.raises(SystemRefusal, match="exists"):
        write_whole(path, b"two", replace=False)
    assert path.read_bytes() == b"one"
    missing = tmp_path / "missing" / "new.yaml"
    with pytest.raises(SystemRefusal, match=f"^cannot write {missing}: No such file or directory$"):
        write_whole(missing, b"", replace=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="whom root follows")
def test_root_follows_no_link_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "diverted").symlink_to("real")
    os.lchown(tmp_path / "diverted", 65534, 65534)
    with pytest.raises(SystemRefusal, match=r"cannot write .*link of uid 65534"):
        write_whole(tmp_path / "diverted" / "page.html", b"", replace=True)
    assert not list((tmp_path / "real").iterdir())
