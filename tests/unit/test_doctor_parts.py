"""What ``doctor`` makes of what it reads."""

from __future__ import annotations

import ast
import contextlib
import errno
import grp
import os
import pwd
import re
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

import policyd_rate_limit.doctor
from policyd_rate_limit.backends.contract import least_difference
from policyd_rate_limit.config import Settings
from policyd_rate_limit.doctor import asked, clock, countries, settings, tables
from policyd_rate_limit.doctor.child import run_as
from policyd_rate_limit.doctor.finding import CHECKS
from policyd_rate_limit.doctor.hooks import Hooks
from policyd_rate_limit.doctor.whom import charges_others, charges_users
from policyd_rate_limit.postfix.postconf import Postfix
from support.mmdb import BUILT, write_mmdb

ROOT = Path(__file__).parents[2]

USERS: dict[str, Any] = {"key": "sasl_username", "limits": "1/1h"}
"""A rule for users."""


@pytest.mark.parametrize(
    ("error", "severity"), [(None, None), (1_500, "ok"), (15_999_999, "ok"), (clock.LARGEST_ERROR, "warning")]
)
def test_the_clock(error: int | None, severity: str | None) -> None:
    assert [finding.severity for finding in clock.examine(error)] == ([severity] if severity else [])


def test_the_kernel_tells_how_wrong_the_clock_may_be() -> None:
    error = clock.estimated_error()
    assert error is not None
    assert 0 <= error <= clock.LARGEST_ERROR


@pytest.mark.filterwarnings(
    "ignore:.*fork:DeprecationWarning"
)  # the tests' process may have threads, the command has none
def test_what_a_child_does_and_how_it_fails(tmp_path: Path) -> None:
    assert run_as(None, lambda: [os.getpid(), "é"], 10)[1] == "é"
    assert run_as(None, os.getpid, 10) != os.getpid()
    assert run_as(None, os.getcwd, 10, directory=tmp_path) == str(tmp_path)
    with pytest.raises(FileNotFoundError) as missing:
        run_as(None, (tmp_path / "none").stat, 10)
    assert missing.value.errno == errno.ENOENT
    with pytest.raises(ValueError, match="because"):
        run_as(None, lambda: int("because"), 10)
    with pytest.raises(ValueError, match="it said nothing"):
        run_as(None, lambda: os._exit(1), 10)
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        run_as(None, lambda: time.sleep(60), 0.1)
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    ("told", "took", "expected"),
    [
        (1000.0, 0.0, 0.0),
        (1100.5, 0.0, 100.5),
        (899.5, 0.0, -100.5),
        # A server that takes a minute for its answer may have looked at its clock at any time of it.
        (1000.0, 60.0, 0.0),
        (1060.0, 60.0, 0.0),
        (1100.5, 60.0, 40.5),
        (899.5, 60.0, -100.5),
    ],
)
def test_how_much_two_clocks_differ(told: float, took: float, expected: float) -> None:
    assert least_difference(told, 1000.0, 1000.0 + took) == expected


def test_every_check_is_documented() -> None:
    made: set[str] = set()
    for path in Path(policyd_rate_limit.doctor.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("error", "warning", "note", "make")
            ):
                name = node.args[0]
                assert isinstance(name, ast.Constant)
                made.add(str(name.value))
    rows = re.findall(r"^\| (`.*?) \| ", (ROOT / "docs" / "doctor.md").read_text(), re.MULTILINE)
    documented = {name for row in rows for name in re.findall("`([a-z-]+)`", row) if not name.startswith("-")}
    assert made == documented
    assert set(CHECKS) == made | {"answers", "hooked"}  # which are never but right


@pytest.mark.parametrize(
    ("values", "checks"),
    [
        ({"rules": {"x": USERS}, "limits": []}, []),
        ({"rules": {"x": USERS}, "limits": [], "limit_by_sasl": False, "limit_by_ip": True}, []),
        ({"rules": {"x": USERS}, "limit_by_ip": True}, ["limited-networks"]),
        ({"rules": {"x": {**USERS, "limits": []}}, "limits": []}, ["no-limits"]),
        ({"rules": {"x": {**USERS, "limits": [], "overrides": {"a": []}}}, "limits": []}, ["no-limits"]),
        ({"rules": {"x": {**USERS, "limits": [], "overrides": {"a": "1/1h"}}}, "limits": []}, []),
        ({"rules": {"x": {**USERS, "shadow": True}}, "limits": []}, ["shadow"]),
        ({"rules": {"x": {**USERS, "shadow": True}}}, []),
        ({"rules": {"x": USERS}, "limits": [], "fail_action": "dunno"}, ["fail-action"]),
        ({"rules": {"x": {**USERS, "action": "hold"}}, "limits": [], "fail_action": "dunno"}, []),
    ],
)
def test_rules_are_settings_that_limit_somebody(values: dict[str, Any], checks: list[str]) -> None:
    assert [finding.check for finding in settings.examine(Settings(**values))] == checks


@pytest.mark.parametrize(
    ("values", "is_so"),
    [
        ({}, True),
        ({"limit_by_sender": True}, False),
        ({"limit_by_sender": True, "limits": [], "rules": {"x": USERS}}, True),
        ({"limit_by_sender": True, "rules": {"x": USERS}}, False),
        ({"rules": {"x": USERS, "y": {**USERS, "key": "sender"}}}, False),
        ({"rules": {"x": {**USERS, "key": "sasl_domain+client_address"}}}, True),
        ({"rules": {"x": {**USERS, "key": "sasl_username|sasl_domain"}}}, True),
        ({"rules": {"x": {**USERS, "key": "sasl_username|sender"}}}, False),
    ],
)
def test_whether_users_alone_are_charged(values: dict[str, Any], is_so: bool) -> None:
    assert charges_others(Settings(**values)) is not is_so


@pytest.mark.parametrize(
    ("values", "are_charged"),
    [
        ({}, True),
        ({"limit_by_sasl": False}, False),
        ({"limits": [], "rules": {"x": {**USERS, "key": "sender"}}}, False),
        ({"limits": [], "rules": {"x": {**USERS, "key": "sender+sasl_domain"}}}, True),
        ({"limits": [], "rules": {"x": {**USERS, "key": "server"}}}, True),
    ],
)
def test_whether_users_are_charged(values: dict[str, Any], are_charged: bool) -> None:
    assert charges_users(Settings(**values)) is are_charged


POSTCONF = """\
#!/bin/sh
case "$*" in
*-M*) echo 'submission inet n - n - - smtpd -o smtpd_sasl_auth_enable=yes' ;;
*-P*) echo 'submission/inet/smtpd_sasl_auth_enable = yes' ;;
*) cat <<'END'
queue_directory = /var/spool/postfix
config_directory = /etc/postfix
smtpd_delay_reject = yes
smtpd_recipient_limit = 1000
smtpd_policy_service_timeout = 100s
smtpd_policy_service_max_idle = 300s
smtpd_policy_service_default_action = DUNNO
mail_version = 3.8.0
{main_cf}
END
esac
"""
ASKED = "check_policy_service unix:/run/x/policy"
OF_BYTES = {"key": "sasl_username", "count": "bytes", "limits": "1M/1d"}
OF_RECIPIENT = {"key": "recipient", "limits": "5/1h"}
AT_THE_END = "smtpd_end_of_data_restrictions"
AT_RCPT = "smtpd_recipient_restrictions"


def hooked(tmp_path: Path, main_cf: dict[str, str], **values: Any) -> list[tuple[str, str, str, str]]:
    """What is wrong with how a Postfix with ``main_cf`` asks: severity, check, what was found, what to write."""
    program = tmp_path / "postconf"
    lines = "\n".join(f"{name} = {value}" for name, value in main_cf.items())
    program.write_text(POSTCONF.replace("{main_cf}", lines))
    program.chmod(0o755)
    made = Settings(SOCKET="/run/x/policy", delay_to_close=300, **values)
    postfix = Postfix(program)
    found = asked.examine(postfix, made, Hooks(postfix, made))
    return [(one.severity, one.check, one.found, one.mend) for one in found if one.severity.is_wrong]


@pytest.mark.parametrize(
    ("lists", "rules", "wrong"),
    [
        ([AT_RCPT], {"x": USERS}, []),
        ([AT_RCPT, AT_THE_END], {"x": OF_BYTES, "y": OF_RECIPIENT}, []),
        (["smtpd_client_restrictions", AT_THE_END], {"y": OF_RECIPIENT}, []),
        ([AT_RCPT], {"u": USERS, "x": OF_BYTES}, [("error", "x", AT_THE_END)]),
        ([AT_RCPT], {"u": USERS, "x": {**OF_BYTES, "shadow": True}}, [("warning", "x", AT_THE_END)]),
        ([AT_THE_END], {"x": OF_BYTES, "y": OF_RECIPIENT}, [("error", "y", AT_RCPT)]),
        (["smtpd_data_restrictions"], {"u": USERS, "y": OF_RECIPIENT}, [("error", "y", AT_RCPT)]),
    ],
)
def test_rules_at_whose_stage_nobody_asks(
    tmp_path: Path, lists: list[str], rules: dict[str, Any], wrong: list[tuple[str, str, str]]
) -> None:
    found = hooked(tmp_path, dict.fromkeys(lists, ASKED), rules=rules, limits=[])
    found = [one for one in found if one[1] != "recipient-limit"]
    assert [(severity, check) for severity, check, _, _ in found] == [(one[0], "rule-not-asked") for one in wrong]
    for (_, _, what, mend), (_, name, parameter) in zip(found, wrong, strict=True):
        assert what.startswith(f"the rule {name} counts at ")
        assert mend == f"{parameter} = check_policy_service {{ unix:/run/x/policy, default_action=DUNNO }}"


def test_a_rule_that_the_line_for_others_does_not_mend_has_its_own(tmp_path: Path) -> None:
    rules = {"u": USERS, "x": OF_BYTES}
    found = hooked(tmp_path, {}, rules=rules, limits=[])
    assert [check for _, check, _, _ in found] == ["not-hooked", "rule-not-asked"]
    assert [mend.split()[0] for *_, mend in found] == ["smtpd_data_restrictions", AT_THE_END]
    assert [check for _, check, _, _ in hooked(tmp_path, {}, rules={"x": OF_BYTES}, limits=[])] == ["not-hooked"]


def test_a_stage_at_which_no_rule_counts(tmp_path: Path) -> None:
    ((severity, check, what, mend),) = hooked(tmp_path, {AT_RCPT: ASKED}, rules={"x": OF_BYTES}, limits=[])
    assert (severity, check, what) == ("error", "stage-not-counted", "asks at RCPT; rules count at END-OF-MESSAGE")
    assert mend.startswith(f"{AT_THE_END} = ")


def test_count_mode_is_of_the_rule_of_version_1_alone(tmp_path: Path) -> None:
    lists = {AT_RCPT: ASKED, "smtpd_sender_restrictions": ASKED}
    assert "asked-twice" in [check for _, check, _, _ in hooked(tmp_path, lists, count_mode=0)]
    assert hooked(tmp_path, lists, count_mode=0, limits=[], rules={"x": USERS}) == []


@pytest.mark.parametrize(
    ("rule", "is_told"),
    [
        (USERS, True),
        ({**USERS, "limits": "50/mail"}, False),
        ({**USERS, "count": "messages"}, False),
        ({**USERS, "shadow": True}, False),
        ({**USERS, "match": {"sender": ""}}, False),
    ],
)
def test_mails_that_no_rule_ever_admits(tmp_path: Path, rule: dict[str, Any], is_told: bool) -> None:
    found = hooked(tmp_path, {"smtpd_data_restrictions": ASKED}, limits=[], rules={"x": rule})
    assert [check for _, check, _, _ in found] == (["recipient-limit"] if is_told else [])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_file_of_countries(tmp_path: Path) -> None:
    path = tmp_path / "countries.mmdb"
    rules = {"x": {**USERS, "match": {"country": "DE"}}}
    asking = Settings(geoip=str(path), rules=rules, user="nobody", group="nogroup")
    now = BUILT + 90 * 86_400.0

    def found(of: Settings, now: float = now) -> list[tuple[str, str]]:
        return [(finding.severity, finding.found) for finding in countries.examine(of, now)]

    assert found(Settings(geoip=str(path))) == []  # nobody asks
    assert found(Settings(rules=rules)) == []  # of which loading tells
    expected = "geoip: expected a file of countries (MaxMind DB, .mmdb), since rules ask for country"
    (missing,) = found(asking)
    assert missing == ("error", f"{expected}, found one that cannot be read (No such file or directory): {path}")
    write_mmdb(path, {"192.0.2.0/24": "DE"})
    for directory in (tmp_path, *tmp_path.parents[:3]):
        directory.chmod(0o755)
    assert found(asking) == [("ok", "DBIP-Country-Lite (compat=Country) of 2026-09-21")]
    assert found(asking, now + 86_400) == [
        ("warning", f"{path} was built on 2026-09-21, 91 days ago: addresses have moved since")
    ]
    if os.geteuid() == 0:
        path.chmod(0o600)
        assert found(asking) == [("error", "the user nobody may not read it")]


def of_tables(values: dict[str, Any], *, is_database_there: bool = True) -> list[tuple[str, str]]:
    """What is found about the tables, for a daemon of the account nobody where root runs this, else of our own."""
    is_root = os.geteuid() == 0
    user = "nobody" if is_root else pwd.getpwuid(os.geteuid()).pw_name
    group = "nogroup" if is_root else grp.getgrgid(os.getegid()).gr_name
    found = tables.examine(Settings(user=user, group=group, **values), is_database_there=is_database_there)
    return [(finding.severity, finding.found) for finding in found]


def may_be_read(directory: Path) -> None:
    """Let everybody look into a directory of the tests."""
    for one in (directory, *directory.parents[:3]):
        one.chmod(0o755)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_tables_in_files(tmp_path: Path) -> None:
    may_be_read(tmp_path)
    campus = tmp_path / "campus"
    values = {
        "tables": {"campus": f"file:{campus}", "here": ["alice"]},
        "rules": {"x": {**USERS, "unless": {"client_address": "$campus"}}},
    }
    campus.write_text("192.0.2.0/24\n2001:db8::/32 ours\n")
    campus.chmod(0o644)
    assert of_tables(values) == [("ok", "tables.campus has 2 entries")]
    campus.write_text("somewhere\n" * 7 + "192.0.2.0/24\n")
    *lines, (severity, more) = of_tables(values)
    assert [(severity, text.partition(": expected ")[0]) for severity, text in lines] == [
        ("warning", f"tables.campus: {campus}:{number}") for number in range(1, 6)
    ]
    assert (severity, more) == ("warning", f"tables.campus: {campus}: 2 more wrong lines")
    if os.geteuid() == 0:
        campus.chmod(0o600)
        assert of_tables(values) == [("error", f"tables.campus cannot be read: {campus}: Permission denied")]
    campus.unlink()
    assert of_tables(values) == [("error", f"tables.campus cannot be read: {campus}: No such file or directory")]
    assert list(tables.examine(Settings(user="no-such-user", tables=values["tables"]), is_database_there=True)) == []


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_files_that_somebody_else_may_not_read_say_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, Any] = {"tables": {"staff": f"file:{tmp_path / 'staff'}"}}
    assert len(of_tables(values)) == 1
    found = Settings(user="root", group="root", **values)
    monkeypatch.setattr(os, "geteuid", lambda: 65_533)
    assert list(tables.examine(found, is_database_there=True)) == []


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_tables_in_a_database(tmp_path: Path) -> None:
    may_be_read(tmp_path)
    path = tmp_path / "db.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE plans (name TEXT, plan TEXT)")
    path.chmod(0o644)

    def of(query: str, *, is_database_there: bool = True) -> list[tuple[str, str]]:
        values = {"sqlite_config": {"database": str(path)}, "tables": {"plan": f"sql:{query}"}}
        return of_tables(values, is_database_there=is_database_there)

    query = "SELECT plan FROM plans WHERE name = ?"
    assert of(query) == [("ok", "tables.plan can be asked")]
    ((severity, text),) = of(query.replace("plans", "nowhere"))
    assert severity == "error"
    assert text.startswith("tables.plan fails: ")
    assert text.endswith("no such table: nowhere")
    assert of(query.replace("plans", "nowhere"), is_database_there=False) == []
    ((severity, text),) = of("SELECT hex(zeroblob(1000)) WHERE ? <> ''")
    assert (severity, text) == ("error", "tables.plan fails: expected at most 1000 characters, found 2000")
