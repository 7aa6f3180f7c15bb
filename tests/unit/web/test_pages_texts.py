"""The texts of the pages: the same in each language, and all of them in use."""

from __future__ import annotations

import re
from datetime import timedelta, timezone
from importlib.resources import files

import pytest
from markupsafe import Markup

from policyd_rate_limit.domain.limits import BLOCKED, Limit
from policyd_rate_limit.language.catalogue import ENGLISH, texts_of
from policyd_rate_limit.storage import audit_entries
from policyd_rate_limit.web.wording import Wording, accepted, wording

ROOMS = files("policyd_rate_limit")
SOURCES = "\n".join(
    path.read_text()
    for room in ("web", "web/templates", "web/pages", "language", "plots")
    for path in (ROOMS / room).iterdir()
    if path.name.endswith((".py", ".html"))
)
OF_OTHERS = (
    *("error.", "kind.", "verdict.", "audit.", "amount.", "different.", "window.", "duration.", "period.", "each."),
    *("date.", "list."),
)
"""Texts of what is not named in the pages: statuses, kinds of counters, units. They begin with this."""

HELD_ELSEWHERE = (
    *("whom.", "term.", "lacking.", "of.", "may.", "may_any.", "may_not.", "pattern.", "condition.", "rule.", "does."),
    *("told.", "entry.", "part."),
)
"""Texts of rules in words (test_rule_words.py), and of what was said in English (test_language.py)."""


def test_every_text_is_asked_for_and_every_one_asked_for_is_there() -> None:
    names = {name for name in texts_of(ENGLISH) if not name.startswith(HELD_ELSEWHERE)}
    asked = set(re.findall(r"""\b(?:t|has|say|_dated|_form_of)\(\s*["']([a-z-]+\.[a-z_0-9-]+)["'](?!\s*~)""", SOURCES))
    asked |= set(re.findall(r"""other\(["']([a-z.]+)["']\)""", SOURCES))
    asked |= set(re.findall(r"""self\(\s*["']([a-z-]+\.[a-z_]+)["']""", SOURCES))
    assert asked - names == set()
    for name in names - asked:
        without_section = name.partition(".")[2]
        put_together = any(
            (f'"{head}"' in SOURCES or f'"{head}{{' in SOURCES) and (not tail or f'"{tail}"' in SOURCES)
            for whole in (name, without_section)
            for at in range(1, len(whole) + 1)
            for head, tail in [(whole[:at], whole[at:])]
        )
        assert put_together or name.startswith(OF_OTHERS), f"nobody asks for {name}"
    actions = (audit_entries.ALLOW, audit_entries.BLOCK, audit_entries.REVOKE, audit_entries.RESET)
    assert {f"audit.{action}" for action in (*actions, audit_entries.COPY_TO)} <= names


def test_what_is_put_into_a_text_is_escaped() -> None:
    found = wording("en")("search.none", text="<b0ld>&")
    assert found == Markup("Nothing was found for &lt;b0ld&gt;&amp;.")


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("de", "de"),
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("fr, en;q=0.7, de;q=0.8", "de"),
        ("fr,es", "en"),
        ("de;q=0", "en"),
        ("de;q=none,*", "en"),
        (",".join(["fr"] * 50) + ",de", "en"),
    ],
)
def test_the_language_is_the_one_that_a_browser_wants_most(header: str, language: str) -> None:
    assert accepted(header) == language


def test_numbers_and_limits_in_words() -> None:
    en, de = wording("en"), wording("de")
    assert (en.number(1_234_567), de.number(1_234_567)) == ("1,234,567", "1.234.567")
    assert en.limit(Limit(1, 3600), "user:a") == "1 recipient in any hour"
    assert de.limit(Limit(1000, 600), "r/messages|user:a") == "1.000 Mails in je 10 Minuten"
    assert en.limits((Limit(10, 60), Limit(20, 86_400), Limit(3, 0)), "user:a") == (
        "10 recipients in any minute, 20 recipients in any day and 3 recipients in one mail"
    )
    assert en.limits((BLOCKED,), "user:a") == "nothing: blocked"
    assert en.limits((), "user:a") == "no limit"
    assert en.limit(Limit(50_000_000, 604_800), "r/bytes|user:a") == "50 MB in any week"
    assert en.limit(Limit(7, 1), "r/bytes|user:a") == "7 bytes in any second"
    assert en.limit(Limit(2, 60), "r/distinct-client_address|user:a") == ("2 different client addresses in any minute")
    assert (en.counted(12_345_678, "bytes"), de.counted(12_345_678, "bytes")) == ("12.3 MB", "12,3 MB")
    assert (en.counted(999, "bytes"), en.counted(1_500, "recipients")) == ("999", "1,500")
    assert [en.percent(share) for share in (0.0, 0.799, 0.999, 1.0, 1.26)] == [
        f"{number}\N{NO-BREAK SPACE}%" for number in (0, 79, 99, 100, 126)
    ]


def test_times_in_words() -> None:
    zone = timezone(timedelta(hours=1), "CET")
    en, de = (Wording(language, texts_of(language), zone) for language in ("en", "de"))
    date = 1_764_331_200  # 28 November 2025, 13:00 there
    assert en.moment(date).striptags() == "2025-11-28 13:00:00"
    assert de.moment(date).striptags() == "28.11.2025 13:00:00"
    assert en.moment(date, date + 60).striptags() == "13:00:00"
    assert en.moment(date, date + 86_400).striptags() == "2025-11-28 13:00:00"
    assert (en.day(date), en.hour(date).striptags(), en.zone_name) == ("2025-11-28", "2025-11-28 13:00", "CET")
    assert en.iso(date).endswith("+00:00") or "T" in en.iso(date)
    assert en.moment(10**15).striptags() == "1000000000000000"
    assert [en.duration(seconds) for seconds in (0, 59, 3_600, 90_061, 2 * 86_400)] == [
        "0 s",
        "59 s",
        "1 h",
        "1 day 1 h",
        "2 days",
    ]
    assert de.duration(200) == "3 Min. 20 s"
