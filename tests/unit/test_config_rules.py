"""The setting ``rules``: what is read of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policyd_rate_limit.config import Settings
from policyd_rate_limit.config.rules import RuleSettings, names_in
from policyd_rate_limit.domain.limits import PER_MAIL, Limit
from support.configuration import USUAL, Load, problems
from support.written_rules import BASE, DAY, FORMS, HOUR, INBOUND, MAILBOX, SITUATIONS, WEB_SERVERS, rule


@pytest.mark.parametrize("text", SITUATIONS)
def test_situations_of_administrators(load: Load, text: str) -> None:
    settings, warnings = load(text)
    assert warnings == ()
    assert len(settings.rules) == text.count("key:")
    assert settings.limits == ()


def test_all_of_a_rule(load: Load) -> None:
    site, volume = load(WEB_SERVERS).settings.rules
    assert site == RuleSettings(
        name="site",
        key="client_address",
        unit="recipients",
        limits=(Limit(50, HOUR), Limit(500, DAY)),
        overrides=(("10.0.3.80", (Limit(5000, DAY),)),),
        match=((("client_address", ("10.0.3.0/24",)), ("sasl_username", ("",))),),
        unless=(),
        action="450 4.7.1 {key}: {used} of {maximum} in {period}, next in {free_in}",
        shadow=False,
    )
    assert volume.limits == (Limit(10_000_000, PER_MAIL), Limit(500_000_000, DAY))
    assert load(INBOUND).settings.rules[0].unless == ((("client_address", ("192.0.2.0/24", "2001:db8::/32")),),)
    assert load(INBOUND).settings.rules[1].shadow is True


@pytest.mark.parametrize(("words", "changed"), FORMS)
def test_forms_in_yaml(load: Load, words: str, changed: dict[str, Any]) -> None:
    assert load(rule(words)).settings.rules == (MAILBOX._replace(**changed),)


@pytest.mark.parametrize(
    ("limits", "read"),
    [
        ("100/1h", [(100, HOUR)]),
        ("[100/1h]", [(100, HOUR)]),
        ("[100/1h, 50/mail]", [(50, PER_MAIL), (100, HOUR)]),
        ("[100, 60]", [(100, 60)]),
        ("[[100, 60], [150, 1d], [3, mail]]", [(3, PER_MAIL), (100, 60), (150, DAY)]),
        ("50/mail", [(50, PER_MAIL)]),
        ("[50, mail]", [(50, PER_MAIL)]),
        ("[]", []),
    ],
)
def test_limits(load: Load, limits: str, read: list[tuple[int, int]]) -> None:
    (found,) = load(f"rules:\n  x: {{key: sender, limits: {limits}}}\n").settings.rules
    assert list(found.limits) == read


@pytest.mark.parametrize(
    ("limits", "read"),
    [
        ("1k/1h", (1000, HOUR)),
        ("2M/1h", (2_000_000, HOUR)),
        ("3G/1d", (3_000_000_000, DAY)),
        ("1Ki/1h", (1024, HOUR)),
        ("1Mi/mail", (1 << 20, PER_MAIL)),
        ("[2Gi, 1d]", (2 << 30, DAY)),
        ("500/1h", (500, HOUR)),
    ],
)
def test_limits_of_bytes(load: Load, limits: str, read: tuple[int, int]) -> None:
    (found,) = load(f"rules:\n  x: {{key: sender, count: bytes, limits: {limits}}}\n").settings.rules
    assert found.limits == (read,)


@pytest.mark.parametrize(
    "key",
    [
        "sasl_username",
        "sasl_username + client_address/24/56",
        "sasl_username|sender|client_address",
        "sasl_domain",
        "recipient_domain",
        "sender|server",
    ],
)
def test_keys(load: Load, key: str) -> None:
    (found,) = load(f"rules:\n  x: {{key: {key}, limits: 1/1h}}\n").settings.rules
    assert found.key == key


def test_numbers_among_patterns_are_as_they_are_written(load: Load) -> None:
    """To YAML 1.1 these are 83, 3.1, 26 and a date."""
    (found,) = load(
        rule("match: {sasl_username: [0123, 3.10, 0x1a, 2026-01-02, 1_0]}\nunless: {size: 007}")
    ).settings.rules
    assert found.match == ((("sasl_username", ("0123", "3.10", "0x1a", "2026-01-02", "1_0")),),)
    assert found.unless == ((("size", ("007",)),),)


def test_merge_keys_and_keys_given_twice(load: Load, tmp_path: Path) -> None:
    text = """\
rules:
  a: &a
    key: sender
    limits: 1/1h
    overrides: &few {x@example.org: 2/1h}
  b:
    <<: *a
    limits: 3/1h
    overrides:
      <<: *few
      y@example.org: 4/1h
      y@example.org: 5/1h
  a:
    <<: *a
    shadow: true
"""
    settings, warnings = load(text)
    assert [(one.name, one.limits, one.shadow) for one in settings.rules] == [
        ("a", (Limit(1, HOUR),), True),
        ("b", (Limit(3, HOUR),), False),
    ]
    assert [name for name, _ in settings.rules[1].overrides] == ["x@example.org", "y@example.org"]
    assert settings.rules[1].overrides[1][1] == (Limit(5, HOUR),)
    assert warnings == (
        f"{tmp_path}/x.yaml:12: a key that is given before; this one counts",
        f"{tmp_path}/x.yaml:13: a key that is given before; this one counts",
    )


@pytest.mark.parametrize("text", ["", "rules:\n", "rules: {}\n"])
def test_no_rules(load: Load, text: str) -> None:
    settings, warnings = load(text)
    assert (settings.rules, settings.limits, warnings) == ((), USUAL, ())
    assert Settings().rules == ()


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("", ()),
        ("limits: [[10, 60], [150, 86400]]\n", USUAL),
        ("limits: [[1, 60]]\n", (Limit(1, 60),)),
        ("limits_by_id: {alice: [[1, 60]]}\n", USUAL),
        ("limits_by_id:\n", ()),
        ("sql_limits_by_id: SELECT l FROM t WHERE i = ?\n", USUAL),
        ("limit_by_sender: true\n", ()),
    ],
)
def test_the_rule_default_beside_others(load: Load, text: str, limits: object) -> None:
    assert load(BASE + text).settings.limits == limits


GEOIP = "geoip: /var/lib/GeoIP/dbip-country-lite.mmdb\n"


@pytest.mark.parametrize(
    "words",
    [
        "key: country",
        "key: sasl_username+country",
        "key: country|server",
        "key: sasl_username, match: {country: [de, AT, 'NO', '']}",
        "key: sasl_username, match: [{sender: a}, {country: '?E'}]",
        "key: sasl_username, unless: {country: /^(DE|AT)$/}",
        "key: sasl_username, action: '450 4.7.1 {key} sends from {country}'",
    ],
)
def test_who_names_a_country_needs_a_file_of_them(load: Load, words: str) -> None:
    rules = f"rules:\n  near: {{key: sender, limits: 1/1h}}\n  far: {{limits: 1/1h, {words}}}\n"
    assert load(GEOIP + rules).settings.geoip == "/var/lib/GeoIP/dbip-country-lite.mmdb"
    (problem,) = problems(load, rules)
    wanted = "geoip, the path of a file that says which country an address is in, since this rule names country"
    assert (problem.line, problem.statement) == (3, f"rules.far: expected {wanted}, found none")


def test_a_file_of_countries_that_nobody_asks_is_not_missed(load: Load) -> None:
    assert load(BASE).settings.geoip is None
    assert load("rules:\n  x: {key: sasl_username, limits: 1/1h, action: 450 no country}\n").settings.geoip is None


def test_words_that_are_attributes_and_tables_that_are_none() -> None:
    rule = MAILBOX._replace(key="$country(sasl_domain)+sender", action="450 {recipient} {key}")
    assert names_in(rule) >= {"sasl_domain", "sender", "recipient"}
    assert "country" not in names_in(rule)
    rule = MAILBOX._replace(match=((("$at-home(country)", ("x",)),), (("size", ("7",)),)))
    assert names_in(rule) >= {"country", "size", "sasl_username"}
