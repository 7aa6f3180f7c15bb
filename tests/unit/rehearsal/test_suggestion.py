"""Suggested limits refuse nobody of the log but whoever looks stolen: of 5,000 people, also in the week after."""

from __future__ import annotations

import json
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd_rate_limit.config import Settings
from policyd_rate_limit.config.remarks import remarks
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.maillog.mail import Mail
from policyd_rate_limit.rehearsal.learning import learn
from policyd_rate_limit.rehearsal.observing import SUBJECTS
from policyd_rate_limit.rehearsal.result import Rehearsal
from policyd_rate_limit.rehearsal.suggested_file import configuration, pattern
from policyd_rate_limit.rehearsal.suggestion import MOST_OVERRIDES, SPARE, Suggestion, suggest
from policyd_rate_limit.rehearsal.suggestion_facts import of_suggestion
from policyd_rate_limit.rehearsal.suggestion_page import make_page
from support.mmdb import write_mmdb
from support.organisation import MONDAY, WEEK, Organisation
from support.rehearsed import mail, refusal, rehearsed, settings_of
from support.strict_html import check_page

ZONE = ZoneInfo("Europe/Berlin")
WINDOWS = (60, 3600, 86_400)


def learned(
    mails: Iterable[Mail], *, windows: tuple[int, ...] = WINDOWS, of: Settings | None = None, **how: Fraction
) -> Suggestion:
    observation, _ = learn(of or settings_of("{}"), mails, ZONE, SUBJECTS, windows)
    return suggest(observation, **how)


def written(suggestion: Suggestion) -> str:
    return configuration(suggestion, ZONE, MONDAY + WEEK)


def refused(result: Rehearsal) -> set[str]:
    return {one.id for rule in result.new.rules for one in rule.ids if one.counts.refused}


def page(suggestion: Suggestion) -> str:
    return make_page(
        suggestion, written(suggestion), ZONE, MONDAY + WEEK, {"lines": 7}, {"mail.log.1.gz": "ends early"}
    )


@pytest.fixture(scope="module")
def suggested() -> Suggestion:
    """Of fewer people, with whom the same happens."""
    return learned(Organisation(1500).week(), spare=Fraction(99))


def test_of_5000_people_the_five_are_found_and_nobody_else_is_refused_in_this_week_or_the_next() -> None:
    organisation = Organisation()
    week = organisation.week()
    suggestion = learned(week)
    assert {suspect.name for suspect in suggestion.suspects} == organisation.stolen
    user, domain = suggestion.rules
    assert (user.subject.key, domain.subject.key) == ("sasl_username", "sasl_domain")
    assert user.ids > 3500  # who sent anything in that week
    assert set(user.left_out) == organisation.stolen
    assert domain.left_out == ("dep1.example.org",)
    assert {outlier.name.partition("@")[0] for outlier in user.outliers} == {"rector0", "rector1", "rector2"}

    text = written(suggestion)
    result = rehearsed(text, week)
    assert result.mails == len(week)
    assert {"burst@dep1.example.org", "abroad@dep1.example.org"} <= refused(result) <= organisation.stolen

    # In the week after three of the five go on; the two others have new passwords.
    goes_on = {f"{name}@dep1.example.org" for name in ("burst", "slow", "abroad")}
    thieves = [one for one in organisation.week(1) if one.sasl_username in goes_on]
    others = [one for one in organisation.week(1, theft=False) if one.sasl_username not in goes_on]
    result = rehearsed(text, sorted([*thieves, *others], key=lambda one: one.time))
    assert refused(result) == goes_on


def test_the_page_shows_it(suggested: Suggestion) -> None:
    text = page(suggested)
    check_page(text)
    for words in (
        "5 accounts look stolen; nobody else is refused.",
        "networks within an hour, usually from 1",
        "Countries were not looked at",
        "rector0@dep2.example.org",
        "key: sasl_domain",
        "<code>mail.log.1.gz</code>: ends early",
    ):
        assert words in text, words


def test_the_json_holds_all_of_it(suggested: Suggestion) -> None:
    found: dict[str, Any] = json.loads(
        json.dumps(of_suggestion(suggested, written(suggested), {"lines": 7}, {"a": "b"}))
    )
    user = found["rules"]["user"]
    assert user["limits"] == [[window.maximum, window.seconds] for window in suggested.rules[0].windows]
    assert len(found["stolen"]) == 5
    day = user["windows"][2]
    assert day["seconds"] == 86_400
    assert day["curve"][-1]["ids"] == 0
    assert sum(one["ids"] for one in day["peaks"]) == user["ids"]
    (rector,) = [one for one in user["overrides"] if one["id"] == "rector0@dep2.example.org"]
    assert rector["peaks"][0] == {"seconds": 60, "used": 400, "at": 1_795_518_400, "at_time": "2026-11-24T11:06:40Z"}
    assert found["log"] == {"lines": 7, "damaged": [{"file": "a", "what": "b"}]}
    assert found["configuration"] == written(suggested)


def test_nothing_is_odd_in_what_is_suggested(suggested: Suggestion) -> None:
    found = settings_of(written(suggested))
    assert [one for one in remarks(found) if "rules" in str(one)] == []
    assert found.rules[0].name == "user"


def test_a_limit_is_what_the_spared_never_exceed_and_room_up_to_a_round_number() -> None:
    # A hundred users: number 0 sends one mail to one recipient, the last one to a hundred.
    mails = [mail(60 * number, f"user{number}@example.org", recipient_count=number + 1) for number in range(100)]
    (user,) = learned(mails, windows=(3600,), spare=Fraction(90), room=Fraction("1.1")).rules
    assert (user.windows[0].spared, user.windows[0].maximum) == (90, 100)
    assert user.outliers == ()
    (user,) = learned(mails, windows=(3600,), spare=Fraction(50), room=Fraction(1)).rules
    assert user.windows[0].maximum == 50
    assert [outlier.name for outlier in user.outliers] == [f"user{number}@example.org" for number in range(99, 49, -1)]
    assert user.outliers[0].limits == (Limit(100, 3600),)
    assert user.outliers[0].why.startswith("100 in 1h by Mon 2026-09-21 15:39; active on 1 day, usually 100 a day")
    (user,) = learned(mails, windows=(3600,), spare=Fraction(0)).rules
    assert user.windows[0].maximum == 5


TRAFFIC = st.lists(
    st.tuples(
        st.floats(0, 2000, width=32),
        st.sampled_from(("a@x.example", "b@x.example", "c@y.example", "")),
        st.integers(1, 40),
        st.booleans(),
    ),
    min_size=1,
    max_size=40,
)


@given(TRAFFIC, st.sampled_from((Fraction(0), Fraction(60), SPARE)), st.sampled_from(((), ("RCPT", "DATA"))))
@settings(max_examples=40)
def test_whatever_was_sent_what_is_suggested_refuses_none_of_it(
    traffic: list[tuple[float, str, int, bool]], spare: Fraction, stages: tuple[str, ...]
) -> None:
    mails = [
        refusal(seconds, user) if is_refused else mail(seconds, user, recipient_count=count)
        for seconds, user, count, is_refused in sorted(traffic)
    ]
    suggestion = learned(mails, windows=(7, 60, 600), spare=spare, room=Fraction(1))
    assert suggestion.suspects == ()
    result = rehearsed(written(suggestion), mails, stages=stages)
    assert (result.mails, result.recipients) == (suggestion.mails, suggestion.recipients)
    assert result.new.refused == 0
    assert result.new.unlimited == suggestion.without_subject


def test_there_is_a_bound_of_those_who_get_limits_of_their_own() -> None:
    mails = [
        mail(number, f"user{number}@example.org", recipient_count=number + 1) for number in range(2 * MOST_OVERRIDES)
    ]
    (user,) = learned(mails, windows=(60,), spare=Fraction(1)).rules
    assert user.windows[0].maximum == MOST_OVERRIDES
    assert len(user.outliers) == MOST_OVERRIDES
    assert refused(rehearsed(written(learned(mails, windows=(60,), spare=Fraction(1))), mails)) == set()


def test_mails_without_a_user_are_limited_by_sender_and_client() -> None:
    mails = [
        mail(number, "", sender=f"web{number % 3}@example.org", client_address=f"2001:db8:{number % 2}::{number + 1:x}")
        for number in range(30)
    ]
    mails.append(mail(40, "", sender="", client_address=""))
    suggestion = learned(mails)
    assert [(rule.subject.name, rule.ids, rule.mails) for rule in suggestion.rules] == [
        ("sender", 3, 30),
        ("client", 2, 30),
    ]
    assert suggestion.without_subject == 1
    assert 'match: {sasl_username: ""}' in written(suggestion)
    assert refused(rehearsed(written(suggestion), mails)) == set()
    check_page(page(suggestion))


def test_a_log_that_is_too_short_is_told() -> None:
    short = learned([mail(0), mail(3700)])
    assert short.remarks == (
        "the log is shorter than 1d: what is suggested for that may be too low",
        "in less than 3 days nobody shows a habit, so that hardly anybody can look stolen",
    )
    assert "# The log is shorter than 1d:" in written(short)
    assert "the log is shorter than 1d" in page(short)
    assert learned([mail(0), mail(4 * 86_400)]).remarks == ()


def test_what_a_limit_refused_then_counts_as_well() -> None:
    accepted = [mail(100 * number, "alice@example.org") for number in range(10)]
    tried = [refusal(3000 + 10 * number, "alice@example.org") for number in range(30)]
    (user,) = learned([*accepted, *tried], windows=(3600,)).rules
    assert user.windows[0].spared == 40


STRANGE = (
    "*@example.org", "a?b", "$staff", "/x/", "10.0.0.0/8", "a\\b'\"@example.org", "no", "#", "é@bücher.example", "x: y",
    "a\u202eb", "mail/er@x",
)  # fmt: skip


def test_strange_names_get_patterns_that_match_them_alone() -> None:
    mails = [mail(60 * at, name, recipient_count=90 + at) for at, name in enumerate(STRANGE)]
    mails += [mail(4000 + at, f"user{at}", recipient_count=1) for at in range(40)]
    mails.append(mail(5000, "b\udcffd", recipient_count=120))
    suggestion = learned(mails, windows=(3600,), spare=Fraction(50))
    text = written(suggestion)
    overrides = settings_of(text).rules[0].overrides
    assert len(overrides) == len(STRANGE)
    assert "# 1 more of a name that no configuration can hold" in text
    assert "\u202e" not in text
    text.encode()
    assert refused(rehearsed(text, mails[:-1])) == set()
    # What a pattern would match, were it taken for one, is limited as all are.
    assert refused(
        rehearsed(text, [mail(0, "bob@example.org", recipient_count=60), mail(1, "acb", recipient_count=60)])
    ) == {
        "bob@example.org",
        "acb",
    }
    check_page(page(suggestion))


def test_networks_of_clients_are_patterns_as_they_are() -> None:
    assert pattern("2001:db8::/64", is_client=True) == "2001:db8::/64"
    assert pattern("alice/bob@example.org", is_client=False) == "alice/bob@example.org"


def test_a_log_without_mails() -> None:
    suggestion = learned([])
    assert suggestion.rules == ()
    assert settings_of(written(suggestion)).rules == ()
    check_page(page(suggestion))


def test_countries_are_looked_at_where_there_is_a_file_of_them(tmp_path: Path) -> None:
    path = write_mmdb(
        tmp_path / "countries.mmdb",
        {f"198.51.{number}.0/24": code for number, code in enumerate(("DE", "BR", "VN", "IN", "ZA"))},
    )
    mails = [
        mail(86_400 * day + at, "eve@example.org", client_address="198.51.0.1") for day in range(6) for at in range(3)
    ]
    mails += [
        mail(3 * 86_400 + 3600 * at, "eve@example.org", client_address=f"198.51.{at}.1", recipient_count=30)
        for at in range(5)
    ]
    mails.sort(key=lambda one: one.time)
    suggestion = learned(mails, of=settings_of(f"geoip: {path}"))
    assert suggestion.knows_countries
    (suspect,) = suggestion.suspects
    assert suspect.reasons[1] == "from 5 countries within a day (BR, DE, IN, VN, ZA), usually from 1"
