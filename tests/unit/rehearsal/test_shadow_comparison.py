"""``simulate --against`` what ``shadow --json`` has written: what is read of it, and how it compares."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.errors import ConfigError
from policyd_rate_limit.maillog.mail import Mail
from policyd_rate_limit.maillog.tally import Tally
from policyd_rate_limit.rehearsal import shadow_figures
from policyd_rate_limit.rehearsal.rehearsing import rehearse
from policyd_rate_limit.rehearsal.result import DifferingId, Rehearsal
from policyd_rate_limit.rehearsal.shadow_figures import ShadowFigures, read_shadow
from policyd_rate_limit.rehearsal.stages import find_stages
from support.rehearsed import NOON, mail, refusal, settings_of

AT = int(NOON)
SHY = "rules: {shy: {key: sasl_username, limits: 1/1h, shadow: %s}}"
ALICE, BOB = "user:alice@example.org", "user:bob@example.org"


def told_id(key: str, refused: int, first: int = AT, last: int = AT + 60, limit: Any = (1, 3600)) -> dict[str, Any]:
    """One of ``ids``, as ``shadow --json`` writes it."""
    who = {"id": key.partition(":")[2], "key": f"shy|{key}"}
    return {**who, "limit": list(limit), "refused": refused, "blocks": 0, "since": first, "last": last}


def told(*ids: dict[str, Any], others: int = 0, name: str = "shy") -> dict[str, Any]:
    """All that ``shadow --json`` writes, of the hour before noon and the one after."""
    refused = sum(one["refused"] for one in ids) + others
    state = {"shadow": True, "state": "in shadow", "refused": refused, "blocks": 0}
    rule = {**state, "ids": list(ids), "other_ids": {"ids": 0, "refused": others}}
    return {"since": AT - 3600, "time": AT + 3600, "rules": {name: rule}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "shadow.json"


def figures(file: Path, value: object) -> ShadowFigures:
    file.write_text(json.dumps(value))
    found = read_shadow(file)
    assert found is not None
    return found


def against(text: str, old: ShadowFigures, *mails: Mail) -> Rehearsal:
    new = settings_of(text)
    return rehearse(new, old, find_stages(["DATA"], [new], None), mails, Tally())


MAILS = [mail(at) for at in (0, 10, 20)] + [mail(at, "bob@example.org") for at in (30, 40)]


@pytest.mark.parametrize("shadow", ["true", "false"])
def test_what_shadow_would_have_refused_is_what_is_refused(file: Path, shadow: str) -> None:
    old = figures(file, told(told_id(ALICE, 2, AT + 10, AT + 20), told_id(BOB, 1, AT + 40, AT + 40)))
    found = against(SHY % shadow, old, *MAILS)
    assert (found.newly_hit, found.no_longer_hit, found.incomparable, found.old) == ({}, {}, 0, None)
    assert found.shadow is not None
    (rule,) = found.shadow.rules
    assert (rule.name, rule.told, rule.rehearsed, rule.differing) == ("shy", 3, 3, ())
    assert (found.shadow.began, found.shadow.ended) == (NOON, NOON + 40)


def test_who_is_refused_on_one_side_alone_and_how_often_others_are(file: Path) -> None:
    old = figures(file, told(told_id(ALICE, 5, AT + 10, AT + 20), told_id("user:carol", 2, AT, AT + 30)))
    found = against(SHY % "false", old, *MAILS)
    assert {name: [one.key for one in ids] for name, ids in found.newly_hit.items()} == {"shy": [BOB]}
    ((carol,),) = found.no_longer_hit.values()
    assert (carol.key, carol.counts.refused, carol.limit, carol.since) == ("user:carol", 2, Limit(1, 3600), AT)
    assert found.shadow is not None
    assert found.shadow.rules[0].differing == (
        DifferingId(ALICE, 5, 2),
        DifferingId("user:carol", 2, 0),
        DifferingId(BOB, 0, 1),
    )


def test_mails_and_ids_of_other_times_are_not_compared(file: Path) -> None:
    value = told(told_id(ALICE, 2, AT + 10, AT + 20), told_id("user:old", 4, AT - 3600, AT - 1800))
    value["rules"]["shy"]["ids"].append(told_id("user:partly", 4, AT - 3600, AT + 5))
    later = [mail(at, "bob@example.org") for at in (3700, 3710)]
    found = against(SHY % "false", figures(file, value), *MAILS[:3], *later)
    assert found.newly_hit == {}  # bob comes after the figures were made
    assert [one.key for one in found.no_longer_hit["shy"]] == ["user:partly"]
    assert found.shadow is not None
    (rule,) = found.shadow.rules
    assert (rule.outside, rule.differing, found.incomparable) == (1, (), 1)


@pytest.mark.parametrize("edge", [-3600, 3600])
@pytest.mark.parametrize("apart", [-2, 0, 2])
def test_what_is_at_an_edge_of_that_time_may_be_of_another(file: Path, edge: int, apart: int) -> None:
    """The clocks of mail servers and database are not quite the same, and hits take a moment to the database."""
    at = edge + apart
    for old in (told(), told(told_id(ALICE, 1, AT + at, AT + at))):
        for mails in (
            [mail(-7200, "bob@example.org"), mail(at - 20), mail(at), mail(7200, "bob@example.org")],
            [mail(-7200, "bob@example.org"), mail(7200, "bob@example.org")],
        ):
            found = against(SHY % "false", figures(file, old), *mails)
            assert (found.newly_hit, found.no_longer_hit) == ({}, {})


def test_limits_look_at_what_came_before_the_time_that_is_compared(file: Path) -> None:
    value = told(told_id(ALICE, 1, AT - 3595, AT - 3595))
    found = against(SHY % "true", figures(file, value), mail(-3610), mail(-3605), mail(-3595))
    assert found.shadow is not None
    assert (found.newly_hit, found.shadow.rules[0].rehearsed, found.shadow.rules[0].differing) == ({}, 1, ())


def test_who_may_be_among_those_who_are_not_named_is_not_new(file: Path) -> None:
    found = against(SHY % "false", figures(file, told(told_id(ALICE, 2, AT + 10, AT + 20), others=1)), *MAILS)
    assert (found.newly_hit, found.incomparable) == ({}, 1)
    (remark,) = found.remarks
    assert "does not name all ids of shy, and 1 id refused by it here may be among the others" in remark


def test_a_rule_of_which_shadow_does_not_tell_is_compared_with_the_past(file: Path) -> None:
    old = figures(file, told(name="gone"))
    found = against("rules: {client: {key: sasl_username, limits: 1/1h}}", old, mail(0), refusal(5), *MAILS[3:])
    assert {name: [one.key for one in ids] for name, ids in found.newly_hit.items()} == {"client": [BOB]}
    assert f"{file} tells of a rule gone, which there is not here: it is not compared" in found.remarks


@pytest.mark.parametrize("seconds", [-7200, 7200])
def test_a_log_of_another_time_cannot_be_compared(file: Path, seconds: int) -> None:
    found = against(SHY % "false", figures(file, told(told_id(ALICE, 2))), mail(seconds), mail(seconds + 1))
    assert found.shadow is not None
    assert (found.shadow.began, found.shadow.rules, found.newly_hit) == (None, (), {})


def test_limits_of_a_rule_are_added_up(file: Path) -> None:
    found = figures(file, told(told_id(ALICE, 2, AT + 5, AT + 9), told_id(ALICE, 3, AT, AT + 7, (9, 86_400))))
    (alice,) = found.rules["shy"].ids.values()
    assert alice == (ALICE, 5, AT, AT + 9, Limit(9, 86_400))


def test_a_configuration_is_no_figures(tmp_path: Path) -> None:
    for name, text in (
        ("old.yaml", "limits: 3/1h\n"),
        ("old.yml", '{"limits": "3/1h"}'),
        ("broken.yaml", "{limits: 3/1h}"),
        ("old.conf", '{"since": 1, "time": 2, "rules": {}}'),
    ):
        (tmp_path / name).write_text(text)
        assert read_shadow(tmp_path / name) is None
    assert read_shadow(tmp_path / "missing.yaml") is None


def test_they_are_known_by_their_content_whatever_the_file_is_called(tmp_path: Path) -> None:
    for name in ("shadow.yaml", "shadow", "shadow.json"):
        assert figures(tmp_path / name, told()).until == AT + 3600


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ((), [], "--json` writes: an object with since, time and rules, found []"),
        ((), {"id": "alice", "time": 5, "keys": []}, "found JSON with 'id', 'time', 'keys'"),
        (("since",), -1, "since: expected a whole number from 0 on, found -1"),
        (("time",), 5, f"time: expected a whole number from {AT - 3600} on, found 5"),
        (("rules",), [], "rules: expected an object of rules by name, found []"),
        (("rules", "shy"), 7, "rules.shy: expected an object, found 7"),
        (("rules", "shy", "refused"), True, "rules.shy.refused: expected a whole number from 0 on, found True"),
        (
            ("rules", "shy", "other_ids"),
            None,
            "rules.shy.other_ids: expected an object with ids and refused, found None",
        ),
        (("rules", "shy", "other_ids", "ids"), "x", "rules.shy.other_ids.ids: expected a whole number from 0 on"),
        (("rules", "shy", "ids"), {}, "rules.shy.ids: expected a list of ids, found {}"),
        (("rules", "shy", "ids", 0), "alice", "rules.shy.ids[0]: expected an object, found 'alice'"),
        (("rules", "shy", "ids", 0, "key"), None, "rules.shy.ids[0].key: expected text such as 'person|user:alice'"),
        (
            ("rules", "shy", "ids", 0, "limit"),
            [1],
            "rules.shy.ids[0].limit: expected a pair such as [10, 60], found [1]",
        ),
        (("rules", "shy", "ids", 0, "limit"), [1, "h"], "rules.shy.ids[0].limit: expected a pair"),
        (
            ("rules", "shy", "ids", 0, "last"),
            3,
            f"rules.shy.ids[0].last: expected a whole number from {AT} on, found 3",
        ),
        (("rules", "shy", "ids", 0, "refused"), 10**30, "rules.shy.ids[0].refused: expected a whole number"),
    ],
)
def test_what_is_wrong_with_them_is_said_where(file: Path, place: tuple[Any, ...], value: Any, said: str) -> None:
    whole: Any = copy.deepcopy(told(told_id(ALICE, 2)))
    if place:
        inner = whole
        for step in place[:-1]:
            inner = inner[step]
        inner[place[-1]] = value
    else:
        whole = value
    file.write_text(json.dumps(whole))
    with pytest.raises(ConfigError) as error:
        read_shadow(file)
    assert str(error.value).startswith(f"{file}: ")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            b"limits: 3/1h\n",
            ":1: expected what `policyd-rate-limit shadow --json` writes, or a configuration, whose name",
        ),
        (b'{"since": 1,\n "time": }', ":2: expected what"),
        (b'{"since": "\xff"}', "found the byte 0xff, which is no UTF-8"),
        (b"[" * 100_000, "or values too deep"),
        (b'{"since": ' + b"9" * 5000 + b"}", "JSON with numbers too long"),
        (b"", "found no JSON"),
    ],
)
def test_what_is_no_json_is_said(file: Path, data: bytes, said: str) -> None:
    file.write_bytes(data)
    with pytest.raises(ConfigError) as error:
        read_shadow(file)
    assert said in str(error.value)


def test_what_cannot_be_read_or_is_too_large_is_said(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="expected a file that can be read, found No such file or directory"):
        read_shadow(file)
    with pytest.raises(ConfigError, match="expected a file that can be read, found Is a directory"):
        read_shadow(file.parent)
    monkeypatch.setattr(shadow_figures, "MOST_BYTES", 10)
    file.write_text(json.dumps(told()))
    with pytest.raises(ConfigError, match="expected at most 10 bytes, found more"):
        read_shadow(file)
