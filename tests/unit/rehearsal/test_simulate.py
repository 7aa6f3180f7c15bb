"""``simulate``: which configurations it compares, how it ends, what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from policyd_rate_limit.cli import main

LINES = """\
Nov 28 12:00:01 mx postfix/smtpd[1]: connect from c.example[192.0.2.1]
Nov 28 12:00:01 mx postfix/smtpd[1]: A{at}: client=c.example[192.0.2.1], sasl_method=PLAIN, sasl_username={user}
Nov 28 12:00:01 mx postfix/cleanup[2]: A{at}: message-id=<{at}@c.example>
Nov 28 12:00:02 mx postfix/qmgr[3]: A{at}: from=<{user}@example.org>, size=400, nrcpt=1 (queue active)
"""


class Simulated:
    """Runs ``simulate`` on a log of four mails of alice and two of bob."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self._capsys = capsys
        mails = "".join(LINES.format(at=f"{at:05X}", user="bob" if at > 3 else "alice") for at in range(6))
        self.log = self.write("mail.log", mails)

    def write(self, name: str, text: str) -> str:
        path = self.directory / name
        path.write_text(text)
        return str(path)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert isinstance(ended.value.code, int)
        out, err = self._capsys.readouterr()
        return ended.value.code, out, err

    def json(self, *arguments: str) -> tuple[int, Any]:
        status, out, _ = self.run(*arguments, "--json", "--stage", "DATA", self.log)
        return status, json.loads(out)


@pytest.fixture
def simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Simulated:
    (tmp_path / ".config").mkdir()
    own = tmp_path / ".config" / "policyd-rate-limit.yaml"
    monkeypatch.setattr("policyd_rate_limit.config.finding.search_path", lambda: (own,))  # /etc is the machine's
    return Simulated(tmp_path, capsys)


@pytest.mark.parametrize("is_before", [True, False])
def test_the_file_may_be_named_before_the_command_and_behind_it(simulated: Simulated, is_before: bool) -> None:
    new = simulated.write("new.yaml", "limits: 3/1h")
    words = ("-f", new, "simulate") if is_before else ("simulate", "-f", new)
    status, found = simulated.json(*words)
    assert (status, found["file"], found["compared_with"]) == (1, new, "past")
    rule = found["rules"]["default"]
    assert {name: rule[name] for name in ("mails", "refused", "held", "warned", "refused_recipients")} == {
        "mails": 6,
        "refused": 1,
        "held": 0,
        "warned": 0,
        "refused_recipients": 1,
    }
    (alice,) = rule["ids"]
    assert (alice["id"], alice["key"], alice["limit"], alice["mails"]) == ("alice", "user:alice", [3, 3600], 4)
    assert alice["free_at"] == alice["since"] + alice["longest_wait"]
    assert alice["since_time"].endswith(":02Z")


def test_it_is_compared_with_the_configuration_in_force(simulated: Simulated) -> None:
    simulated.write(".config/policyd-rate-limit.yaml", "limits: 3/1h")
    new = simulated.write("new.yaml", "limits: 1/1h")
    status, found = simulated.json("simulate", "-f", new)
    assert (status, found["compared_with"], found["before"]["refused"]) == (1, "configuration", 1)
    assert {rule: [one["id"] for one in ids] for rule, ids in found["newly_hit"].items()} == {"default": ["bob"]}
    wider = simulated.write("wider.yaml", "limits: 9/1h")
    status, found = simulated.json("simulate", "-f", wider)
    assert status == 0
    assert [one["key"] for one in found["no_longer_hit"]["default"]] == ["user:alice"]


def test_another_one_may_be_named_to_compare_it_with(simulated: Simulated) -> None:
    simulated.write(".config/policyd-rate-limit.yaml", "limits: 9/1h")
    new, old = (simulated.write(f"{name}.yaml", "limits: 3/1h") for name in ("new", "old"))
    status, found = simulated.json("simulate", "-f", new, "--against", old)
    assert (status, found["against"], found["newly_hit"]) == (0, old, {})


def test_the_same_file_is_compared_with_the_past_which_is_said(simulated: Simulated) -> None:
    simulated.write(".config/policyd-rate-limit.yaml", "limits: 9/1h")
    for words in ((), ("-f", str(simulated.directory / ".config/policyd-rate-limit.yaml"))):
        status, out, _ = simulated.run("simulate", *words, simulated.log)
        assert status == 0
        assert "compared with what was refused in the past, since " in out


def test_turning_shadow_off_newly_hits_who_was_only_told_of(simulated: Simulated) -> None:
    rule = "rules: {person: {key: sasl_username, limits: 3/1h%s}}"
    new, old = simulated.write("new.yaml", rule % ""), simulated.write("old.yaml", rule % ", shadow: true")
    status, found = simulated.json("simulate", "-f", new, "--against", old)
    assert status == 1
    assert [one["id"] for one in found["newly_hit"]["person"]] == ["alice"]
    assert found["before"]["rules"]["person"]["refused"] == 1
    assert found["before"]["refused"] == 0
    assert simulated.json("simulate", "-f", old, "--against", new)[0] == 0


def test_what_no_log_tells_is_said_by_rule(simulated: Simulated) -> None:
    rules = "rules: {inbound: {key: recipient, match: {policy_context: mx}, limits: 3/1h}}"
    _, found = simulated.json("simulate", "-f", simulated.write("new.yaml", rules))
    assert found["cannot_be_rehearsed"]["inbound"] == [
        "it counts at RCPT alone, where Postfix is not taken to ask: it never applies"
    ]
    status, out, _ = simulated.run("simulate", "-f", str(simulated.directory / "new.yaml"), simulated.log)
    assert status == 0
    assert "inbound: Postfix does not log policy_context" in out


def test_people_are_told_whom_it_hits_since_when_and_for_how_long(simulated: Simulated) -> None:
    new = simulated.write("new.yaml", "limits: 3/1h")
    status, out, _ = simulated.run("simulate", "-f", new, "--stage", "data", simulated.log)
    assert status == 1
    assert f"{new} refuses 1 mail (1 recipient)" in out
    assert "refused now, and not before by default: user:alice (1)" in out
    assert "12:00:01" in out


def test_a_log_without_mails_is_no_error(simulated: Simulated) -> None:
    empty = simulated.write("empty.log", "garbage\n")
    status, out, _ = simulated.run("-f", simulated.write("new.yaml", "limits: 3/1h"), "simulate", empty)
    assert status == 0
    assert "the log tells of no mail about which Postfix asks a policy server" in out
    assert "read 1 line: 1 not in any form of a mail log" in out


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--zone", "Europe/Nowhere"), 64, "expected a time zone that this host knows"),
        (("--against", "missing.yaml"), 5, "missing.yaml"),
        (("nowhere.log",), 6, "nowhere.log"),
    ],
)
def test_what_is_wrong_is_told(simulated: Simulated, words: tuple[str, ...], status: int, said: str) -> None:
    new = simulated.write("new.yaml", "limits: 3/1h")
    ended, _, err = simulated.run("simulate", "-f", new, simulated.log, *words)
    assert (ended, said in err) == (status, True), err


def test_a_page_is_written(simulated: Simulated) -> None:
    page = simulated.directory / "page.html"
    new = simulated.write("new.yaml", "limits: 3/1h")
    assert simulated.run("simulate", "-f", new, "--html", str(page), simulated.log)[0] == 1
    assert "alice" in page.read_text()
