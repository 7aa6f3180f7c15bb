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
