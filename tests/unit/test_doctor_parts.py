"""What ``doctor`` makes of what it reads."""

from __future__ import annotations

import ast
import errno
import os
import re
import time
from pathlib import Path

import pytest

import policyd_rate_limit.doctor
from policyd_rate_limit.doctor import clock
from policyd_rate_limit.doctor.child import run_as
from policyd_rate_limit.doctor.database import least_difference
from policyd_rate_limit.doctor.finding import CHECKS
from policyd_rate_limit.postfix import restrictions
from policyd_rate_limit.postfix.endpoint import address, is_same
from policyd_rate_limit.postfix.names import RestrictionNames
from policyd_rate_limit.postfix.postconf import seconds

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("permit_mynetworks,reject", ["permit_mynetworks", "reject"]),
        ("  a ,b\tc\nd ", ["a", "b", "c", "d"]),
        ("check_policy_service { inet:x:1, {a = b, c} }, z", ["check_policy_service { inet:x:1, {a = b, c} }", "z"]),
        ("check_sender_access inline:{a=b, c=d} reject", ["check_sender_access inline:{a=b, c=d}", "reject"]),
        (
            "reject_rbl_client zen.example.org=127.0.0.2 permit",
            ["reject_rbl_client zen.example.org=127.0.0.2", "permit"],
        ),
        (
            "reject_rhsbl_sender x, permit_dnswl_client y, sleep 1",
            ["reject_rhsbl_sender x", "permit_dnswl_client y", "sleep 1"],
        ),
        ("warn_if_reject reject_unknown_client", ["warn_if_reject reject_unknown_client"]),
        ("PERMIT, reject_unverified_recipient", ["permit", "reject_unverified_recipient"]),
        ("check_client_access", ["check_client_access "]),
        ("outgoing, reject", ["permit_mynetworks", "check_policy_service unix:a", "reject"]),
        ("} a {b", ["}", "a", "{b"]),
    ],
)
def test_a_list_of_restrictions(text: str, expected: list[str]) -> None:
    classes = {"outgoing": "inner, check_policy_service unix:a", "inner": "permit_mynetworks"}
    assert [str(one) for one in restrictions.parse(text, classes)] == [one.strip() for one in expected]


@pytest.mark.parametrize(
    ("text", "stray", "options"),
    [
        ("unix:a, default_action=DUNNO, reject", ("default_action=DUNNO",), {"default_action": "DUNNO"}),
        (
            "unix:a { timeout = 9s } max_idle=3s",
            ("{ timeout = 9s }", "max_idle=3s"),
            {"timeout": "9s", "max_idle": "3s"},
        ),
        (
            "{ unix:a, timeout=9s } default_action=451 4.3.5 later reject",
            ("default_action=451", "4.3.5", "later"),
            {"timeout": "9s", "default_action": "451 4.3.5 later"},
        ),
        ("unix:a, default_acton=DUNNO", (), {}),
        ("unix:a hash:/etc/x default_action=DUNNO", (), {}),
        ("unix:a default_action=DUNNO outgoing", ("default_action=DUNNO",), {"default_action": "DUNNO"}),
    ],
)
def test_options_of_a_policy_service_outside_of_its_braces(
    text: str, stray: tuple[str, ...], options: dict[str, str]
) -> None:
    first, *_ = restrictions.parse(f"check_policy_service {text}", {"outgoing": "reject"}, expand=False)
    assert first.stray == stray
    assert restrictions.policy_service(first.argument, first.stray).options == options


def test_a_list_with_the_names_of_its_classes() -> None:
    found = restrictions.parse("reject_rbl_x, permit", {"reject_rbl_x": "reject"}, expand=False)
    assert [str(one) for one in found] == ["reject_rbl_x", "permit"]


class StubPostfix:
    """What a Postfix of some version says of itself."""

    def __init__(self, version: str, directory: Path) -> None:
        self._values = {"mail_version": version, "daemon_directory": str(directory)}

    def value(self, name: str) -> str:
        return self._values[name]


@pytest.mark.parametrize(
    ("version", "name", "known"),
    [
        ("3.7.11", "reject_unauth_destination", True),
        ("3.8.4", "reject_maps_rbl", True),
        ("3.9.0", "reject_maps_rbl", False),
        ("3.10.5", "permit_naked_ip_address", False),
        ("4.0-20300101", "check_relay_domains", False),
        ("3.10.5", "reject_newcomers", True),  # the program knows it
        ("3.10.5", "reject_newcomer", False),
        ("3.10.5", "default_action=dunno", False),
        ("3.10.5", "smtpd_sender_restrictions", False),
        ("unknown", "permit_mynetworks", True),
    ],
)
def test_whether_a_restriction_is_known(tmp_path: Path, version: str, name: str, known: bool) -> None:
    (tmp_path / "smtpd").write_bytes(b"\0smtpd_sender_restrictions\0xx_reject_newcomers\0default_action=dunno\0")
    names = RestrictionNames(StubPostfix(version, tmp_path))  # type: ignore[arg-type] # all that is asked of it
    assert names.knows(name) is known


def test_the_program_may_not_be_there(tmp_path: Path) -> None:
    names = RestrictionNames(StubPostfix("3.7.11", tmp_path))  # type: ignore[arg-type] # as above
    assert names.knows("permit_mynetworks")
    assert not names.knows("permit_newcomers")
    assert names.nearest("reject_unauth_destinaton") == "reject_unauth_destination"
    assert names.nearest("DUNNO") is None


def test_classes_that_hold_each_other_come_to_an_end() -> None:
    assert list(restrictions.parse("a", {"a": "b", "b": "a, permit"}))


@pytest.mark.parametrize(
    ("argument", "endpoint", "options"),
    [
        ("inet:127.0.0.1:10", "inet:127.0.0.1:10", {}),
        ("{ unix:a/b }", "unix:a/b", {}),
        ("{unix:a/b, timeout=10s}", "unix:a/b", {"timeout": "10s"}),
        (
            "{ inet:[::1]:10 { default_action = 451 4.3.5 Later, please } try_limit=1 }",
            "inet:[::1]:10",
            {"default_action": "451 4.3.5 Later, please", "try_limit": "1"},
        ),
        ("{ }", "", {}),
    ],
)
def test_a_policy_service(argument: str, endpoint: str, options: dict[str, str]) -> None:
    assert restrictions.policy_service(argument) == (endpoint, options)


QUEUE = Path("/var/spool/postfix")


@pytest.mark.parametrize(
    ("endpoint", "root", "expected"),
    [
        ("unix:ratelimit/policy", None, "/var/spool/postfix/ratelimit/policy"),
        ("unix:ratelimit/policy", QUEUE, "/var/spool/postfix/ratelimit/policy"),
        ("unix:/run/policy", None, "/run/policy"),
        ("unix:/run/policy", QUEUE, "/var/spool/postfix/run/policy"),
        ("inet:127.0.0.1:10", QUEUE, ("127.0.0.1", 10)),
        ("inet:[::1]:10", None, ("::1", 10)),
        ("inet:localhost:smtp", None, ("localhost", 25)),
        ("inet:localhost:no-such-service", None, None),
        ("inet:localhost", None, None),
        ("fifo:x", None, None),
    ],
)
def test_where_an_endpoint_leads(endpoint: str, root: Path | None, expected: object) -> None:
    assert address(endpoint, root, QUEUE) == expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("/run/policy", "/run/./policy", True),
        ("/run/policy", "/run/other", False),
        ("/run/policy", ("127.0.0.1", 10), False),
        (None, "/run/policy", False),
        (("127.0.0.1", 10), ("127.0.0.1", 10), True),
        (("127.0.0.1", 10), ("127.0.0.1", 11), False),
        (("localhost", 10), ("::1", 10), True),
        (("::1", 10), ("127.0.0.1", 10), False),
        (("0:0::1", 10), ("::1", 10), True),
        (("192.0.2.1", 10), ("0.0.0.0", 10), True),
        (("192.0.2.1", 10), ("192.0.2.2", 10), False),
    ],
)
def test_whether_two_addresses_are_one(
    one: str | tuple[str, int] | None, other: str | tuple[str, int], expected: bool
) -> None:
    assert is_same(one, other) is expected


@pytest.mark.parametrize(
    ("text", "expected"), [("100s", 100), ("5", 5), ("3m", 180), ("2h", 7200), ("1d", 86400), ("1w", 604800), ("", 0)]
)
def test_a_time_of_postfix(text: str, expected: float) -> None:
    assert seconds(text) == expected


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
