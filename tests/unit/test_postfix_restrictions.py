"""The lists of restrictions of main.cf, as smtpd reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyd_rate_limit.postfix import restrictions
from policyd_rate_limit.postfix.names import RestrictionNames
from policyd_rate_limit.postfix.postconf import seconds


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


@pytest.mark.parametrize(
    ("text", "expected"), [("100s", 100), ("5", 5), ("3m", 180), ("2h", 7200), ("1d", 86400), ("1w", 604800), ("", 0)]
)
def test_a_time_of_postfix(text: str, expected: float) -> None:
    assert seconds(text) == expected
