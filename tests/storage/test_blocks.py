"""What rules block: two daemons on one database, and an administrator beside them."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import pytest

from policyd_rate_limit.domain.limits import BLOCKED, Limit
from policyd_rate_limit.storage.administration import Administration, Override
from storage.installation import LogPlace, MariadbPlace, Place, PostgresqlPlace, RedisPlace, Running
from storage.logs import MariadbLogs, PostgresqlLogs
from storage.redis_stores import new_prefix
from storage.stores import Clock
from support.actors import TESTER
from support.ruled import NOON, policy_of, request

START = NOON + 0.5
UNTIL = int(NOON) + 1 + 3600
NOTE = "rule person: 2/1m exceeded"
FAIL, BLOCK = "450 later", "550 blocked"
RULES = """\
fail_action: 450 later
block_action: 550 blocked
rules:
  person: {key: sasl_username, limits: [2/1m, 5/mail], block: 1h}
  volume: {key: sasl_username, count: bytes, limits: 1M/1d}
  domain: {key: sasl_domain, limits: 100/1d}
  pair: {key: sasl_username+client_address, limits: 100/1d}
  client: {key: client_address, limits: 100/1d}
  held: {key: sasl_username, limits: 100/1d, action: hold}
"""
BLOCKED_COUNTERS = [
    "held|user:alice@example.org",
    "person|user:alice@example.org",
    "volume/bytes|user:alice@example.org",
]


@pytest.fixture(params=["sqlite", "postgresql", "mariadb", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Place]:
    clock = Clock(START)
    with contextlib.ExitStack() as ending:
        if request.param == "sqlite":
            yield LogPlace(tmp_path, clock)
        elif request.param == "postgresql":
            logs = ending.enter_context(contextlib.closing(PostgresqlLogs(tmp_path)))
            yield PostgresqlPlace(tmp_path, clock, logs.config)
        elif request.param == "mariadb":
            yield MariadbPlace(tmp_path, clock, ending.enter_context(contextlib.closing(MariadbLogs(tmp_path))).config)
        else:
            config = {"url": request.getfixturevalue("redis_url"), "prefix": new_prefix()}
            yield RedisPlace(tmp_path, clock, config)


class Installation:
    """Two daemons with :data:`RULES`, and an administrator."""

    def __init__(self, place: Place, rules: str = RULES) -> None:
        self.place = place
        self.one, self.other = (Running(place, policy_of(rules), 86_400) for _ in range(2))
        self.administration: Administration = place.administration(86_400)
        self._mails = 0

    def mails(self, daemon: Running, number: int, **attributes: str) -> list[str | None]:
        """What is answered to so many mails."""
        answers = []
        for _ in range(number):
            self._mails += 1
            answers.append(daemon.action(request(instance=f"{self._mails:x}.0", **attributes)))
        return answers

    def exceed(self, daemon: Running) -> None:
        assert self.mails(daemon, 3) == ["dunno", "dunno", FAIL]

    def close(self) -> None:
        self.administration.close()
        self.one.close()
        self.other.close()


@pytest.fixture
def installed(place: Place) -> Iterator[Installation]:
    with contextlib.closing(Installation(place)) as installation:
        yield installation


def overridden(installed: Installation) -> list[str]:
    return sorted(override.key for override in installed.administration.overrides())


def test_who_exceeds_a_rule_is_blocked_by_all_daemons(installed: Installation) -> None:
    one, other = installed.one, installed.other
    installed.exceed(one)
    assert one.blocked == [("person|user:alice@example.org", Limit(2, 60), 3600)]
    assert installed.mails(one, 2) == [BLOCK, BLOCK]  # before the database knows
    assert installed.mails(other, 1) == [FAIL]
    assert other.blocked == [("person|user:alice@example.org", Limit(2, 60), 3600)]  # which two may do at a time
    one.maintain()
    other.maintain()
    expected = [Override(counter, (BLOCKED,), UNTIL, NOTE) for counter in BLOCKED_COUNTERS]
    assert sorted(installed.administration.overrides()) == expected
    installed.place.clock.now += 600  # nothing is left of what was counted in that minute
    assert installed.mails(one, 1) + installed.mails(other, 1) == [BLOCK, BLOCK]
    # Nobody else, though all share her domain, and one her address.
    assert installed.mails(other, 1, sasl_username="bob@example.org") == ["dunno"]
    assert installed.mails(one, 1, sasl_username="", client_address="192.0.2.1") == ["dunno"]
    installed.place.clock.now = UNTIL - 0.5
    assert installed.mails(one, 1) == [BLOCK]
    installed.place.clock.now = UNTIL + 0.5
    assert installed.mails(other, 1) == ["dunno"]
    assert installed.administration.overrides() == []


def test_while_it_is_in_force_nothing_is_written_again(installed: Installation) -> None:
    installed.exceed(installed.one)
    installed.one.maintain()
    installed.other.maintain()
    before = installed.administration.overrides()
    installed.place.clock.now += 10
    for daemon in (installed.one, installed.other):
        assert set(installed.mails(daemon, 3)) == {BLOCK}
        daemon.maintain()
    assert installed.one.blocked == [("person|user:alice@example.org", Limit(2, 60), 3600)]
    assert installed.other.blocked == []
    assert installed.administration.overrides() == before


def test_whom_an_administrator_frees_is_free_until_a_limit_is_exceeded_again(installed: Installation) -> None:
    installed.exceed(installed.one)
    for daemon in (installed.one, installed.other):
        daemon.maintain()
    for key in BLOCKED_COUNTERS:
        assert installed.administration.remove_override(key, TESTER)
        installed.administration.reset(key, TESTER)
    for daemon in (installed.one, installed.other):
        daemon.maintain()
    assert installed.mails(installed.one, 1) + installed.mails(installed.other, 2) == ["dunno", "dunno", FAIL]
    installed.other.maintain()
    assert overridden(installed) == BLOCKED_COUNTERS


def test_an_administrator_has_decided(installed: Installation) -> None:
    """Whoever exceeds the limits that they were given by hand is not blocked."""
    allowed = Override("person|user:alice@example.org", (Limit(2, 60),), UNTIL + 7, "by hand")
    installed.administration.set_override(allowed, TESTER)
    installed.one.maintain()
    installed.exceed(installed.one)
    assert installed.one.blocked == []
    assert installed.mails(installed.one, 1) == [FAIL]
    installed.one.maintain()
    assert installed.administration.overrides() == [allowed]


def test_an_administrator_has_decided_and_the_daemon_does_not_know_yet(installed: Installation) -> None:
    """It learns of it as it wants to write."""
    person = "person|user:alice@example.org"
    allowed = Override(person, (Limit(2, 60),), UNTIL + 7, "by hand")
    installed.administration.set_override(allowed, TESTER)
    installed.exceed(installed.one)
    assert installed.mails(installed.one, 1) == [BLOCK]  # in the other rules
    installed.one.maintain()
    assert allowed in installed.administration.overrides()
    for key in BLOCKED_COUNTERS:
        if key != person:
            installed.administration.remove_override(key, TESTER)
    installed.one.maintain()
    installed.other.maintain()
    assert installed.mails(installed.one, 1) == [FAIL]
    installed.place.clock.now += 600
    assert installed.mails(installed.other, 1) == ["dunno"]


def test_one_mail_that_is_too_large_blocks_too(installed: Installation) -> None:
    alone = RULES.replace("[2/1m, 5/mail]", "5/mail")
    installed.one.govern(policy_of(alone), 86_400)
    answers = [
        installed.one.action(request(instance="a.0", recipient=f"bob{number}@example.net")) for number in range(6)
    ]
    assert answers == ["dunno"] * 5 + [FAIL]
    installed.one.maintain()
    assert {override.note for override in installed.administration.overrides()} == {"rule person: 5/mail exceeded"}


def test_of_a_combination_that_alone_is_blocked(installed: Installation) -> None:
    rules = """\
        rules:
          pair: {key: sasl_username+client_address, limits: 1/1m, block: 10m}
          person: {key: sasl_username, limits: 9/1m}
        """
    for daemon in (installed.one, installed.other):
        daemon.govern(policy_of(rules), 86_400)
    assert installed.mails(installed.one, 3)[0] == "dunno"
    installed.one.maintain()
    assert overridden(installed) == ["pair|user+client:alice@example.org+192.0.2.1"]
    installed.other.maintain()
    assert installed.mails(installed.other, 1, client_address="192.0.2.2") == ["dunno"]


def test_blocks_outlive_a_restart(installed: Installation) -> None:
    """Also of who is blocked in the last second of the daemon."""
    installed.exceed(installed.one)
    installed.one.close()
    installed.one = Running(installed.place, policy_of(RULES), 86_400)
    assert installed.mails(installed.one, 1) == [BLOCK]


def test_a_reload_forgets_no_block(installed: Installation) -> None:
    installed.exceed(installed.one)
    installed.one.govern(policy_of(RULES.replace("block: 1h", "block: 2h")), 86_400)
    assert installed.mails(installed.one, 1) == [BLOCK]
