"""``simulate``: which configurations it compares, what it says of that, and its exit status."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from policyd_rate_limit import config
from policyd_rate_limit.cli import main


class Ended(NamedTuple):
    status: int
    output: str
    errors: str

    @property
    def told(self) -> Any:
        return json.loads(self.output)


Run = Callable[..., Ended]


def mail(date: str, queue_id: str, recipients: int) -> str:
    return "".join(
        f"{date}+00:00 mx postfix/{line}\n"
        for line in (
            f"submission/smtpd[10]: {queue_id}: client=pc[198.51.100.7], sasl_method=PLAIN, sasl_username=alice",
            f"cleanup[11]: {queue_id}: message-id=<{queue_id}@pc>",
            f"qmgr[12]: {queue_id}: from=<alice@example.org>, size=900, nrcpt={recipients} (queue active)",
        )
    )


@pytest.fixture(autouse=True)
def utc() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(config, "find", lambda: None)  # this host may have one in force
    (tmp_path / "mail.log").write_text(mail("2026-11-26T23:50:00", "A1", 5) + mail("2026-11-27T00:10:00", "A2", 5))
    (tmp_path / "wide.yaml").write_text("limits: [10/1h]\n")
    (tmp_path / "narrow.yaml").write_text("limits: [9/1h]\n")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["simulate", *arguments, "mail.log"])
        assert isinstance(end.value.code, int)
        return Ended(end.value.code, *capsys.readouterr())

    return run


def test_it_ends_with_1_where_somebody_is_newly_refused(run: Run) -> None:
    assert run("-f", "wide.yaml").status == 0
    assert run("-f", "narrow.yaml").status == 1
    assert run("-f", "narrow.yaml", "--against", "wide.yaml").status == 1
    assert run("-f", "wide.yaml", "--against", "narrow.yaml").status == 0


def test_compared_with_itself_nothing_changes(run: Run) -> None:
    ended = run("-f", "narrow.yaml", "--against", "narrow.yaml", "--json")
    told = ended.told
    assert (ended.status, told["compared_with"]) == (0, "configuration")
    assert told["newly_hit"] == told["no_longer_hit"] == {}
    assert told["refused"] == told["before"]["refused"] == told["refused_before"] == 1


def test_the_one_in_force_is_compared_with_the_past(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "find", lambda: Path("narrow.yaml"))
    for arguments in ((), ("-f", "narrow.yaml")):
        ended = run(*arguments)
        assert (ended.status, "in the past rate limits refused 0 mails" in ended.output) == (1, True)


def test_every_date_has_its_day(run: Run) -> None:
    lines = run("-f", "narrow.yaml").output.splitlines()
    assert lines[0].startswith("2 mails to 10 recipients, from 2026-11-26 23:50:00 to 2026-11-27 00:10:00; Postfix is")
    (alice,) = (line.split() for line in lines if line.startswith("user:alice"))
    assert alice == [
        *("user:alice", "2", "1", "5", "2026-11-27", "00:10:00", "9/1h"), *("40", "min", "2026-11-27", "00:50:00")
    ]  # fmt: skip


def test_a_page_that_cannot_be_written_is_named(run: Run, tmp_path: Path) -> None:
    ended = run("-f", "wide.yaml", "--html", "missing/page.html")
    assert (ended.status, ended.errors) == (
        6,
        "policyd-rate-limit: cannot write missing/page.html: No such file or directory\n",
    )


def told_by_shadow(file: Path, key: str, begin: str, at: str, end: str) -> None:
    """As ``shadow --json`` writes it: one id that a rule in shadow would have refused once."""
    since, when, until = (int(datetime.fromisoformat(date + "+00:00").timestamp()) for date in (begin, at, end))
    one = {"id": key.partition(":")[2], "key": key, "limit": [9, 3600], "refused": 1, "blocks": 0}
    ids = [{**one, "since": when, "last": when}]
    rule = {"refused": 1, "blocks": 0, "ids": ids, "other_ids": {"ids": 0, "refused": 0}}
    file.write_text(json.dumps({"since": since, "time": until, "rules": {"default": rule}}))


def test_it_is_compared_with_what_shadow_tells(run: Run, tmp_path: Path) -> None:
    told_by_shadow(
        tmp_path / "shadow.json", "user:alice", "2026-11-26T23:00:00", "2026-11-27T00:10:00", "2026-11-27T00:10:30"
    )
    ended = run("-f", "narrow.yaml", "--against", "shadow.json", "--html", "page.html", "--json")
    assert (ended.status, ended.told["compared_with"], ended.told["against"]) == (0, "shadow", "shadow.json")
    assert (ended.told["newly_hit"], ended.told["no_longer_hit"]) == ({}, {})
    shadow = ended.told["shadow"]
    assert (shadow["since_time"], shadow["until_time"]) == ("2026-11-26T23:00:00Z", "2026-11-27T00:10:30Z")
    alike = {"shadow": 1, "rehearsed": 1, "differing": [], "differing_ids": 0, "unnamed_ids": 0, "outside_ids": 0}
    assert shadow["rules"] == {"default": alike}
    assert "compared with what rules in shadow would have refused from Thu 2026-11-26 23:00 to" in " ".join(
        (tmp_path / "page.html").read_text().split()
    )


def test_people_are_told_how_it_differs_from_shadow(run: Run, tmp_path: Path) -> None:
    told_by_shadow(
        tmp_path / "shadow.json", "user:bob", "2026-11-26T23:00:00", "2026-11-27T00:00:00", "2026-11-27T00:10:30"
    )
    ended = run("-f", "narrow.yaml", "--against", "shadow.json")
    lines = ended.output.splitlines()
    assert ended.status == 1
    assert (
        "compared with what rules in shadow would have refused, as shadow.json tells, from 2026-11-26 23:00:00 to"
        " 2026-11-27 00:10:30" in lines
    )
    at = lines.index("requests refused from 2026-11-26 23:50:00 to 2026-11-27 00:10:00, by shadow and here")
    assert [line.split() for line in lines[at + 1 : at + 8] if line] == [
        ["RULE", "SHADOW", "HERE", "IDS", "THAT", "DIFFER"],
        ["default", "1", "1", "2"],
        ["default:", "who", "differs"],
        ["ID", "SHADOW", "HERE"],
        ["user:alice", "0", "1"],
        ["user:bob", "1", "0"],
    ]
    assert "refused now, and not before by default: user:alice (1)" in lines
    assert "no longer refused by default: user:bob (1)" in lines


def test_where_the_log_is_of_another_time_than_shadow_tells_of_it_ends_with_1(run: Run, tmp_path: Path) -> None:
    told_by_shadow(
        tmp_path / "shadow.json", "user:bob", "2026-11-28T23:00:00", "2026-11-29T00:00:00", "2026-11-29T00:10:30"
    )
    ended = run("-f", "wide.yaml", "--against", "shadow.json", "--html", "page.html")
    assert (ended.status, "nothing is compared with it" in ended.output) == (1, True)
    assert "Nothing could be compared" in (tmp_path / "page.html").read_text()


def test_json_of_something_else_is_no_figures_of_shadow(run: Run, tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"daemon": {}, "store": {}}')
    ended = run("-f", "wide.yaml", "--against", "status.json")
    assert ended.status == 5
    assert ended.errors == (
        "policyd-rate-limit: status.json: expected what `policyd-rate-limit shadow --json` writes: an object with"
        " since, time and rules, found JSON with 'daemon', 'store'\n"
    )


def test_the_past_may_be_asked_for_whatever_is_in_force(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "find", lambda: Path("narrow.yaml"))
    ended = run("-f", "wide.yaml", "--against", "past")
    assert (ended.status, "compared with what was refused in the past, since --against says past" in ended.output) == (
        *(0, True),
    )


def test_where_the_one_in_force_cannot_be_read_it_says_how_to_do_without(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.yaml").write_text("limits: many\n")
    monkeypatch.setattr(config, "find", lambda: Path("broken.yaml"))
    ended = run("-f", "wide.yaml")
    problem, hint = ended.errors.splitlines()
    assert (ended.status, problem.startswith("policyd-rate-limit: broken.yaml:1: limits: expected ")) == (5, True)
    assert hint == (
        "policyd-rate-limit: broken.yaml is the configuration in force, with which wide.yaml is compared: --against"
        " names another one; --against past compares with what was refused in the past"
    )
    assert run("-f", "wide.yaml", "--against", "past").status == 0
    assert run("-f", "broken.yaml").errors.count("\n") == 1  # it is what was asked about


@pytest.mark.parametrize(("number", "words"), [(1, "1 mail about which Postfix"), (2, "2 mails about which Postfix")])
def test_what_was_in_the_log_is_counted_in_words(run: Run, tmp_path: Path, number: int, words: str) -> None:
    local = "2026-11-27T00:10:00+00:00 mx postfix/{}\n"
    with (tmp_path / "mail.log").open("a") as log:
        for at in range(number):
            log.write(local.format(f"pickup[9]: B{at}: uid=33 from=<www-data>"))
            log.write(local.format(f"cleanup[9]: B{at}: message-id=<B{at}@mx>"))
            log.write(local.format(f"qmgr[9]: B{at}: from=<www-data@mx>, size=9, nrcpt=1 (queue active)"))
    said = run("-f", "narrow.yaml").output
    assert words in said
    assert "narrow.yaml refuses 1 mail (5 recipients)" in said
    assert "1 mail would be refused that went before, 0 mails would go that were refused before" in said
