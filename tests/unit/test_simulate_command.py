"""``simulate``: which configurations it compares, what it says of that, and its exit status."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
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
