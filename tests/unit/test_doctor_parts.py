"""What ``doctor`` makes of what it reads."""

from __future__ import annotations

import ast
import errno
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

import policyd_rate_limit.doctor
from policyd_rate_limit.backends.contract import least_difference
from policyd_rate_limit.config import Settings
from policyd_rate_limit.doctor import clock, settings
from policyd_rate_limit.doctor.child import run_as
from policyd_rate_limit.doctor.finding import CHECKS

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
    assert settings._charges_users_alone(Settings(**values)) is is_so
