"""``suggest``: from log files to a configuration that ``check-config`` accepts and ``simulate`` passes."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from policyd_rate_limit.cli import main
from support.organisation import Organisation, log_of
from support.strict_html import check_page


class Ended(NamedTuple):
    status: int
    output: str
    errors: str

    @property
    def told(self) -> Any:
        return json.loads(self.output)


Run = Callable[..., Ended]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    (tmp_path / "here.yaml").write_text(f"sqlite_config: {{database: {tmp_path}/db}}\n")

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["-f", str(tmp_path / "here.yaml"), *map(str, arguments)])
        assert isinstance(end.value.code, int)
        return Ended(end.value.code, *capsys.readouterr())

    return run


def test_from_log_files_to_limits_that_hold_in_the_following_week(run: Run, tmp_path: Path) -> None:
    organisation = Organisation(1500)
    lines = log_of(organisation.week()).splitlines(keepends=True)
    (tmp_path / "mail.log.1.gz").write_bytes(gzip.compress("".join(lines[:20_000]).encode()))
    (tmp_path / "mail.log").write_text("".join(lines[20_000:]))
    new, page = tmp_path / "new.yaml", tmp_path / "limits.html"
    ended = run("suggest", "-o", new, "--html", page, tmp_path / "mail.log", tmp_path / "mail.log.1.gz")
    assert (ended.status, ended.errors) == (0, "")
    first, *stolen = ended.output.splitlines()
    assert first == f"{new} written: 2 rules, learned from {len(lines) // 3} mails"
    assert {line.split()[2].rstrip(",") for line in stolen} == organisation.stolen
    check_page(page.read_text())

    checked = run("check-config", "--json", new)
    assert (checked.status, checked.told["errors"]) == (0, [])

    (tmp_path / "next.log").write_text(log_of(organisation.week(1)))
    simulated = run("simulate", "-f", new, "--against", new, "--json", tmp_path / "next.log")
    hit = {one["id"] for one in simulated.told["rules"]["user"]["ids"] if one["refused"]}
    assert {"burst@dep1.example.org", "abroad@dep1.example.org"} <= hit <= organisation.stolen
    assert simulated.told["rules"]["domain"]["refused"] == 0


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "small.log"
    path.write_text(log_of(Organisation(40).week(theft=False)))
    return path


def test_what_is_written_is_on_standard_output_unless_a_file_is_named(run: Run, log: Path, tmp_path: Path) -> None:
    ended = run("suggest", log)
    assert (ended.status, ended.errors) == (0, "")
    assert "\nrules:\n  user:\n    key: sasl_username\n" in ended.output
    told = run("suggest", "--json", "-o", tmp_path / "new.yaml", log).told
    assert told["configuration"] == (tmp_path / "new.yaml").read_text()
    assert told["log"]["smtp"] == told["mails"] == told["rules"]["user"]["mails"]


def test_a_file_that_exists_stays_unless_forced(run: Run, log: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.yaml"
    new.write_text("kept")
    ended = run("suggest", "-o", new, log)
    assert (ended.status, ended.errors) == (6, f"policyd-rate-limit: {new} exists; --force replaces it\n")
    assert new.read_text() == "kept"
    assert run("suggest", "-o", new, "--force", log).status == 0
    assert "rules:" in new.read_text()


def test_keys_windows_and_room_may_be_chosen(run: Run, log: Path) -> None:
    options = ("--window", "7d", "--window", "10m", "--key", "sasl_username", "--room", "1", "--spare", "100")
    told = run("suggest", "--json", *options, log).told
    assert list(told["rules"]) == ["user"]
    assert [window["seconds"] for window in told["rules"]["user"]["windows"]] == [600, 604_800]
    assert (told["spare"], told["room"], told["rules"]["user"]["overrides"]) == (100, 1, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--window", "5"), "5 is without a unit"),
        (("--window", "32d"), "at most 31d"),
        (("--window", "often"), "expected a period such as 1m, 1h or 1d, found 'often'"),
        (tuple(word for number in range(1, 8) for word in ("--window", f"{number}m")), "at most 6 of them, not 7"),
        (("--spare", "101"), "is not in the range"),
        (("--key", "recipient"), "is not one of"),
    ],
)
def test_wrong_options_are_told(run: Run, log: Path, options: tuple[str, ...], message: str) -> None:
    ended = run("suggest", *options, log)
    assert ended.status == 64
    assert message in ended.errors


def test_a_log_without_mails_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.log").write_text("2026-11-23T06:00:00+00:00 mx dovecot: imap-login: Login: user=<alice>\n")
    ended = run("suggest", tmp_path / "empty.log")
    assert (ended.status, ended.errors) == (1, "the log has no mails that limits could be learned from\n")
    assert ended.output.endswith("rules: {}\n")


def test_a_damaged_file_is_told_and_what_came_before_counts(run: Run, log: Path, tmp_path: Path) -> None:
    packed = gzip.compress(log.read_bytes())
    (tmp_path / "cut.gz").write_bytes(packed[: len(packed) // 2])
    ended = run("suggest", tmp_path / "cut.gz")
    assert ended.status == 0
    assert ended.errors.startswith(os.fspath(tmp_path / "cut.gz"))
    assert ended.errors.endswith("; what came before counts\n")
