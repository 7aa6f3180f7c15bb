"""Who is an address, and what rules without ``notify`` cost."""

from __future__ import annotations

import pytest

from policyd_rate_limit.config import Settings
from policyd_rate_limit.domain.decision import REFUSED
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.notify.channel import make_channels_of_rules
from policyd_rate_limit.notify.rule_notifier import RuleNotifier, is_plain_address

LIMIT = Limit(10, 60)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alice@example.org", True),
        ("A.B+c=d@mx-1.Example.org", True),
        ("alice@localhost", True),
        ("alice", False),
        ("", False),
        ("@example.org", False),
        ("alice@", False),
        ("a@b@example.org", False),
        (".a@example.org", False),
        ("a..b@example.org", False),
        ("a@-x.example", False),
        ("a@example..org", False),
        ("a@[192.0.2.1]", False),
        ('"a b"@example.org', False),
        ("a@example.org, b@example.org", False),
        ("a@example.org\nBcc: b@example.org", False),
        ("a@example.org\n", False),
        ("a\udcff@example.org", False),
        ("ä@example.org", False),
        ("a" * 243 + "@example.org", False),
        ("a" * 242 + "@example.org", True),
    ],
)
def test_whom_a_mail_can_be_addressed_to(name: str, expected: bool) -> None:
    assert is_plain_address(name) == expected


def test_rules_that_tell_nobody_cost_nothing() -> None:
    settings = Settings(limits=[], rules={"x": {"key": "sender", "limits": "1/1h"}})
    assert make_channels_of_rules(settings) is None
    notifier = RuleNotifier("mail.test", lambda: 0.0, lambda _: frozenset())
    notifier.configure(settings, None)
    assert not notifier.exceeded("x|sender:a", LIMIT, REFUSED)
    notifier.stop()


def test_of_several_rules_those_that_say_so_tell() -> None:
    notify = {"key": "sender", "limits": "1/1h", "notify": "a@b.example"}
    settings = Settings(limits=[], rules={"x": notify, "y": {"key": "sender", "limits": "1/1h"}})
    notifier = RuleNotifier("mail.test", lambda: 0.0, lambda _: frozenset())
    notifier.configure(settings, make_channels_of_rules(settings))
    assert notifier.exceeded("x|sender:a", LIMIT, REFUSED)
    assert not notifier.exceeded("x|sender:a", LIMIT, REFUSED)
    assert notifier.exceeded("x/bytes|sender:a", LIMIT, REFUSED)
    assert not notifier.exceeded("y|sender:a", LIMIT, REFUSED)
    assert not notifier.exceeded("sender:a", LIMIT, REFUSED)
    notifier.stop()


def test_mistakes_in_what_mails_need_are_no_reason_not_to_start() -> None:
    settings = Settings(limits=[], rules={"x": {"key": "sender", "limits": "1/1h", "notify": "a@b.example"}})
    channels = make_channels_of_rules(settings.with_broken({"smtp_server": "smtp_server: no"}))
    assert channels is not None
    assert {type(channel).__name__ for channel in channels} == {"Broken"}
