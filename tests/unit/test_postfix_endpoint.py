"""How main.cf names the daemon, and the lines that have it asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyd_rate_limit.domain.counting import stages
from policyd_rate_limit.postfix.endpoint import Address, address, endpoint, is_same
from policyd_rate_limit.postfix.lists import hooking

QUEUE = Path("/var/spool/postfix")


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("/var/spool/postfix/ratelimit/policy", "unix:ratelimit/policy"),
        ("/run/policy", "unix:/run/policy"),
        ("/var/spool/postfix-two/policy", "unix:/var/spool/postfix-two/policy"),
        (("127.0.0.1", 8552), "inet:127.0.0.1:8552"),
        (("localhost", 8552), "inet:localhost:8552"),
        (("::1", 8552), "inet:[::1]:8552"),
        (("0.0.0.0", 8552), "inet:127.0.0.1:8552"),
        (("::", 8552), "inet:[::1]:8552"),
        (("", 8552), "inet:127.0.0.1:8552"),
    ],
)
def test_how_main_cf_names_a_socket(where: Address, expected: str) -> None:
    assert endpoint(where, QUEUE) == expected
    assert is_same(address(expected, QUEUE, QUEUE), where) == (where != "/run/policy" and "two" not in str(where))
    assert is_same(address(expected, None, QUEUE), where)


@pytest.mark.parametrize(
    ("count_mode", "hooks"),
    [
        (None, ("smtpd_recipient_restrictions", "smtpd_data_restrictions", "smtpd_end_of_data_restrictions")),
        (0, ("smtpd_recipient_restrictions",)),
        (1, ("smtpd_data_restrictions",)),
        (2, ("smtpd_data_restrictions",)),
    ],
)
def test_the_line_of_main_cf(count_mode: int | None, hooks: tuple[str, ...]) -> None:
    line = hooking(stages(count_mode), "unix:ratelimit/policy")
    assert all(hook in line for hook in hooks)
    assert line.count("_restrictions") == len(hooks)
    assert "check_policy_service { unix:ratelimit/policy, default_action=DUNNO }" in line


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
