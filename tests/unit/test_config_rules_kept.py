"""The setting ``rules`` on the wire, over a reload, and as it is shown."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit import config
from policyd_rate_limit.config import Settings
from policyd_rate_limit.config.changes import changes
from policyd_rate_limit.config.kind import Wrong
from policyd_rate_limit.config.rule_kind import RULES
from policyd_rate_limit.config.rules import RuleSettings, as_written
from policyd_rate_limit.config.wire import from_text, to_text
from policyd_rate_limit.domain.limits import Limit
from support.configuration import Load
from support.written_rules import BASE, FORMS, MAILBOX, SITUATIONS, WEB_SERVERS, rule


@pytest.mark.parametrize("text", [*SITUATIONS, BASE, *(rule(words) for words, _ in FORMS)])
def test_what_arrives_by_the_wire(load: Load, text: str) -> None:
    settings = load(text).settings
    arrived = from_text(to_text(settings.rules))
    assert arrived == settings.rules
    assert [type(one) for one in arrived] == [RuleSettings] * len(arrived)


def test_what_arrives_from_another_process(load: Load, tmp_path: Path) -> None:
    """All of them in one file, since each process takes a while."""
    forms = [rule(words).replace("mailbox:", f"form{number}:") for number, (words, _) in enumerate(FORMS)]
    text = "rules:\n" + "".join(one.removeprefix("rules:\n") for one in (*SITUATIONS, *forms))
    settings, warnings = load(text.replace("  mailbox: {key: recipient", "  of-recipient: {key: recipient"))
    assert len(settings.rules) == len(FORMS) + sum(one.count("key:") for one in SITUATIONS)
    assert config.load_apart(tmp_path / "x.yaml") == (settings, warnings)


def test_many_overrides_from_another_process(tmp_path: Path) -> None:
    overrides = "".join(f"      user{n}@example.org: {n}/1h\n" for n in range(3000))
    (tmp_path / "x.yaml").write_text(
        f"{BASE}    overrides:\n{overrides}  b: {{key: sender, limits: []}}\n"
        f"  c:\n    key: sender\n    limits: []\n    overrides:\n{overrides}"
    )
    settings, _ = config.load_apart(tmp_path / "x.yaml")
    assert settings.rules == config.load(tmp_path / "x.yaml").settings.rules
    assert [len(one.overrides) for one in settings.rules] == [3000, 0, 3000]


def test_many_overrides_are_read_in_time(load: Load) -> None:
    limits = [f"{n}/1h" for n in range(1, 100)]
    text = "".join(f"      user{n}@example.org: {limits[n % 99]}\n" for n in range(20_000))
    before = time.process_time()
    (found,) = load(f"{BASE}    overrides:\n      '*@example.net': 1/1h\n{text}").settings.rules
    assert len(found.overrides) == 20_001
    assert time.process_time() - before < 10
    assert len({id(its_limits) for _, its_limits in found.overrides}) <= 99


@pytest.mark.parametrize("text", ['{"rule": [1]}', '{"rule": 3}', '{"rule": null}'])
def test_what_is_no_rule_on_the_wire(text: str) -> None:
    with pytest.raises(ValueError):
        from_text(text)


def test_what_a_reload_changes() -> None:
    rules = (MAILBOX._replace(overrides=(("a", (Limit(1, 60),)),)), MAILBOX._replace(name="b"))
    running = Settings(rules=rules)
    assert changes(running, Settings(rules=as_written(rules))).changed == frozenset()
    for other in (
        rules[:1],
        (rules[1], rules[0]),
        (rules[0]._replace(shadow=True), rules[1]),
        (rules[0]._replace(overrides=(("a", (Limit(2, 60),)),)), rules[1]),
        (rules[0]._replace(overrides=(*rules[0].overrides, ("b", ()))), rules[1]),
    ):
        result = changes(running, Settings(rules=other))
        assert result.changed == {"rules"}
        assert result.settings.rules == other
        assert result.warnings == ()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("rules.site.key", "client_address"),
        ("rules.site.count", "recipients"),
        ("rules.site.limits", "[[50, 3600], [500, 86400]]"),
        ("rules.volume.limits", "[[10000000, 'mail'], [500000000, 86400]]"),
        ("rules.site.overrides", "{'10.0.3.80': [[5000, 86400]]}"),
        ("rules.site.overrides.10.0.3.80", "[[5000, 86400]]"),
        ("rules.site.match", "{'client_address': '10.0.3.0/24', 'sasl_username': ''}"),
        ("rules.site.match.client_address", "10.0.3.0/24"),
        ("rules.site.shadow", "False"),
        (
            "rules.volume",
            "{'key': 'client_address', 'count': 'bytes', 'limits': [[10000000, 'mail'], [500000000, 86400]],"
            " 'overrides': {}, 'match': {'client_address': '10.0.3.0/24'}, 'shadow': False}",
        ),
    ],
)
def test_rules_are_shown(load: Load, name: str, shown: str) -> None:
    assert config.show(load(WEB_SERVERS).settings, name) == shown


def test_what_is_not_said_is_not_shown(load: Load) -> None:
    assert config.show(Settings(), "rules") == "{}"
    for name in ("rules.nobody", "rules.volume.action", "rules.volume.unless", "rules.volume.key.x"):
        with pytest.raises(KeyError):
            config.show(load(WEB_SERVERS).settings, name)


@pytest.mark.parametrize("text", [*SITUATIONS, *(rule(words) for words, _ in FORMS)])
def test_what_is_shown_is_read_as_the_same(load: Load, text: str) -> None:
    rules = load(text).settings.rules
    read = Settings(rules=as_written(rules)).rules
    assert [one._replace(overrides=()) for one in read] == [one._replace(overrides=()) for one in rules]
    for one, other in zip(read, rules, strict=True):
        # Of equal patterns the first one counts.
        assert dict(one.overrides) == dict(reversed(other.overrides))


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["sender", "size", "time", "1/1h", "1M/mail", "$x", "/(/", "recipients", "bytes", "key", "a*"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=8,
)
WRITTEN = st.dictionaries(
    st.sampled_from(["key", "count", "limits", "overrides", "match", "unless", "action", "shadow", "warn", "x"]), PLAIN
)


@given(st.dictionaries(st.sampled_from(["a", "b", "default", "C"]) | st.integers(), WRITTEN | PLAIN) | PLAIN)
def test_anything_is_read_or_refused(value: object) -> None:
    try:
        read = RULES.read(value)
    except Wrong:
        return
    assert RULES.read(as_written(read)) == read
